"""A trained model from a run's folder."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from isogloss.build import build_model
from isogloss.checkpoint.layout import NAME
from isogloss.checkpoint.load import Checkpoint, load_checkpoint, newest_checkpoint
from isogloss.config.base import UserError
from isogloss.config.paths import expand
from isogloss.data.tokenizers.base import Tokenizer
from isogloss.data.tokenizers.loading import load_tokenizer
from isogloss.models.decoder import Decoder
from isogloss.models.weights import model_tensors
from isogloss.nn.precision import find_device
from isogloss.recipe import Recipe
from isogloss.run.folder import RunFolder
from isogloss.run.state import RunState


@dataclass(frozen=True)
class LoadedRun:
    """A model in its run's context.

    Args:
        recipe: of the run.
        model: with the checkpoint's weights.
        tokenizer: of the run.
        step: of the checkpoint.
        initial_weights: the fingerprint of the weights that the run began with, if the checkpoint keeps it.
    """

    recipe: Recipe
    model: Decoder
    tokenizer: Tokenizer
    step: int
    initial_weights: dict[str, str] | None = None


def state_schema(root: Path) -> type[RunState] | None:
    """The schema of the states in ``runs/NAME/checkpoints``; of checkpoints that are no run's there is none."""
    return RunState if RunFolder(root.absolute().parent).recipe_file.is_file() else None


def open_checkpoint(path: Path, warn: Callable[[str], None]) -> Checkpoint | None:
    """A checkpoint, all of it verified; ``None`` where there has been none.

    Args:
        path: the checkpoint's folder, or ``runs/NAME``, or its ``checkpoints``: the newest whole one is meant.
        warn: called with each checkpoint that is damaged and passed over.

    Raises:
        CorruptCheckpointError: it is damaged; or there are some, and none is whole.
    """
    if NAME.fullmatch(path.name):
        return load_checkpoint(path, schema=state_schema(path.parent))
    root = path / "checkpoints" if (path / "checkpoints").is_dir() else path
    return newest_checkpoint(root, warn, schema=state_schema(root))


def load_run(path: str | Path, device: str | torch.device = "cpu", warn: Callable[[str], None] = print) -> LoadedRun:
    """The newest whole checkpoint of a run's folder, or that of a given checkpoint folder in it, in float32.

    Args:
        path: ``runs/NAME``, or ``runs/NAME/checkpoints/step-...``.
        device: where the model is put.
        warn: hears of checkpoints that are damaged and passed over.

    Raises:
        UserError: the path is no run, has no checkpoint yet, or is damaged; or there is no such device.
    """
    path, device = expand(path), find_device(device)
    given = path if path.parent.name == "checkpoints" else None
    folder = RunFolder(path.parent.parent if given else path)
    if not folder.path.is_dir():
        raise UserError(f"{path}: no such folder; a run's folder is runs/NAME")
    recipe = folder.saved_recipe()
    if recipe is None:
        raise UserError(f"{path} holds no run (no recipe.yaml); a run's folder is runs/NAME")
    checkpoint = load_checkpoint(given, schema=RunState) if given else open_checkpoint(folder.path, warn)
    if checkpoint is None:
        raise UserError(f"{path} has no checkpoint yet; train it for checkpoint.every={recipe.checkpoint.every} steps")
    model = build_model(recipe.model, recipe.init, seed=recipe.seed, device=device)
    checkpoint.load_into("model", model_tensors(model))
    tokenizer = load_tokenizer(folder.tokenizer, is_checked=True)
    return LoadedRun(recipe, model.eval(), tokenizer, checkpoint.step, checkpoint.state.get("initial_weights"))
