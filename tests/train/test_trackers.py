"""Metrics reach the trackers that a recipe asks for, to the last of them, under one id for one run."""

import io
import itertools
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from rich.console import Console

import isogloss.run.steps as module
from isogloss.config.base import UserError
from isogloss.data.loader import Loader
from isogloss.models.protocol import Batch
from isogloss.recipe import load_recipe
from isogloss.run.train import train
from isogloss.train.display import Display
from isogloss.train.metrics import Metrics, read_metrics
from isogloss.train.trackers import TensorBoard, TrackedRun, WeightsAndBiases


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

    monkeypatch.setitem(sys.modules, "wandb", SimpleNamespace(init=init, Error=RuntimeError))
    return runs


def run(recipe: Path, *overrides: str, fresh: bool = False) -> dict:
    settings = ["trackers.wandb=studies", "train.steps=6", "watch.sample_tokens=0", *overrides]
    return train(load_recipe(str(recipe), settings), Display(Console(quiet=True)), fresh=fresh)


def test_metrics_reach_wandb_and_the_last_is_the_final_validation(tiny: Path, wandb_runs: list[FakeRun]) -> None:
    summary = run(tiny)
    (tracked,) = wandb_runs
    assert tracked.settings["project"] == "studies"
    assert tracked.settings["group"] == "tiny"
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


class Server:
    """What Weights & Biases keeps of runs, by what its documentation says; ``rewinds``: whether it offers that."""

    def __init__(self, rewinds: bool = True) -> None:
        self.rewinds = rewinds
        self.runs: dict[str, dict[int, dict[str, float]]] = {}
        self.groups: dict[str, str] = {}

    class Error(Exception):
        """Of its client."""

    def init(self, *, group: str, id: str = "", resume: str = "", resume_from: str = "", **_: Any) -> Any:
        assert bool(resume) != bool(resume_from), "they exclude each other"
        identity, _, step = (resume_from or f"{id}?_step=").partition("?_step=")
        if resume_from and (not self.rewinds or identity not in self.runs):
            raise self.Error("400: rewind is not enabled\nand more")
        history = self.runs.setdefault(identity, {})
        self.groups[identity] = group
        if resume_from:
            for later in [number for number in history if number > int(step)]:
                del history[later]
        current = [int(step) + 1 if resume_from else max(history, default=-1) + 1]
        first = current[0]

        def log(values: dict[str, float], step: int) -> None:
            if step >= current[0]:  # else it is dropped, with a warning
                current[0] = step
                history.setdefault(step, {}).update(values)

        return SimpleNamespace(log=log, finish=lambda exit_code: None, starting_step=first if resume else 0)


def tracked(folder: Path, step: int, last_step: int, lines: list[str] | None = None) -> TrackedRun:
    return TrackedRun(folder, "tiny", {}, step, last_step, (lines if lines is not None else []).append)


def of_tensorboard(folder: Path, key: str = "train/loss") -> list[tuple[int, float]]:
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    events = accumulator.EventAccumulator(str(folder / "tensorboard"))
    events.Reload()
    return [(event.step, event.value) for event in events.Scalars(key)]


# Where a process goes on from, and what it does: logs up to a step, or goes back to one.
LIVES = (
    [(0, [30]), (20, [25]), (20, [21]), (10, [12]), (12, [15])],
    [(0, [2]), (0, [5]), (5, [6])],
    [(0, [8, -4, 6]), (5, [9, -7, 8, -5, 10]), (9, [11])],
)


@pytest.mark.parametrize("lives", LIVES)
def test_steps_that_are_done_again_stand_once(tmp_path: Path, monkeypatch, lives) -> None:
    writer = pytest.importorskip("tensorboard.summary.writer.event_file_writer")
    seconds = itertools.count(1_700_000_000)  # files of one second are read in no order; a process takes longer
    monkeypatch.setattr(writer, "time", SimpleNamespace(time=lambda: next(seconds)))
    server, lines, last, loss = Server(), list[str](), 0, 0.0
    expected: dict[int, float] = {}
    monkeypatch.setitem(sys.modules, "wandb", server)
    for start, acts in lives:
        run = tracked(tmp_path, start, last, lines)
        expected, at = {step: value for step, value in expected.items() if step <= start}, start
        with Metrics(tmp_path / "metrics.jsonl", start, [TensorBoard(run), WeightsAndBiases("p", run)]) as metrics:
            for act in acts:
                if act < 0:
                    metrics.rewind(at, -act, 1, loss=1.0)
                    expected, at = {step: value for step, value in expected.items() if step <= -act}, -act
                for step in range(at + 1, act + 1):
                    loss += 1.0
                    metrics.write("train", step, loss=loss)
                    expected[step], at, last = loss, step, step
        last = max(record["step"] for record in read_metrics(tmp_path / "metrics.jsonl"))
    assert of_tensorboard(tmp_path) == list(expected.items())
    (history,) = server.runs.values()
    assert {step: values["train/loss"] for step, values in history.items()} == expected
    assert lines == []


def test_where_the_server_cannot_rewind_a_new_run_of_the_group_goes_on(tmp_path: Path, monkeypatch) -> None:
    server, lines = Server(rewinds=False), list[str]()
    monkeypatch.setitem(sys.modules, "wandb", server)
    for start, last, end in ((0, 0, 30), (20, 30, 24), (24, 24, 26), (20, 26, 22)):
        tracker = WeightsAndBiases("p", tracked(tmp_path, start, last, lines))
        for step in range(start + 1, end + 1):
            tracker.log(step, {"loss": step})
        tracker.close(failed=False)
    assert [list(history) for history in server.runs.values()] == [
        list(range(1, 31)),
        list(range(21, 27)),
        [21, 22],
    ]
    first, second, third = server.runs
    assert set(server.groups.values()) == {"tiny"}
    assert [line.partition(" (")[0] for line in lines] == [
        f"Weights & Biases could not rewind run {former} to step 20" for former in (first, second)
    ]
    assert (
        f"(400: rewind is not enabled): the steps from 21 on go to the new run {third}, in the group tiny" in lines[1]
    )


def test_steps_that_only_the_server_has_are_dropped_too(tmp_path: Path, monkeypatch) -> None:
    """After a power cut, or a while with the tracker switched off, metrics.jsonl knows less."""
    server = Server()
    monkeypatch.setitem(sys.modules, "wandb", server)
    for start, end in ((0, 9), (4, 6)):
        tracker = WeightsAndBiases("p", tracked(tmp_path, start, start))
        for step in range(start + 1, end + 1):
            tracker.log(step, {"start": start})
    (history,) = server.runs.values()
    assert {step: values["start"] for step, values in history.items()} == {1: 0, 2: 0, 3: 0, 4: 0, 5: 4, 6: 4}


def test_a_run_that_is_killed_and_one_that_goes_back_are_tracked_as_recorded(tiny: Path, monkeypatch) -> None:
    server, folder = Server(), tiny.parent / "runs/tiny"
    monkeypatch.setitem(sys.modules, "wandb", server)
    settings = [
        "train.steps=14",
        "trackers={tensorboard: true, wandb: p}",
        "watch.sample_tokens=0",
        "checkpoint.every=4",
    ]
    settings.append("train.spike={window: 5, deviations: 4.0}")
    clean = Loader.batch

    def batch(self: Loader, step: int, *share: int) -> Batch:
        whole = clean(self, step, *share)
        if step != 10:
            return whole
        noise = torch.randint(128, 250, whole.tokens.shape, generator=torch.Generator().manual_seed(0))
        return Batch(noise, noise.roll(-1, 1), whole.documents)

    def begin(last: int = 99) -> str:
        console = Console(file=io.StringIO(), width=200)
        with monkeypatch.context() as patch:
            patch.setattr(Loader, "batch", batch)
            validate = module.Watch.validate

            def watched(watch: Any, info: Any) -> None:
                validate(watch, info)
                if info.step == last:
                    raise ZeroDivisionError

            patch.setattr(module.Watch, "validate", watched)
            train(load_recipe(str(tiny), [*settings, "watch.validate_every=1"]), Display(console))
        return console.file.getvalue()  # pyright: ignore

    with pytest.raises(ZeroDivisionError):
        begin(last=7)  # the newest checkpoint is that of step 4
    said = begin()
    assert "resuming after step 4" in said
    assert "back to step 8" in said
    losses = {r["step"]: r["loss"] for r in read_metrics(folder / "metrics.jsonl") if r["kind"] == "train"}
    assert list(losses) == list(range(1, 15))
    shown = of_tensorboard(folder)
    assert [step for step, _ in shown] == list(losses)
    assert [value for _, value in shown] == pytest.approx(list(losses.values()))
    (history,) = server.runs.values()
    assert {step: values["train/loss"] for step, values in history.items()} == losses


def test_the_installed_client_takes_what_is_asked_of_it(tmp_path: Path, monkeypatch) -> None:
    """Offline: nothing is sent."""
    pytest.importorskip("wandb")
    for name, value in {"WANDB_MODE": "offline", "WANDB_SILENT": "true", "WANDB_DIR": str(tmp_path)}.items():
        monkeypatch.setenv(name, value)
    lines: list[str] = []
    tracker = WeightsAndBiases("p", tracked(tmp_path, 0, 0, lines))
    first = tracker._run.id
    tracker.log(1, {"loss": 1.0})
    tracker.go_back(20)
    assert (tracker._run.id, tracker._run.starting_step, tracker._run.group) == (first, 21, "tiny")
    tracker.close(failed=False)
    assert lines == []
    with pytest.raises(UserError, match=r"trackers\.wandb=a/b: .*Invalid project name"):
        WeightsAndBiases("a/b", tracked(tmp_path / "..", 0, 0))


@pytest.mark.parametrize("word", ["true", "false", "on", "''"])
def test_a_project_is_a_name(tiny: Path, word: str) -> None:
    with pytest.raises(UserError, match=r"trackers\.wandb.*must be the name of a Weights & Biases project"):
        load_recipe(str(tiny), [f"trackers.wandb={word}"])
