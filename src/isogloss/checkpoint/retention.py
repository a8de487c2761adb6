"""Which checkpoints stay. A folder is renamed before it is deleted: none with a checkpoint's name is half there."""

import json
import shutil
from contextlib import suppress
from pathlib import Path

from isogloss.checkpoint.config import CheckpointConfig
from isogloss.checkpoint.layout import ASIDE, STATE, checkpoint_folders

REWIND_TARGET = "rewind_target"
"""The key of a state that says whether a run may go back to it: one that the steps alone have called for."""


def rotate(root: Path, newest: int, config: CheckpointConfig) -> None:
    """Delete what is not kept. Steps past ``newest`` are damaged ones that the run fell back from: they go first.

    The newest one that a run may go back to stays, however many were written out of turn since.
    """
    delete_after(root, newest)
    found = checkpoint_folders(root)
    target = _rewind_target(found, config.every)
    for old in sorted(found)[: -config.keep_last]:
        if old != target and (config.keep_every is None or old % config.keep_every):
            delete(found[old])


def delete_after(root: Path, step: int) -> None:
    """Delete the checkpoints past a step, which the run fell or went back from."""
    found = checkpoint_folders(root)
    for later in sorted(other for other in found if other > step):
        delete(found[later])


def _rewind_target(found: dict[int, Path], every: int) -> int | None:
    """The newest one that the run may go back to; ``None`` if it never does, by the state of the newest."""
    for step in sorted(found, reverse=True):
        with suppress(OSError, ValueError, AttributeError, RecursionError):  # a damaged one is none
            state = json.loads((found[step] / STATE).read_text())
            if step == max(found) and REWIND_TARGET not in state:
                return None
            if state.get(REWIND_TARGET, step % every == 0):
                return step
    return None


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
