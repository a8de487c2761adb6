"""A user's second day: train, change a rate, copy, rename, extend, resume, evaluate a messy folder of one's own.

Every surprise is a sentence. The behaviours are tested by themselves where they are made; here they follow each other.
"""

import json
import shutil
from pathlib import Path

import pytest

QUIET = ("watch.sample_tokens=0", "watch.validate_every=100", "checkpoint.every=10")


@pytest.fixture
def day(tiny: Path, call):
    """Run a line in the folder of a finished tiny run; gives its exit code and all that it prints."""
    run = lambda *words: (lambda code, out, err: (code, out + err))(*call(*words))  # noqa: E731
    code, said = run("train", tiny, *QUIET)
    assert code == 0, said
    return run


def step_of(run: Path) -> int:
    return json.loads((run / "summary.json").read_text())["steps"]


def test_a_finished_run_with_another_rate_is_refused(day, tiny: Path) -> None:
    code, said = day("train", tiny, *QUIET, "optim.lr=1e-3")
    assert code == 2
    assert "optim.lr: 0.01 -> 0.001" in said
    assert all(way in said for way in ("name=", "--fresh", "train.steps"))


def test_a_copied_folder_is_a_run_of_its_own(day, tiny: Path) -> None:
    runs = tiny.parent / "runs"
    shutil.copytree(runs / "tiny", runs / "copy")
    before = (runs / "tiny/metrics.jsonl").read_bytes()
    code, said = day("train", runs / "copy", "train.steps=14")
    assert code == 0, said
    assert (step_of(runs / "copy"), step_of(runs / "tiny")) == (14, 10)
    assert (runs / "tiny/metrics.jsonl").read_bytes() == before


def test_a_renamed_folder_goes_on_under_its_new_name(day, tiny: Path) -> None:
    runs = tiny.parent / "runs"
    (runs / "tiny").rename(runs / "renamed")
    code, said = day("train", runs / "renamed", "train.steps=14")
    assert code == 0, said
    assert "resuming after step 10" in said
    assert step_of(runs / "renamed") == 14
    assert not (runs / "tiny").exists()


def test_more_steps_stretch_the_schedule_and_it_is_said(day, tiny: Path) -> None:
    code, said = day("train", tiny, *QUIET, "train.steps=20")
    assert code == 0, said
    assert "train.steps: 10 -> 20" in said
    assert "schedule" in said


def test_a_messy_folder_is_evaluated_and_what_is_left_out_is_counted(day, tiny: Path) -> None:
    messy = tiny.parent / "messy"
    messy.mkdir()
    (messy / "lines.jsonl").write_text('{"text": "def f(x): return x"}\n' + '{"text": ""}\n' * 9)
    (messy / "list.json").write_text(json.dumps([{"text": "for self in range"}]))
    (messy / "notes.md").write_text("print self\n")
    (messy / ".hidden.txt").write_text("not for reading\n")
    code, said = day("eval", tiny.parent / "runs/tiny", messy)
    assert code == 0, said
    assert "9 empty" in said
    clean = messy / "only.jsonl"
    clean.write_text('{"text": "def f(x): return x"}\n')
    first, second = (
        day("eval", tiny.parent / "runs/tiny", path, "--json")[1] for path in (messy / "lines.jsonl", clean)
    )
    assert bits_of(first) == bits_of(second)


def bits_of(text: str) -> float:
    """Of what ``eval --json`` printed."""
    return json.loads(text[text.index("{") : text.rindex("}") + 1])["bits_per_byte"]
