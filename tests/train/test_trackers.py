"""Metrics reach the trackers that a recipe asks for, to the last of them, under one id for one run."""

import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from rich.console import Console

import isogloss.run.steps as module
from isogloss.config.base import UserError
from isogloss.recipe import load_recipe
from isogloss.run.train import train
from isogloss.train.display import Display
from isogloss.train.metrics import read_metrics


class FakeRun:
    """What ``wandb.init`` gives."""

    def __init__(self, **settings) -> None:
        self.settings = settings
        self.logged: list[tuple[int, dict[str, float]]] = []
        self.finished = 0

    def log(self, values: dict[str, float], step: int) -> None:
        assert not self.finished, "logged after the end"
        self.logged.append((step, values))

    def finish(self, exit_code: int) -> None:
        self.finished += 1
        self.exit_code = exit_code


@pytest.fixture
def wandb_runs(monkeypatch) -> list[FakeRun]:
    """The runs begun with a ``wandb`` that sends nothing."""
    runs: list[FakeRun] = []

    def init(**settings) -> FakeRun:
        runs.append(FakeRun(**settings))
        return runs[-1]

    monkeypatch.setitem(sys.modules, "wandb", SimpleNamespace(init=init))
    return runs


def run(recipe: Path, *overrides: str, fresh: bool = False) -> dict:
    settings = ["trackers.wandb=studies", "train.steps=6", "watch.sample_tokens=0", *overrides]
    return train(load_recipe(str(recipe), settings), Display(Console(quiet=True)), fresh=fresh)


def test_metrics_reach_wandb_and_the_last_is_the_final_validation(tiny: Path, wandb_runs: list[FakeRun]) -> None:
    summary = run(tiny)
    (tracked,) = wandb_runs
    assert tracked.settings["project"] == "studies"
    assert tracked.settings["name"] == "tiny"
    assert tracked.settings["config"]["model"]["d_model"] == 16
    assert tracked.finished == 1
    assert tracked.exit_code == 0
    records = read_metrics(tiny.parent / "runs/tiny/metrics.jsonl")
    expected = [
        (r["step"], {f"{r['kind']}/{k}": v for k, v in r.items() if isinstance(v, int | float) and k != "step"})
        for r in records
    ]
    assert tracked.logged == expected
    assert [r["step"] for r in records if r["kind"] == "train"] == [1, 2, 3, 4, 5, 6]
    assert tracked.logged[-1][0] == 6
    assert tracked.logged[-1][1]["validation/loss"] == summary["validation"]["loss"]


def test_a_resumed_run_goes_on_under_its_id_and_a_fresh_one_has_another(tiny: Path, wandb_runs: list[FakeRun]) -> None:
    run(tiny, "train.steps=4")
    run(tiny, "train.steps=6")
    run(tiny, "train.steps=6", fresh=True)
    run(tiny, "train.steps=6", "name=other")
    first, resumed, fresh, other = (tracked.settings["id"] for tracked in wandb_runs)
    assert first == resumed
    assert len({first, fresh, other}) == 3
    assert {tracked.settings["resume"] for tracked in wandb_runs} == {"allow"}
    assert [tracked.finished for tracked in wandb_runs] == [1, 1, 1, 1]
    assert min(step for step, _ in wandb_runs[1].logged) == 5


def test_a_finished_run_begins_none(tiny: Path, wandb_runs: list[FakeRun]) -> None:
    run(tiny)
    run(tiny)
    assert len(wandb_runs) == 1


def test_it_is_finished_when_the_run_is_cut_short(tiny: Path, wandb_runs: list[FakeRun], monkeypatch) -> None:
    def fail(*_) -> None:
        raise UserError("the disk is full")

    monkeypatch.setattr(module, "save", fail)
    with pytest.raises(UserError, match="disk is full"):
        run(tiny)
    assert [tracked.finished for tracked in wandb_runs] == [1]
    assert wandb_runs[0].exit_code == 1
    monkeypatch.undo()


@pytest.mark.parametrize(
    ("override", "missing", "extra"),
    [
        ("trackers.wandb=studies", "wandb", "wandb"),
        ("trackers.tensorboard=true", "torch.utils.tensorboard", "tensorboard"),
    ],
)
def test_without_the_package_it_says_what_to_install(tiny: Path, monkeypatch, override, missing, extra) -> None:
    monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(UserError, match=rf"isogloss\[{extra}\]"):
        run(tiny, "trackers.wandb=null", override)


def test_metrics_reach_tensorboard(tiny: Path) -> None:
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    summary = run(tiny, "trackers.wandb=null", "trackers.tensorboard=true")
    events = accumulator.EventAccumulator(str(tiny.parent / "runs/tiny/tensorboard"))
    events.Reload()
    assert [event.step for event in events.Scalars("train/loss")] == [1, 2, 3, 4, 5, 6]
    last = events.Scalars("validation/loss")[-1]
    assert last.step == 6
    assert last.value == pytest.approx(summary["validation"]["loss"], rel=1e-6)
