"""TensorBoard and Weights & Biases, both optional extras, off unless the recipe asks."""

import importlib
import uuid
from pathlib import Path
from typing import Annotated, Any

from pydantic import BeforeValidator

from isogloss.config.base import Config, UserError
from isogloss.config.problems import show
from isogloss.durable import write_whole
from isogloss.train.metrics import Tracker


def _check_project(value: Any) -> Any:
    """A project's name: what switches TensorBoard on says nothing here."""
    if isinstance(value, bool) or value == "":
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


class TensorBoard:
    """Event files in the run's folder."""

    def __init__(self, folder: Path) -> None:
        self._writer = _import("torch.utils.tensorboard", "tensorboard").SummaryWriter(str(folder / "tensorboard"))

    def log(self, step: int, values: dict[str, float]) -> None:
        """Write each value as a scalar."""
        for key, value in values.items():
            self._writer.add_scalar(key, value, step)

    def close(self, failed: bool) -> None:
        """Write what is not yet written; event files know no failure."""
        self._writer.close()


class WeightsAndBiases:
    """A run of a project; its id is kept in the run's folder, so that a resumed run goes on in it."""

    def __init__(self, project: str, folder: Path, name: str, recipe: dict[str, Any]) -> None:
        wandb = _import("wandb", "wandb")
        id_file = folder / "wandb.id"
        if not id_file.exists():
            write_whole(id_file, uuid.uuid4().hex.encode())
        self._run = wandb.init(
            project=project, name=name, id=id_file.read_text(), resume="allow", config=recipe, dir=str(folder)
        )

    def log(self, step: int, values: dict[str, float]) -> None:
        """Send the values."""
        self._run.log(values, step=step)

    def close(self, failed: bool) -> None:
        """End the run on their side."""
        self._run.finish(exit_code=int(failed))


def create_trackers(config: TrackersConfig, folder: Path, name: str, recipe: dict[str, Any]) -> list[Tracker]:
    """The trackers that a config asks for.

    Raises:
        UserError: one of them is not installed.
    """
    trackers: list[Tracker] = []
    if config.tensorboard:
        trackers.append(TensorBoard(folder))
    if config.wandb:
        trackers.append(WeightsAndBiases(config.wandb, folder, name, recipe))
    return trackers


def _import(module: str, extra: str) -> Any:
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise UserError(
            f"trackers.{extra} is on, but {extra} is not installed; pip install 'isogloss[{extra}]', or switch it off"
        ) from error
