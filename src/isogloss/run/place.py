"""Whether the run in a folder was begun there, moved there, or copied from a run that still exists.

``place.json`` holds the run's id and the folder in which it last trained. A run that is opened in another folder was
moved if the former one is gone or holds another run: it keeps its id, and its run at Weights & Biases. Otherwise it is
a copy, which goes on as a run of its own.
"""

import uuid
from collections.abc import Callable
from pathlib import Path

from isogloss.config.stored import DamagedError, Stored, read_stored
from isogloss.run.folder import RunFolder
from isogloss.train.trackers import WANDB_ID

PLACE = "place.json"


class _Place(Stored):
    id: str
    folder: str


def settle_place(folder: RunFolder, say: Callable[[str], None]) -> None:
    """Record where the run is; one that was copied gets a new id, and a new run at Weights & Biases.

    Args:
        folder: of a run, with its recipe, held by this process.
        say: told that the run was moved or copied.
    """
    here = folder.path.absolute()
    identity, former = _recorded(folder)
    if former is not None and not _is_same_folder(former, here):
        if _holds_same_run(former, folder, identity):
            say(f"{folder.path} is a copy of the run in {former}, and goes on as a run of its own")
            (folder.path / WANDB_ID).unlink(missing_ok=True)  # before the new id: if killed in between, found again
            identity = ""
        else:
            say(f"the run was moved from {former} to {here}")
    elif identity and former == here:
        return
    folder.save_json(PLACE, {"id": identity or uuid.uuid4().hex, "folder": str(here)})


def _recorded(folder: RunFolder) -> tuple[str, Path | None]:
    """The run's id, empty if it has none yet, and the folder in which it last trained."""
    try:
        found = read_stored(folder.path / PLACE, _Place)
        return found.id, Path(found.folder)
    except (OSError, DamagedError):  # begun by a version that kept none, or damaged
        saved = folder.saved_recipe()
        return "", None if saved is None else saved.folder.absolute()


def _is_same_folder(a: Path, b: Path) -> bool:
    try:
        return a.samefile(b)
    except (OSError, ValueError):  # a name that no file can have
        return False


def _holds_same_run(other: Path, folder: RunFolder, identity: str) -> bool:
    there = RunFolder(other)
    if not there.recipe_file.is_file():
        return False
    if identity:
        return _recorded(there)[0] == identity
    return _content(there.plan_file) == _content(folder.plan_file)


def _content(path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except OSError:
        return None
