"""Which checkpoints stay. A folder is renamed before it is deleted: none with a checkpoint's name is half there.

What cannot be deleted after a good save is no reason to end a run: a warning names it, and the next save tries again.
"""

import shutil
from contextlib import suppress
from pathlib import Path

from isogloss.checkpoint.config import CheckpointConfig
from isogloss.checkpoint.layout import (
    ASIDE,
    STATE,
    CorruptCheckpointError,
    checkpoint_folders,
    parse_json,
    read_json,
)
from isogloss.streams import say_error

REWIND_TARGET = "rewind_target"
"""The key of a state that says whether a run may go back to it: one that the steps alone have called for."""


def rotate(root: Path, newest: int, config: CheckpointConfig) -> None:
    """Delete what is not kept. Steps past ``newest`` are damaged ones that the run fell back from: they go first.

    The newest one that a run may go back to stays, however many were written out of turn since.
    """
    try:
        found = checkpoint_folders(root)
        later = sorted(step for step in found if step > newest)
        kept = {step: folder for step, folder in found.items() if step <= newest}
        target = _rewind_target(kept, config.every)
        former = [step for step in sorted(kept)[: -config.keep_last] if step != target]
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


def delete_after(root: Path, step: int) -> None:
    """Delete the checkpoints past a step, which the run fell or went back from."""
    found = checkpoint_folders(root)
    for later in sorted(other for other in found if other > step):
        delete(found[later])


def _rewind_target(found: dict[int, Path], every: int) -> int | None:
    """The newest one that the run may go back to; ``None`` if it never does, by the state of the newest."""
    for step in sorted(found, reverse=True):
        with suppress(CorruptCheckpointError):  # it is none
            file = found[step] / STATE
            state = parse_json(file, read_json(file))
            if step == max(found) and REWIND_TARGET not in state:
                return None
            if state.get(REWIND_TARGET, step % every == 0):
                return step
    return None


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
