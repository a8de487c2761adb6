"""TensorBoard and Weights & Biases, both optional extras, off unless the recipe asks."""

import importlib
from pathlib import Path
from typing import Any

from isogloss.config.base import Config, UserError
from isogloss.train.metrics import Sink


class TrackersConfig(Config):
    """Where else metrics go."""

    tensorboard: bool = False
    """Write TensorBoard event files into the run's folder (pip install 'isogloss[tensorboard]')."""
    wandb: str | None = None
    """The Weights & Biases project to report to (pip install 'isogloss[wandb]')."""


def create_sinks(config: TrackersConfig, folder: Path, name: str, recipe: dict[str, Any]) -> list[Sink]:
    """What to hand each record of metrics to.

    Raises:
        UserError: an extra that the config asks for is not installed.
    """
    sinks: list[Sink] = []
    if config.tensorboard:
        writer = _import("torch.utils.tensorboard", "tensorboard").SummaryWriter(str(folder / "tensorboard"))

        def tensorboard(step: int, values: dict[str, Any]) -> None:
            for key, value in values.items():
                writer.add_scalar(key, value, step)
            writer.flush()

        sinks.append(tensorboard)
    if config.wandb:
        wandb = _import("wandb", "wandb")
        # The run's own folder is its id, so that a resumed run goes on in the same W&B run.
        run = wandb.init(
            project=config.wandb, name=name, id=name.replace("/", "-"), resume="allow", config=recipe, dir=folder
        )
        sinks.append(lambda step, values: run.log(values, step=step))
    return sinks


def _import(module: str, extra: str) -> Any:
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise UserError(
            f"trackers.{extra} is on, but {extra} is not installed; pip install 'isogloss[{extra}]', or switch it off"
        ) from error
