"""Which checkpoints stay. A folder is renamed before it is deleted: none with a checkpoint's name is half there."""

import shutil
from pathlib import Path

from isogloss.checkpoint.config import CheckpointConfig
from isogloss.checkpoint.layout import ASIDE, checkpoint_folders


def rotate(root: Path, newest: int, config: CheckpointConfig) -> None:
    """Delete what is not kept. Steps past ``newest`` are damaged ones that the run fell back from: they go first."""
    found = checkpoint_folders(root)
    for later in sorted(step for step in found if step > newest):
        delete(found.pop(later))
    for old in sorted(found)[: -config.keep_last]:
        if config.keep_every is None or old % config.keep_every:
            delete(found[old])


def delete(folder: Path) -> None:
    """Delete a checkpoint."""
    aside = folder.with_name(f"{ASIDE}{folder.name}-old")
    shutil.rmtree(aside, ignore_errors=True)
    folder.rename(aside)
    shutil.rmtree(aside, ignore_errors=True)


def sweep(root: Path) -> None:
    """Remove what a killed process left half written or half deleted."""
    for left in root.glob(f"{ASIDE}*"):
        shutil.rmtree(left, ignore_errors=True)
