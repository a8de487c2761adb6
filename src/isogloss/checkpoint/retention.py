"""Which checkpoints stay. A folder is renamed before it is deleted: none with a checkpoint's name is half there.

What cannot be deleted after a good save is no reason to end a run: a warning names it, and the next save tries again.
"""

import shutil
from pathlib import Path

from isogloss.checkpoint.config import CheckpointConfig
from isogloss.checkpoint.layout import ASIDE, checkpoint_folders
from isogloss.streams import say_error


def rotate(root: Path, newest: int, config: CheckpointConfig) -> None:
    """Delete what is not kept. Steps past ``newest`` are damaged ones that the run fell back from: they go first."""
    try:
        found = checkpoint_folders(root)
        later = sorted(step for step in found if step > newest)
        former = sorted(found.keys() - later)[: -config.keep_last]
        for step in [*later, *(old for old in former if config.keep_every is None or old % config.keep_every)]:
            try:
                delete(found[step])
            except OSError:
                _warn(found[step])
        for left in root.glob(f"{ASIDE}*-old"):
            _warn(left)
    except OSError:  # it cannot even be listed
        _warn(root / "an older checkpoint")


def _warn(folder: Path) -> None:
    say_error(
        f"isogloss: warning: {folder} cannot be deleted, and takes room; it is tried again after the next checkpoint. "
        "Change its permissions, or delete it yourself"
    )


def delete(folder: Path) -> None:
    """Delete a checkpoint; what has its name no more may be left, for the next sweep.

    Raises:
        OSError: it still has its name.
    """
    aside = folder.with_name(f"{ASIDE}{folder.name}-old")
    shutil.rmtree(aside, ignore_errors=True)
    folder.rename(aside)
    shutil.rmtree(aside, ignore_errors=True)


def sweep(root: Path) -> None:
    """Remove what a killed process left half written or half deleted."""
    for left in root.glob(f"{ASIDE}*"):
        shutil.rmtree(left, ignore_errors=True)
