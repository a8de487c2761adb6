"""Whether the disk has room for the next checkpoints, before any of one is written.

``keep_last + 1`` are there at once: the oldest goes only when the newest is whole, and what is kept for good comes on
top. What the system says of a disk is taken for true, but where it is known not to be: a file system that compresses
holds more, and some report nothing, or nothing free, and can be written. A quota is not seen here: it shows in writing.
"""

import math
import os
import shutil
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from isogloss.checkpoint.config import CheckpointConfig
from isogloss.checkpoint.layout import ASIDE, checkpoint_folders
from isogloss.config.base import UserError
from isogloss.durable import DISK_FULL, sync

_COMPRESSING = ("btrfs", "zfs", "f2fs", "bcachefs")
_PROBE = 1 << 16  # bytes


def check_room(root: Path, size: int, steps: int, config: CheckpointConfig, warn: Callable[[str], None]) -> None:
    """Refuse to begin where not even the next checkpoint fits; warn where all that are to be there do not.

    Args:
        root: the folder that holds a run's checkpoints, or will.
        size: bytes of a checkpoint.
        steps: of the whole run.
        config: which are kept.
        warn: hears that they do not fit, or may not.

    Raises:
        UserError: the next one does not fit.
    """
    free = free_bytes(root)
    if free is None:
        return
    free += sum(path.stat().st_size for path in root.glob(f"{ASIDE}*/*"))  # what the first save sweeps away
    wanted = max(1, most_at_once(steps, config) - len(checkpoint_folders(root)))
    remedy = "free some space, or set runs_dir to a folder on a larger disk"
    if size > free:
        text = f"{root} has {free:,} bytes free, and a checkpoint needs {size:,}: {remedy}"
        if not _compresses(root):
            raise UserError(text)
        warn(f"{text}, unless they are compressed to so little")
    elif wanted * size > free:
        kept = "checkpoint.keep_last" if config.keep_every is None else "checkpoint.keep_last and checkpoint.keep_every"
        warn(
            f"{root} has {free:,} bytes free, and the {wanted:,} checkpoints that are still to be there at once need "
            f"{wanted * size:,}: {remedy}, or keep fewer ({kept})"
        )


def most_at_once(steps: int, config: CheckpointConfig) -> int:
    """Checkpoints that are there while the last one is written, if none is written out of turn."""
    earlier = range(config.every, steps, config.every)
    newest = [*earlier[-config.keep_last :], steps]
    if config.keep_every is None:
        return len(newest)
    for_good = range(0, steps, math.lcm(config.every, config.keep_every))[1:]
    return len(newest) + len(for_good) - sum(step in for_good for step in newest)


def short_of_room(root: Path, size: int) -> str | None:
    """What to say before a save of ``size`` bytes for which the disk seems too full; it is tried all the same."""
    free = free_bytes(root)
    if free is None or size <= free:
        return None
    return f"{root} has {free:,} bytes free, and the checkpoint that is to be written now needs {size:,}"


def free_bytes(folder: Path) -> int | None:
    """Bytes that this user may still write on a folder's disk; ``None`` where the system does not know.

    Args:
        folder: it, or the nearest folder above that is there, is asked for.
    """
    there = next(path for path in (folder, *folder.absolute().parents) if path.is_dir())
    try:
        usage = shutil.disk_usage(there)
    except OSError:
        return None
    if usage.total == 0 or (usage.free == 0 and _can_be_written(there)):
        return None
    return usage.free


def _can_be_written(folder: Path) -> bool:
    probe = folder / f".room.{os.getpid()}"
    try:
        with probe.open("wb") as stream:
            stream.write(os.urandom(_PROBE))
            sync(stream)
    except OSError as error:
        return error.errno not in DISK_FULL  # other trouble is not of room, and told by whoever meets it
    finally:
        with suppress(OSError):  # there may be none, and a disk that is read-only says so even then
            probe.unlink()
    return True


def _compresses(folder: Path) -> bool:
    """Whether a folder's file system may hold more than it has room for (Linux; no elsewhere)."""
    try:
        lines = Path("/proc/self/mounts").read_text(encoding="utf-8", errors="surrogateescape").splitlines()
    except OSError:
        return False
    place = folder.absolute()
    above = [fields for line in lines if place.is_relative_to((fields := line.split())[1])]
    return max(above, key=lambda fields: len(fields[1]))[2] in _COMPRESSING if above else False
