"""``isogloss data``: results, and one clear message with exit code 2 for what can be mended."""

import functools
import gzip
import io
import json
import os
import signal
import sys
from pathlib import Path

import pytest
from rich.console import Console

from isogloss.cli.bar import Bar
from isogloss.data.prepare import pipeline
from isogloss.data.prepare.progress import Lines, Watch


@pytest.fixture
def isogloss(call, monkeypatch, tmp_path):
    """Run a verb of ``isogloss data`` in a folder that has texts/; gives exit code, output and errors."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "texts").mkdir()
    (tmp_path / "dangling.txt").symlink_to("gone.txt")
    for number in range(40):
        (tmp_path / f"texts/{number}.txt").write_text(f"document number {number}\n" * (number % 3 + 1))

    return functools.partial(call, "data")


def test_prepare_and_look(isogloss) -> None:
    code, output, errors = isogloss("prepare", "texts", "--tokenizer", "bytes", "validation_bytes=80")
    assert code == 0, errors
    assert "40 files" in output
    manifest = json.loads(isogloss("inspect", "prepared", "--json")[1])
    assert manifest["corpus"]["validation_bytes"] == 80
    stats = json.loads(isogloss("stats", "prepared", "--json")[1])
    assert stats["train"]["n_documents"] + stats["validation"]["n_documents"] == 40
    assert "most frequent" in isogloss("stats", "prepared")[1]
    assert isogloss("peek", "prepared", "--document", "3")[1].startswith("--- document 3: whole of")
    row = isogloss("peek", "prepared", "--row", "1", "--seq-len", "64", "--split", "train")[1]
    assert "--- document" in row
    assert "document number" in row


def test_verifying_finds_what_a_start_cannot_see(isogloss, tmp_path: Path) -> None:
    assert isogloss("prepare", "texts", "--tokenizer", "bytes", "validation_bytes=80")[0] == 0
    assert isogloss("stats", "prepared", "--seq-len", "64")[0] == 0  # makes the two tables of rows
    assert "files, and 2 row tables as when they were made" in isogloss("inspect", "prepared", "--verify")[1]
    for name in ("train-00000.bin", "rows/train-best_fit-64/start.bin"):
        (path,) = (tmp_path / "prepared").glob(f"*/{name}")
        status, whole = path.stat(), path.read_bytes()
        for data in (bytes([whole[0] ^ 1, *whole[1:]]), whole):
            path.write_bytes(data)
            os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
            assert isogloss("inspect", "prepared")[0] == 0
            code, _, errors = isogloss("inspect", "prepared", "--verify")
            assert (code, f"{path.name}: damaged" in errors) == ((0, False) if data == whole else (2, True)), errors


def test_standard_input(isogloss, monkeypatch) -> None:
    lines = "".join(json.dumps({"body": f"text number {n}"}) + "\n" for n in range(100))
    for format_, data in (("jsonl", lines.encode()), ("jsonl.gz", gzip.compress(lines.encode()))):
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data)))
        words = ("--format", format_, "--text-field", "body", "--tokenizer", "bpe:260", "validation_bytes=50")
        code, output, errors = isogloss("prepare", "-", *words)
        assert code == 0, errors
        assert "bpe, 260 tokens" in output


def test_options_reach_the_config(isogloss, tmp_path: Path) -> None:
    (tmp_path / "bad.jsonl").write_text("no JSON\n")
    options = ("--validation", "texts", "--max-bad", "1", "--prepared-dir", "elsewhere", "--workers", "0")
    (tmp_path / "more.txt").write_text("another document")
    code, output, errors = isogloss("prepare", "more.txt", "bad.jsonl", *options, "--tokenizer", "bytes")
    assert code == 0, errors
    assert "bad records   1, listed in elsewhere/" in output
    assert "train         1 document, " in output


@pytest.mark.parametrize("name", ["lang=en.jsonl", "lang=en/a.jsonl", "two\nlines \U0001f600 'é\" #: {.jsonl"])
def test_a_path_may_have_any_name(isogloss, tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.parent.mkdir(exist_ok=True)
    path.write_text("".join(json.dumps({"7": f"text number {n}"}) + "\n" for n in range(40)))
    words = ("--tokenizer", "bytes", "--text-field", "7", "--prepared-dir", "null")  # no YAML: text, as it was given
    code, _, errors = isogloss("prepare", name, *words, "validation_bytes=50")
    assert (code, errors) == (0, "")
    manifest = json.loads(isogloss("inspect", "null", "--json")[1])
    assert [entry["name"] for entry in manifest["inputs"]] == [path.name]
    assert manifest["train"]["n_documents"] + manifest["validation"]["n_documents"] == 40


def test_a_name_that_is_no_utf_8_is_read_in_its_folder_and_refused_alone(isogloss, tmp_path: Path) -> None:
    path = tmp_path / "odd" / os.fsdecode(b"a\xff.jsonl")
    path.parent.mkdir()
    try:
        path.write_text("".join(json.dumps({"text": f"text number {n}"}) + "\n" for n in range(40)))
    except OSError:
        pytest.skip("this disk has UTF-8 names only")
    code, _, errors = isogloss("prepare", path, "--tokenizer", "bytes")
    assert code == 2
    assert errors.count("\n") == 1
    assert "a\\udcff.jsonl: a name that is not UTF-8" in errors
    code, _, errors = isogloss("prepare", path.parent, "--tokenizer", "bytes", "validation_bytes=50")
    assert (code, errors) == (0, "")


@pytest.mark.parametrize(("number", "expected"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_stopped_it_says_how_to_go_on(isogloss, monkeypatch, number: int, expected: int) -> None:
    scan = pipeline.scan_unit
    monkeypatch.setattr(pipeline, "scan_unit", lambda task: os.kill(os.getpid(), number))
    before = signal.getsignal(number)
    code, _, errors = isogloss("prepare", "texts", "--tokenizer", "bytes", "validation_bytes=80")
    assert code == expected
    assert "stopped: the same command goes on" in errors
    assert "Traceback" not in errors
    assert signal.getsignal(number) == before
    monkeypatch.setattr(pipeline, "scan_unit", scan)
    assert isogloss("prepare", "texts", "--tokenizer", "bytes", "validation_bytes=80")[0] == 0


def test_what_packing_costs(isogloss) -> None:
    isogloss("prepare", "texts", "--tokenizer", "bytes", "validation_bytes=80")
    costs = json.loads(isogloss("stats", "prepared", "--seq-len", "50", "--json")[1])["packing"]
    assert set(costs) == {"concatenate", "best_fit", "document"}
    n_documents = json.loads(isogloss("stats", "prepared", "--json")[1])["train"]["n_documents"]
    assert {cost["n_documents"] for cost in costs.values()} == {n_documents}
    assert costs["document"]["n_rows"] > costs["best_fit"]["n_rows"] >= costs["concatenate"]["n_rows"]
    assert costs["concatenate"]["n_cut"] > costs["best_fit"]["n_cut"] == costs["document"]["n_cut"] > 0
    table = isogloss("stats", "prepared", "--seq-len", "50")[1]
    assert "train in rows of 50 tokens" in table
    assert f"{costs['best_fit']['n_rows']:,}" in table


def test_a_recipe_is_prepared_as_it_would_be_for_training(isogloss, tiny: Path) -> None:
    code, _, errors = isogloss("prepare", tiny, "data.validation_bytes=300", "--tokenizer", "bpe:258")
    assert code == 0, errors
    manifest = json.loads(isogloss("inspect", tiny.parent / "prepared", "--json")[1])
    assert (manifest["corpus"]["validation_bytes"], manifest["n_tokens"]) == (300, 258)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["prepare", "nope"], "there is no such file"),
        (["prepare", "dangling.txt"], "a link to gone.txt, which does not exist"),
        (["prepare", "texts", "--tokenizer", "nope"], "write bytes, bpe:SIZE"),
        (["prepare", "texts", "validation_byts=3"], "validation_byts"),
        (["prepare", "-", "--format", "doc"], "choose one of txt, jsonl"),
        (["inspect", "texts"], "no prepared corpus"),
        (["peek", "texts"], "no prepared corpus"),
        (["peek", "texts", "--split", "test"], "there are train and validation"),
        (["peek", "texts", "--row", "1", "--document", "1"], "not both"),
    ],
)
def test_what_can_be_mended_is_said(isogloss, words: list[str], message: str) -> None:
    code, _, errors = isogloss(*words)
    assert code == 2, errors
    assert "Traceback" not in errors
    assert message in errors


def test_progress_is_told_in_lines_with_rate_and_time_left(monkeypatch) -> None:
    clock = iter([0.0, 5.0, 10.0, 11.0])
    monkeypatch.setattr("isogloss.data.prepare.progress.time.monotonic", lambda: next(clock))
    told: list[str] = []
    lines = Lines(told.append)
    lines.begin("reading", 100_000_000, 20_000_000)
    for n_bytes in (10_000_000, 10_000_000, 10_000_000):
        lines.advance(n_bytes)
    lines.end()
    assert told == ["reading: 20 of 100 MB were done before", "reading: 40 of 100 MB, 2.0 MB/s, 30 s left"]


def test_a_terminal_gets_a_bar() -> None:
    screen = io.StringIO()
    bar = Bar(Console(file=screen, force_terminal=True, width=100))
    assert isinstance(bar, Watch)
    bar.begin("tokenising", 1000, 100)
    bar.advance(400)
    bar.end()
    assert "tokenising" in screen.getvalue()
    assert "/1.0 kB" in screen.getvalue()
