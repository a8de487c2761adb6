"""A folder as users have them, through ``data prepare``, ``train`` and ``eval``: what is read, and what is told."""

import functools
import io
import json
import sys
from pathlib import Path

import pytest
from rich.console import Console

from isogloss.data.prepared import find_prepared, open_prepared
from isogloss.recipe import load_recipe
from isogloss.run.train import train
from isogloss.train.display import Display


@pytest.fixture
def isogloss(call):
    return functools.partial(call)


@pytest.fixture(scope="module")
def run(tmp_path_factory, tiny_factory) -> Path:
    """A run of a step."""
    root = tmp_path_factory.mktemp("run")
    train(
        load_recipe(str(tiny_factory(root)), ["train.steps=1", "optim.schedule.warmup=0", "watch.sample_tokens=0"]),
        Display(Console()),
    )
    return root / "runs/tiny"


@pytest.fixture
def messy(tmp_path: Path) -> Path:
    folder = tmp_path / "messy"
    (folder / "sub").mkdir(parents=True)
    (folder / "lines.jsonl").write_text(
        "".join(json.dumps({"text": f"line {n}"}) + "\n" for n in range(9)) + '{"text": ""}\n' * 3
    )
    (folder / "array.json").write_text(json.dumps([{"text": f"item {n}"} for n in range(9)], indent=2))
    (folder / "table.csv").write_text('id,text\n1,a row\n2,"another, row"\n')
    (folder / "stories.txt").write_text("once\n<|endoftext|>\ntwice\n")
    (folder / "README.md").write_text("about")
    (folder / ".DS_Store").write_text("x")
    (folder / "sub/gone.txt").symlink_to("nowhere")
    return folder


def test_preparing_and_training_tell_what_is_not_read_and_what_is_odd(isogloss, messy: Path, tiny: Path) -> None:
    prepared = tiny.parent / "prepared"
    words = ("--tokenizer", "bytes", "--prepared-dir", prepared, "validation_bytes=20")
    code, output, errors = isogloss("data", "prepare", messy, *words)
    assert code == 0, errors
    changes = (f"data.train=[{messy}]", "data.validation_bytes=20", "train.steps=1", "optim.schedule.warmup=0")
    code, trained, errors = isogloss("train", tiny, *changes, "data.seq_len=8", "watch.sample_tokens=0")
    assert code == 0, errors
    for told in (output, trained):
        assert "not read: 3 files or folders: 1 dangling link" in told
        assert "1 hidden" in told
        assert f"1 with the ending .md ({messy / 'README.md'})" in told
        assert "left out: 3 empty" in told
        assert f"warning: 1 document with '<|endoftext|>' inside ({messy / 'stories.txt'}): data.separator=" in told
    manifest = open_prepared(find_prepared(prepared)).manifest
    assert manifest.train.n_documents + manifest.validation.n_documents == 9 + 9 + 2 + 1
    inspected = isogloss("data", "inspect", prepared)[1]
    assert "not read      1 dangling link" in inspected
    assert "warning: 1 document with '<|endoftext|>'" in inspected
    code, output, errors = isogloss("data", "prepare", messy / "stories.txt", *words, "separator='<|endoftext|>'")
    assert code == 2, output
    assert "too small to split" in errors  # two documents, which is too little to validate on
    output = isogloss("data", "prepare", messy, *words, "separator='<|endoftext|>'")[1]
    assert "inside" not in output
    manifest = open_prepared(find_prepared(prepared)).manifest
    assert manifest.train.n_documents + manifest.validation.n_documents == 9 + 9 + 2 + 2


def evaluated(isogloss, *words) -> tuple[dict, str]:
    code, output, errors = isogloss("eval", *words, "--json")
    assert code == 0, errors
    return json.loads(output), errors


def test_eval_leaves_out_what_preparing_does(isogloss, run: Path, tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"text": "some words"}\n')
    (tmp_path / "b.jsonl").write_text('{"text": "some words"}\n' + '{"text": ""}\n' * 99)
    one, _ = evaluated(isogloss, run, tmp_path / "a.jsonl")
    other, errors = evaluated(isogloss, run, tmp_path / "b.jsonl")
    assert other["bits_per_byte"] == one["bits_per_byte"]
    assert (other["n_documents"], other["left_out"]) == (1, {"empty": 99})
    assert "left out: 99 empty" in errors
    assert "documents       1, 99 empty left out" in isogloss("eval", run, tmp_path / "b.jsonl")[1]


def test_eval_puts_up_with_bad_records_up_to_a_limit(isogloss, run: Path, tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"text": "some words"}\nbroken\n{"text": 3}\n')
    code, _, errors = isogloss("eval", run, tmp_path / "a.jsonl", "--max-bad", "1")
    assert code == 2
    assert "a.jsonl:3" in errors
    found, errors = evaluated(isogloss, run, tmp_path / "a.jsonl", "--max-bad", "2")
    assert (found["n_documents"], found["left_out"]) == (1, {"bad records": 2})
    assert "a.jsonl:2: not JSON" in errors


@pytest.mark.parametrize(
    ("data", "options"),
    [
        (b"some words", []),
        (b'{"text": "some words"}\n', []),
        (b'[{"text": "some words"}]', []),
        (b"id,text\n1,some words\n", ["--format", "csv"]),
        (b'{"body": "some words"}\n', ["--format", "jsonl", "text_field=body"]),
        ("some words".encode("utf-16-le"), ["encoding=utf-16-le"]),
    ],
)
def test_eval_reads_standard_input(
    isogloss, run: Path, tmp_path: Path, monkeypatch, data: bytes, options: list[str]
) -> None:
    (tmp_path / "a.txt").write_text("some words")
    expected, _ = evaluated(isogloss, run, tmp_path / "a.txt")
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data)))
    found, _ = evaluated(isogloss, run, "-", *options)
    assert found["bits_per_byte"] == expected["bits_per_byte"]


def test_eval_tells_what_it_does_not_read(isogloss, run: Path, messy: Path) -> None:
    found, errors = evaluated(isogloss, run, messy)
    assert found["n_documents"] == 9 + 9 + 2 + 1
    assert "not read: 3 files or folders" in errors
    assert "<|endoftext|>" in errors
    code, _, errors = isogloss("eval", run, messy, "separater=x")
    assert code == 2
    assert "did you mean separator" in errors
