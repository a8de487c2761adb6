"""A user's second day: train, change a rate, copy, rename, extend, resume, evaluate a messy folder of one's own.

Every surprise is a sentence. The behaviours are tested by themselves where they are made; here they follow each other.
"""

import json
import re
import shutil
from pathlib import Path

from isogloss.run import finish


def test_a_second_day(tiny: Path, call, monkeypatch) -> None:
    monkeypatch.setattr(finish, "plot_loss", lambda *_words, **_settings: None)  # tests/report has it
    runs = tiny.parent / "runs"
    quick = (
        tiny.read_text()
        .replace("sample_tokens: 8", "sample_tokens: 0")
        .replace("validate_every: 4", "validate_every: 99")
    )
    tiny.write_text(quick.replace("n_layers: 2", "n_layers: 1").replace("every: 3", "every: 10"))

    def day(expected: int, *words: str | Path) -> str:
        """Run a line; gives all that it prints."""
        code, out, err = call(*words)
        assert code == expected, out + err
        assert "Traceback" not in out + err
        return " ".join(f"{err}{out}".split())

    def steps(run: str) -> list[int]:
        records = map(json.loads, (runs / run / "metrics.jsonl").read_text().splitlines())
        return [record["step"] for record in records if record["kind"] == "train"]

    def kept(run: str) -> dict[str, bytes]:
        return {str(path): path.read_bytes() for path in sorted((runs / run).rglob("*")) if path.is_file()}

    first = day(0, "train", tiny)
    assert re.search(r"warning: only \d+ bytes of text validate", first)
    before, whole = kept("tiny"), bits_a_byte(runs / "tiny")

    # Another rate is another run: not these results.
    refused = day(2, "train", tiny, "optim.lr=1e-3")
    assert "runs/tiny has finished its 10 steps with other settings (optim.lr: 0.01 -> 0.001)" in refused
    assert all(way in refused for way in ("name=", "--fresh", "train.steps above 10"))
    assert "bits per byte" not in refused
    assert "tiny has finished its 10 steps" in day(0, "train", tiny)
    swept = day(0, "train", tiny, "optim.lr=1e-3", "name=slow")
    assert rates(runs / "slow")[2] == rates(runs / "tiny")[2] / 10
    assert bits_a_byte(runs / "slow") != whole
    assert "results of slow" in swept

    # Text that came after it has finished is not in its results.
    (tiny.parent / "corpus/later.txt").write_text("print self in range")
    assert "its text is not looked at again" in day(0, "train", tiny)
    (tiny.parent / "corpus/later.txt").unlink()

    # A copy trains in its own place; more steps stretch its schedule, with a sentence.
    shutil.copytree(runs / "tiny", runs / "copy")
    assert "not used" not in day(0, "train", runs / "copy")
    said = day(0, "train", runs / "copy", "train.steps=14")
    assert "train.steps: 10 -> 14" in said
    assert "resuming after step 10" in said
    jumped = "the learning rate was {:.2e} at step 10 and is {:.2e} at step 11".format(*rates(runs / "copy")[9:11])
    assert jumped in said
    assert "optim.schedule.steps=10" in said
    assert steps("copy") == list(range(1, 15))
    assert kept("tiny") == before

    # A renamed run goes on under its new name, and a schedule that is kept is not said to be stretched.
    (runs / "tiny").rename(runs / "renamed")
    said = day(0, "train", runs / "renamed", "train.steps=13", "optim.schedule.steps=10")
    assert "resuming after step 10" in said
    assert "results of renamed" in said
    assert "the learning rate was" not in said
    assert rates(runs / "renamed")[9:] == [rates(runs / "renamed")[9]] * 4
    assert not (runs / "tiny").exists()

    # A run that was stopped goes on where it stopped, and ends as one that was not.
    day(75, "train", tiny, "name=stopped", "train.max_minutes=1e-6")
    stopped_at = steps("stopped")[-1]
    assert stopped_at < 10
    assert f"resuming after step {stopped_at}" in day(0, "train", tiny, "name=stopped")
    assert steps("stopped") == list(range(1, 11))
    assert bits_a_byte(runs / "stopped") == whole

    # A folder of one's own is read as text to train on is: what is left out is counted, and changes nothing.
    messy, clean = tiny.parent / "messy", tiny.parent / "clean.jsonl"
    (messy / "notes").mkdir(parents=True)
    (messy / "lines.jsonl").write_text('{"text": "def f(x): return x"}\n' + '{"text": ""}\n' * 9)
    (messy / "list.json").write_text(json.dumps([{"text": "for self in range"}]))
    (messy / "notes/a.md").write_text("print self\n")
    (messy / ".hidden.txt").write_text("not for reading\n")
    (messy / "gone.txt").symlink_to("nowhere")
    clean.write_text('{"text": "def f(x): return x"}\n{"text": "for self in range"}\n')
    said = day(0, "eval", runs / "stopped", messy)
    assert "left out: 9 empty" in said
    assert all(reason in said for reason in ("1 dangling link", "1 hidden", "1 with the ending .md")), said
    figures = [json.loads(call("eval", runs / "stopped", path, "--json")[1]) for path in (messy, clean)]
    assert figures[0]["bits_per_byte"] == figures[1]["bits_per_byte"]
    (messy / "bad.jsonl").write_text('{"text": \n')
    assert re.search(r"bad\.jsonl:1: not JSON.*max_bad", day(2, "eval", runs / "stopped", messy))


def rates(run: Path) -> list[float]:
    """Of every step."""
    records = map(json.loads, (run / "metrics.jsonl").read_text().splitlines())
    return [record["lr"] for record in records if record["kind"] == "train"]


def bits_a_byte(run: Path) -> float:
    return json.loads((run / "summary.json").read_text())["validation"]["bits_per_byte"]
