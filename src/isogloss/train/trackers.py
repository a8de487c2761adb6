"""TensorBoard and Weights & Biases, both optional extras, off unless the recipe asks.

A run that goes back to an earlier step, in its process or by a resume, leaves a branch of steps that it does again. The
trackers drop that branch: TensorBoard hides it, Weights & Biases rewinds its run. Where its server does not offer that,
the steps go to a new run of the same group.
"""

import importlib
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from pydantic import BeforeValidator

from isogloss.config.base import Config, UserError
from isogloss.config.problems import show
from isogloss.durable import write_whole
from isogloss.train.metrics import Tracker

WANDB_ID = "wandb.id"
"""The file in a run's folder that keeps its id at Weights & Biases."""


def _check_project(value: Any) -> Any:
    """A project's name: what switches TensorBoard on says nothing here."""
    if isinstance(value, bool) or str(value).lower() in ("true", "false", "yes", "no", "on", "off", ""):
        raise ValueError(
            "must be the name of a Weights & Biases project, such as trackers.wandb=my-project, or null for none; "
            f"got {show(value)}"
        )
    return value


class TrackersConfig(Config):
    """Where else metrics go."""

    tensorboard: bool = False
    """Write TensorBoard event files into the run's folder (pip install 'isogloss[tensorboard]')."""
    wandb: Annotated[str | None, BeforeValidator(_check_project)] = None
    """The Weights & Biases project to report to (pip install 'isogloss[wandb]')."""


@dataclass(frozen=True)
class TrackedRun:
    """A run as the trackers need it.

    Args:
        folder: of the run.
        name: of the run.
        recipe: the resolved recipe, of JSON's types.
        step: of the checkpoint that it goes on from; 0 at its start.
        last_step: the last step that has been recorded; above ``step``, the steps between are done again.
        say: prints a line.
    """

    folder: Path
    name: str
    recipe: dict[str, Any]
    step: int
    last_step: int
    say: Callable[[str], None]


class TensorBoard:
    """Event files in the run's folder."""

    def __init__(self, run: TrackedRun) -> None:
        self._events = _import("torch.utils.tensorboard", "tensorboard").writer
        self._writer = self._events.SummaryWriter(str(run.folder / "tensorboard"), purge_step=run.step + 1)

    def log(self, step: int, values: dict[str, float]) -> None:
        """Write each value as a scalar."""
        for key, value in values.items():
            self._writer.add_scalar(key, value, step)

    def go_back(self, step: int) -> None:
        """Hide what was written after a step."""
        start = self._events.SessionLog(status=self._events.SessionLog.START)
        self._writer.file_writer.add_event(self._events.Event(step=step + 1, session_log=start))

    def close(self, failed: bool) -> None:
        """Write what is not yet written; event files know no failure."""
        self._writer.close()


class WeightsAndBiases:
    """A run of a project; its id is kept in the run's folder, so that a resumed run goes on in it."""

    def __init__(self, project: str, run: TrackedRun) -> None:
        self._wandb, self._run_here = _import("wandb", "wandb"), run
        self._id_file = run.folder / WANDB_ID
        self._settings = {
            "project": project,
            "name": run.name,
            "group": run.name,
            "config": run.recipe,
            "dir": str(run.folder),
        }
        if not self._id_file.exists():
            self._begin(uuid.uuid4().hex)
        elif run.last_step > run.step:
            self._rewind(run.step)
        else:
            self._begin(self._id)
            if getattr(self._run, "starting_step", 0) > run.step + 1:  # it has steps that metrics.jsonl has lost
                self.go_back(run.step)

    @property
    def _id(self) -> str:
        return self._id_file.read_text(encoding="utf-8")

    def log(self, step: int, values: dict[str, float]) -> None:
        """Send the values."""
        self._run.log(values, step=step)

    def go_back(self, step: int) -> None:
        """Drop what was sent after a step; what is sent next may have the steps that follow it."""
        self._run.finish(exit_code=0)
        self._rewind(step)

    def close(self, failed: bool) -> None:
        """End the run on their side."""
        self._run.finish(exit_code=int(failed))

    def _begin(self, identity: str) -> None:
        try:
            self._run = self._wandb.init(**self._settings, id=identity, resume="allow")
        except self._wandb.Error as error:
            raise UserError(
                f"trackers.wandb={self._settings['project']}: Weights & Biases refused the run: {error}. Mend that, "
                "set WANDB_MODE=offline, or switch it off (trackers.wandb=null)"
            ) from error
        write_whole(self._id_file, identity.encode())

    def _rewind(self, step: int) -> None:
        """Cut the run's history off after a step, or begin a new run."""
        try:
            self._run = self._wandb.init(**self._settings, resume_from=f"{self._id}?_step={step}")
        except self._wandb.Error as error:
            former, why = self._id, str(error).partition("\n")[0]
            self._begin(uuid.uuid4().hex)
            self._run_here.say(
                f"Weights & Biases could not rewind run {former} to step {step} ({why}): the steps from {step + 1} on "
                f"go to the new run {self._id}, in the group {self._settings['group']}"
            )


def create_trackers(config: TrackersConfig, run: TrackedRun) -> list[Tracker]:
    """The trackers that a config asks for.

    Raises:
        UserError: one of them is not installed, or Weights & Biases refuses the run.
    """
    trackers: list[Tracker] = []
    if config.tensorboard:
        trackers.append(TensorBoard(run))
    if config.wandb:
        trackers.append(WeightsAndBiases(config.wandb, run))
    return trackers


def check_trackers(config: TrackersConfig) -> None:
    """Make sure that what a config asks for is installed, before long work begins.

    Raises:
        UserError: it is not.
    """
    if config.tensorboard:
        _import("torch.utils.tensorboard", "tensorboard")
    if config.wandb:
        _import("wandb", "wandb")


def _import(module: str, extra: str) -> Any:
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise UserError(
            f"trackers.{extra} is on, but {extra} is not installed; pip install 'isogloss[{extra}]', or switch it off"
        ) from error
