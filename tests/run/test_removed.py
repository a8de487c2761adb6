"""A run whose folder, lock or metrics are removed while it runs says so and mends them; nothing of it is lost."""

import errno
import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

import isogloss.run.steps as module
from isogloss.config.base import UserError
from isogloss.recipe import load_recipe
from isogloss.run.folder import RunFolder
from isogloss.run.train import train
from isogloss.train.display import Display
from isogloss.train.metrics import Metrics, read_metrics


def run_with(recipe: Path, monkeypatch, at: int, meddle: Callable[[Path], object], *overrides: str) -> str:
    """Train, and do something to the folder after a step; what was said."""
    original = module.mend_folder

    def meddled(session, metrics, display) -> bool:
        if session.progress.step == at:
            meddle(session.folder.path)
        return original(session, metrics, display)

    monkeypatch.setattr(module, "mend_folder", meddled)
    console = Console(record=True, width=1000, file=(recipe.parent / "log").open("w"))
    train(load_recipe(str(recipe), overrides), Display(console))
    return console.export_text()


def test_a_folder_that_is_removed_is_made_again_with_a_checkpoint(tiny: Path, monkeypatch) -> None:
    said = run_with(tiny, monkeypatch, 4, shutil.rmtree, "train.steps=5", "checkpoint.every=100")
    folder = tiny.parent / "runs/tiny"
    assert f"{folder}, or its lock, was removed or renamed" in said
    assert f"{folder / 'metrics.jsonl'} was removed" in said
    steps = [record["step"] for record in read_metrics(folder / "metrics.jsonl") if record["kind"] == "train"]
    assert steps == [1, 2, 3, 4, 5]
    assert {path.name for path in (folder / "checkpoints").iterdir()} == {"step-0000000004", "step-0000000005"}
    assert RunFolder(folder).saved_recipe() is not None
    assert RunFolder(folder).saved_machine() is not None
    assert RunFolder(folder).summary() is not None
    assert (folder / "tokenizer/tokenizer.json").is_file()


def test_the_checkpoint_follows_the_first_step_that_is_finite(tiny: Path, monkeypatch) -> None:
    original = module.training_steps

    def steps(*arguments):
        for info in original(*arguments):
            yield replace(info, nonfinite="the loss" if info.step == 3 else "")

    monkeypatch.setattr(module, "training_steps", steps)
    run_with(tiny, monkeypatch, 3, shutil.rmtree, "train.steps=6", "checkpoint.every=100")
    saved = {path.name for path in (tiny.parent / "runs/tiny/checkpoints").iterdir()}
    assert saved == {"step-0000000004", "step-0000000006"}


@pytest.mark.parametrize(("name", "says"), [("lock", "or its lock, was removed"), ("metrics.jsonl", "written again")])
def test_a_file_that_is_removed_is_made_again(tiny: Path, monkeypatch, name: str, says: str) -> None:
    said = run_with(tiny, monkeypatch, 2, lambda folder: (folder / name).unlink(), "train.steps=3")
    assert says in said
    assert (tiny.parent / "runs/tiny" / name).exists()
    records = read_metrics(tiny.parent / "runs/tiny/metrics.jsonl")
    assert [r["step"] for r in records if r["kind"] == "train"] == [1, 2, 3]


def test_what_stays_is_not_spoken_of(tiny: Path, monkeypatch) -> None:
    assert "removed" not in run_with(tiny, monkeypatch, 2, lambda folder: None, "train.steps=3")


def test_a_folder_that_another_process_has_taken_meanwhile_ends_the_run(tmp_path: Path) -> None:
    first, second = RunFolder(tmp_path / "run"), RunFolder(tmp_path / "run")
    with first.locked():
        assert not first.retake()
        (first.path / "lock").unlink()
        with second.locked():
            (first.path / "holder.json").write_text(json.dumps({"pid": 1, "host": "elsewhere"}))
            with pytest.raises(UserError, match="in use by process 1 on elsewhere"):
                first.retake()


def test_metrics_that_were_replaced_are_written_whole(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    with Metrics(path, 0) as metrics:
        metrics.write("train", 1, loss=1.0, tokens=1)
        assert not metrics.reopen()
        path.unlink()
        path.write_text("other")
        assert metrics.reopen()
        metrics.write("train", 2, loss=1.0, tokens=2)
    assert [record["step"] for record in read_metrics(path)] == [1, 2]


@pytest.mark.parametrize(
    "line",
    [
        '{"step": true, "kind": "train", "loss": 1.0, "tokens": 1}',
        '{"step": -7, "kind": "train", "loss": 1.0, "tokens": 1}',
        '{"step": 1, "kind": "other", "prompt": []}',
        '{"step": 1, "kind": "rewind", "number": {}}',
        "5",
        '{"step": 2, "loss": 1.0}',
        '{"step": 2, "kind": "train", "loss": "low", "tokens": 1}',
        '{"step": 2, "kind": "train", "loss": NaN, "tokens": 1}',
        '{"step": 2, "kind": "train"}',
        '{"step": 2, "kind": "sample", "prompt": ""}',
        '{"step": 2, "kind": ' + "[" * 100_000,
        '{"step": ' + "2" * 5000 + ', "kind": "train", "loss": 1.0}',
        '[{"step": 2}]',
    ],
    ids=lambda line: line[:40],
)
def test_a_line_that_is_no_record_is_passed_over(tmp_path: Path, line: str) -> None:
    good = {"step": 1, "kind": "train", "loss": 1.0, "tokens": 5}
    (tmp_path / "metrics.jsonl").write_text(f"{line}\n{json.dumps(good)}\n")
    assert read_metrics(tmp_path / "metrics.jsonl") == [good]


def test_what_failed_first_is_said_on_a_disk_that_can_no_longer_be_written(tmp_path: Path, monkeypatch) -> None:
    original = Path.unlink

    def unlink(path: Path, missing_ok: bool = False) -> None:
        if path.name == "holder.json":
            raise OSError(errno.EROFS, "read-only")
        original(path, missing_ok)

    monkeypatch.setattr(Path, "unlink", unlink)
    with pytest.raises(ZeroDivisionError), RunFolder(tmp_path / "run").locked():
        raise ZeroDivisionError

    class Broken:
        def log(self, step: int, values: dict[str, float]) -> None: ...

        def close(self, failed: bool) -> None:
            raise RuntimeError

    with pytest.raises(ZeroDivisionError), Metrics(tmp_path / "metrics.jsonl", 0, [Broken()]):
        raise ZeroDivisionError
    with pytest.raises(RuntimeError), Metrics(tmp_path / "metrics.jsonl", 0, [Broken()]):
        pass
