"""A spike of the loss: back to the checkpoint, past the data, and on, as if that data had never been there."""

import os
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console

from isogloss.config.base import UserError
from isogloss.data.loader import Loader
from isogloss.models.protocol import Batch
from isogloss.recipe import load_recipe
from isogloss.run.train import train
from isogloss.run.watch import Watch
from isogloss.train.display import Display
from isogloss.train.metrics import read_metrics
from isogloss.train.signals import Interrupted

GUARDED = "train.spike={window: 8, deviations: 8.0, max_rewinds: 2}"
SETTINGS = ["train.steps=30", "checkpoint.every=10", "watch.validate_every=100", "watch.sample_every=100"]
POISONED = 25  # the batch of step 26


class Killed(BaseException):
    """Stands for a process that dies."""


def run(recipe: Path, name: str, *overrides: str) -> str:
    console = Console(record=True, width=120, file=(recipe.parent / "out").open("w"))
    train(load_recipe(str(recipe), [f"name={name}", *SETTINGS, *overrides]), Display(console))
    return console.export_text()


def final(recipe: Path, name: str) -> dict[str, Any]:
    folder = recipe.parent / "runs" / name
    newest = max((folder / "checkpoints").iterdir())
    weights = {path.name: path.read_bytes() for path in sorted(newest.glob("*.safetensors"))}
    losses = {r["step"]: r["loss"] for r in read_metrics(folder / "metrics.jsonl") if r["kind"] == "train"}
    return {"weights": weights, "losses": losses}


@pytest.fixture
def poisoned(monkeypatch):
    """``poisoned(batches)``: these are noise from now on."""
    return poisoning(monkeypatch)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory, tiny_factory) -> dict[str, Any]:
    """What a guarded run ends with that nothing has stopped."""
    recipe = tiny_factory(tmp_path_factory.mktemp("undisturbed"))
    with pytest.MonkeyPatch.context() as patch:
        poisoning(patch)(POISONED)
        run(recipe, "whole", GUARDED)
    assert rewinds(recipe, "whole") == [(26, 20, 6)]
    return final(recipe, "whole")


def poisoning(patch: pytest.MonkeyPatch):
    original = Loader.batch

    def poison(*numbers: int) -> None:
        def batch(self, step: int, *share: int) -> Batch:
            whole = original(self, step, *share)
            if step not in numbers:
                return whole
            noise = torch.randint(128, 250, whole.tokens.shape, generator=torch.Generator().manual_seed(step))
            return Batch(noise, noise.roll(-1, 1), whole.documents)

        patch.setattr(Loader, "batch", batch)

    return poison


@pytest.mark.campaign(13)
@pytest.mark.control(13)
def test_it_is_as_if_the_data_had_never_been_there(tiny: Path, poisoned, monkeypatch) -> None:
    poisoned(POISONED)
    text = run(tiny, "guarded", GUARDED)
    assert "step 26: the loss spiked" in text
    assert "back to step 20, passing over 6 batches (1 of 2)" in text
    records = read_metrics(tiny.parent / "runs/guarded/metrics.jsonl")
    assert [(r["step"], r["to"], r["passed_over"]) for r in records if r["kind"] == "rewind"] == [(26, 20, 6)]
    monkeypatch.undo()

    clean = Loader.batch
    monkeypatch.setattr(Loader, "batch", lambda self, step, *s: clean(self, step + 6 * (step >= 20), *s))
    run(tiny, "clean")
    assert final(tiny, "guarded") == final(tiny, "clean")
    monkeypatch.undo()

    poisoned(POISONED)  # the control: without the guard the noise is learnt from
    assert "spiked" not in run(tiny, "unguarded")
    assert final(tiny, "unguarded") != final(tiny, "clean")


@pytest.mark.campaign(13)
def test_a_run_killed_after_a_rewind_ends_the_same(tiny: Path, poisoned, monkeypatch) -> None:
    poisoned(POISONED)
    run(tiny, "whole", GUARDED)
    log, times = Watch.log, []

    def log_and_die(self, info) -> None:
        log(self, info)
        times.append(info.step)
        if times.count(23) == 2:
            raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(Watch, "log", log_and_die)
        with pytest.raises(Killed):
            run(tiny, "cut", GUARDED)
    assert "back to step 20" in run(tiny, "cut", GUARDED)
    assert final(tiny, "whole") == final(tiny, "cut")


def stopped(recipe: Path, name: str, monkeypatch, at: int, *overrides: str) -> None:
    """The run, stopped by a signal that comes in a step: after the next one."""
    log = Watch.log

    def log_and_ask(self, info) -> None:
        log(self, info)
        if info.step == at:
            os.kill(os.getpid(), signal.SIGTERM)

    with monkeypatch.context() as patch:
        patch.setattr(Watch, "log", log_and_ask)
        with pytest.raises(Interrupted):
            run(recipe, name, GUARDED, *overrides)


def rewinds(recipe: Path, name: str) -> list[tuple[int, int, int]]:
    records = read_metrics(recipe.parent / "runs" / name / "metrics.jsonl")
    return [(r["step"], r["to"], r["passed_over"]) for r in records if r["kind"] == "rewind"]


def test_a_signal_does_not_change_where_a_rewind_goes(tiny: Path, poisoned, monkeypatch, undisturbed) -> None:
    """Nor two of them, which would push the scheduled checkpoint out."""
    poisoned(POISONED)
    for at in (21, 23):
        stopped(tiny, "cut", monkeypatch, at, "checkpoint.keep_last=1")
    text = run(tiny, "cut", GUARDED, "checkpoint.keep_last=1")
    assert "back to step 20, passing over 6 batches" in text
    assert final(tiny, "cut") == undisturbed
    assert rewinds(tiny, "cut") == [(26, 20, 6)]


def test_the_clock_does_not_change_where_a_rewind_goes(tiny: Path, poisoned, undisturbed) -> None:
    poisoned(POISONED)
    text = run(tiny, "clocked", GUARDED, "checkpoint.minutes=1e-9", "checkpoint.keep_last=2")  # after every step
    assert "back to step 20, passing over 6 batches" in text
    assert final(tiny, "clocked") == undisturbed


def test_a_run_that_is_stopped_after_a_rewind_goes_on_from_there(
    tiny: Path, poisoned, monkeypatch, undisturbed
) -> None:
    """Not from a checkpoint of the same step that the rewind has undone; and its record of the rewind stays."""
    poisoned(POISONED)
    for at in (24, 24):  # before it and after
        stopped(tiny, "cut", monkeypatch, at)
    assert rewinds(tiny, "cut") == [(26, 20, 6)]
    text = run(tiny, "cut", GUARDED)
    assert "resuming after step 25" in text
    assert "spiked" not in text
    assert final(tiny, "cut") == undisturbed
    assert rewinds(tiny, "cut") == [(26, 20, 6)]


def test_one_that_a_signal_has_written_is_no_place_to_go_back_to(tiny: Path, poisoned, monkeypatch) -> None:
    poisoned(POISONED)
    ends = "there is no checkpoint of checkpoint.every yet"
    stopped(tiny, "cut", monkeypatch, 23, "checkpoint.every=50")
    with pytest.raises(UserError, match=ends):
        run(tiny, "cut", GUARDED, "checkpoint.every=50")


def test_it_ends_after_so_many(tiny: Path, poisoned) -> None:
    poisoned(*range(POISONED, 60))
    with pytest.raises(UserError, match=r"step 21: the loss spiked.*gone back 2 times.*max_rewinds"):
        run(tiny, "lost", GUARDED)
