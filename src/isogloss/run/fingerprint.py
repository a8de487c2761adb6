"""The fingerprint of a recipe's initial weights, and whether a run began with them."""

from collections.abc import Callable, Mapping
from pathlib import Path

import torch

from isogloss.build import build_model
from isogloss.checkpoint.load import load_checkpoint
from isogloss.config.base import UserError
from isogloss.data.opening import open_corpus
from isogloss.init.fingerprint import fingerprint, total_fingerprint
from isogloss.init.verify import Finding
from isogloss.recipe import Recipe
from isogloss.run.folder import RunFolder
from isogloss.run.state import RunState
from isogloss.train.display import Display


def recipe_fingerprint(recipe: Recipe, display: Display, device: str = "cpu") -> dict[str, str]:
    """Make a recipe's initial weights on a device; the text is read only where the vocabulary follows from it."""
    if recipe.model.vocab_size is None:
        recipe = recipe.with_vocabulary(open_corpus(recipe.data, recipe.tokenizer, display.say).tokenizer.n_tokens)
    return fingerprint(build_model(recipe.model, recipe.init, seed=recipe.seed, device=torch.device(device)))


def stored_fingerprint(path: Path) -> dict[str, str] | None:
    """What a run, or one of its checkpoints, keeps of the weights it began with; ``None`` if the path is no run.

    Raises:
        UserError: it keeps none.
    """
    run = RunFolder(run_of(path))
    if not run.recipe_file.is_file():
        return None
    stored = (
        run.saved_fingerprint()
        if run.path == path
        else load_checkpoint(path, schema=RunState).state.get("initial_weights")
    )
    if stored is None:
        raise UserError(
            f"{path} keeps no fingerprint of its initial weights: it was begun by a version that made none, or "
            f"init.json is damaged. That of its recipe: isogloss init verify {run.recipe_file} --fingerprint"
        )
    return stored


def compare_beginning(
    path: Path, recipe: Recipe, stored: dict[str, str] | None, display: Display, warn: Callable[[str], None]
) -> list[Finding]:
    """Hold the weights that a run's recipe gives here to the fingerprint that its checkpoint keeps of its beginning.

    Args:
        path: a checkpoint's folder.
        recipe: of its run.
        stored: the fingerprint, if the checkpoint keeps one.
        display: shows that they agree.
        warn: receives that they cannot be compared, or not to the last place.

    Returns:
        One finding if they differ: what is measured against the initial weights is then measured against others.
    """
    run = run_of(path)
    if stored is None:
        warn(f"{path} keeps no fingerprint of the weights it began with: the distance from them is from the recipe's")
        return []
    device = device_of(run, display)
    made = recipe_fingerprint(recipe, display, device)
    differing = [name for name in {**made, **stored} if made.get(name) != stored.get(name)]
    what = f"{len(differing)} of {len(stored)} parameters are not what the run began with"
    if not differing:
        display.say(f"initial weights: {len(stored)} parameters are, bit for bit, what the run began with")
    elif (machine := RunFolder(run).saved_machine()) is not None and machine.device != device:
        warn(f"{what}, perhaps in their last places: the run trains on a GPU, and they are made on this CPU")
    else:
        return [
            Finding(differing[0], "fingerprint", f"{what}: another seed, scheme or version? `moved` is from others")
        ]
    return []


def device_of(run: Path, display: Display) -> str:
    """Where to make the weights that a run began with: on a GPU, if it trains on one and there is one here.

    A GPU's inverse error function may round single weights otherwise, in their last place.
    """
    machine = RunFolder(run).saved_machine()
    if machine is None or machine.device == "cpu":
        return "cpu"
    if torch.cuda.is_available():
        return machine.device
    display.say("note: the run trains on a GPU, and the weights are made on this CPU: last places may differ")
    return "cpu"


def run_of(path: Path) -> Path:
    """The folder of the run that a checkpoint belongs to; any other path as it is."""
    return path.parent.parent if path.parent.name == "checkpoints" and not path.is_file() else path


def show_fingerprint(made: Mapping[str, str], stored: Mapping[str, str] | None, display: Display) -> bool:
    """Print hashes and names, as ``sha256sum`` does, or whether they are the stored ones; false if they are not."""
    if stored is None:
        for name, value in made.items():
            display.say(f"{value}  {name}")
        display.say(f"{total_fingerprint(made)}  all of them")
        return True
    differing = [name for name in {**made, **stored} if made.get(name) != stored.get(name)]
    for name in differing:
        display.say(f"{name}: made {made.get(name, 'without it')}, stored {stored.get(name, 'without it')}")
    total = total_fingerprint(stored)
    if differing:
        display.say(f"FAIL: {len(differing)} of {len(stored)} parameters are not what the run began with ({total})")
    else:
        display.say(f"PASS: {len(stored)} parameters are, bit for bit, what the run began with ({total})")
    return not differing
