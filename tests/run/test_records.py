"""What was recorded up to a checkpoint is on the disk before the checkpoint is, and what is missing later is said."""

import os
from pathlib import Path

import pytest
from rich.console import Console

from isogloss.recipe import load_recipe
from isogloss.run.train import train
from isogloss.train.display import Display


def run(recipe: Path, *overrides: str) -> str:
    console = Console(record=True, width=400, file=(recipe.parent / "out").open("w"))
    train(load_recipe(str(recipe), ["watch.sample_every=4", *overrides]), Display(console))
    return console.export_text()


@pytest.mark.parametrize("asynchronous", ["true", "false"])
def test_records_are_synced_before_each_checkpoint_is_published(tiny: Path, monkeypatch, asynchronous: str) -> None:
    fsync, rename = os.fsync, Path.rename
    file = tiny.parent / "runs/tiny/metrics.jsonl"
    synced: dict[int, int] = {}
    published: list[int] = []

    def record_fsync(handle: int) -> None:
        fsync(handle)
        synced[os.fstat(handle).st_ino] = os.fstat(handle).st_size

    def check_rename(self: Path, target: Path) -> Path:
        if Path(target).name.startswith("step-"):
            step = int(Path(target).name.removeprefix("step-"))
            surviving = file.read_bytes()[: synced[file.stat().st_ino]]  # of a power cut
            assert f'"step": {step}, "kind": "train"'.encode() in surviving
            published.append(step)
        return rename(self, target)

    monkeypatch.setattr(os, "fsync", record_fsync)
    monkeypatch.setattr(Path, "rename", check_rename)
    run(tiny, f"checkpoint.asynchronous={asynchronous}")
    assert published == [3, 6, 9, 10]
    assert synced[file.stat().st_ino] == file.stat().st_size  # the last ones too, before the summary


def test_a_resume_says_how_many_records_are_lost(tiny: Path) -> None:
    text = run(tiny)
    assert "records" not in text
    file = tiny.parent / "runs/tiny/metrics.jsonl"
    whole = file.read_text().splitlines(keepends=True)
    saved_last = [line for line in whole if '"train"' in line][-1]
    n_records = whole.index(saved_last) + 1
    file.write_text("".join(whole[:4]) + '{"step": 9, "ki')
    text = run(tiny, "train.steps=12")
    assert f"metrics.jsonl has 4 of the {n_records} records up to step 10" in text
    assert "records up to" not in run(tiny, "train.steps=14"), "said once"
    file.unlink()
    assert "has 0 of the" in run(tiny, "train.steps=16")


@pytest.mark.parametrize("damage", ["removed", "unreadable"])
def test_records_after_the_checkpoint_do_not_stand_in_for_lost_ones(tiny: Path, damage: str) -> None:
    """At its end a run validates and samples after it has saved: more records of the same step."""
    run(tiny)
    file = tiny.parent / "runs/tiny/metrics.jsonl"
    whole = file.read_text().splitlines(keepends=True)
    n_records = next(i for i, line in enumerate(whole) if '"step": 10, "kind": "train"' in line) + 1
    assert len(whole) > n_records, "the case that hid it"
    file.write_text("".join([whole[0], *(["\0" * 80 + "\n"] if damage == "unreadable" else []), *whole[2:]]))
    assert f"has {n_records - 1} of the {n_records} records up to step 10" in run(tiny, "train.steps=12")
    assert "records up to" not in run(tiny, "train.steps=14"), "said once"
