"""A trained model from a run's folder."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from isogloss.build import build_model
from isogloss.checkpoint.load import Checkpoint, load_checkpoint, newest_checkpoint
from isogloss.config.base import UserError
from isogloss.data.tokenizers.base import Tokenizer
from isogloss.data.tokenizers.loading import load_tokenizer
from isogloss.models.decoder import Decoder
from isogloss.models.weights import model_tensors
from isogloss.nn.precision import find_device
from isogloss.recipe import Recipe
from isogloss.run.folder import RunFolder


@dataclass(frozen=True)
class LoadedRun:
    """A model in its run's context."""

    recipe: Recipe
    model: Decoder
    tokenizer: Tokenizer
    step: int


def load_run(path: str | Path, device: str | torch.device = "cpu", warn: Callable[[str], None] = print) -> LoadedRun:
    """The newest whole checkpoint of a run's folder, or that of a given checkpoint folder in it, in float32.

    Args:
        path: ``runs/NAME``, or ``runs/NAME/checkpoints/step-...``.
        device: where the model is put.
        warn: hears of checkpoints that are damaged and passed over.

    Raises:
        UserError: the path is no run, has no checkpoint yet, or is damaged; or there is no such device.
    """
    path, device = Path(path), find_device(device)
    given = path if path.parent.name == "checkpoints" else None
    folder = RunFolder(path.parent.parent if given else path)
    if not folder.path.is_dir():
        raise UserError(f"{path}: no such folder; a run's folder is runs/NAME")
    recipe = folder.saved_recipe()
    if recipe is None:
        raise UserError(f"{path} holds no run (no recipe.yaml); a run's folder is runs/NAME")
    checkpoint: Checkpoint | None = load_checkpoint(given) if given else newest_checkpoint(folder.checkpoints, warn)
    if checkpoint is None:
        raise UserError(f"{path} has no checkpoint yet; train it for checkpoint.every={recipe.checkpoint.every} steps")
    model = build_model(recipe.model, recipe.init, seed=recipe.seed, device=device)
    checkpoint.load_into("model", model_tensors(model))
    return LoadedRun(recipe, model.eval(), load_tokenizer(folder.tokenizer), checkpoint.step)
