"""Files that are on the disk when we say so, and whole or not at all."""

import contextlib
import errno
import hashlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from isogloss.headway import advance

_AT_ONCE = 1 << 24  # bytes
DISK_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
"""Errors that say there is no room: the disk's, the user's quota, the process's limit."""


def sync(stream: BinaryIO) -> None:
    """Flush an open file down to the disk."""
    stream.flush()
    os.fsync(stream.fileno())


def sync_folder(folder: Path) -> None:
    """Bring a folder's list of names to the disk, where the system offers that."""
    if os.name == "posix":
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def hash_file(path: Path) -> str:
    """SHA-256 (hex) of a file's content."""
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while piece := stream.read(_AT_ONCE):
            digest.update(piece)
            advance()
    return digest.hexdigest()


def write_whole(path: Path, data: bytes) -> None:
    """Write a file so that it is there whole, or as it was before.

    Raises:
        OSError: it cannot be written; nothing is left behind.
    """
    aside = path.with_name(f".{path.name}.aside")
    try:
        with aside.open("wb") as stream:
            stream.write(data)
            sync(stream)
        aside.replace(path)
        sync_folder(path.parent)
    except OSError:
        with contextlib.suppress(OSError):
            aside.unlink(missing_ok=True)
        raise


@contextlib.contextmanager
def whole_file(path: Path, synced: bool = True) -> Iterator[BinaryIO]:
    """A file to write piece by piece: it is at its place only when the block ends well.

    Processes that write the same file do not disturb each other; the last one to end wins.

    Args:
        path: its place.
        synced: wait until it is on the disk, so that it survives a power cut too.

    Raises:
        OSError: it cannot be written; nothing is left behind.
    """
    aside = path.with_name(f".{path.name}.{os.getpid()}.aside")
    try:
        with aside.open("wb") as stream:
            yield stream
            if synced:
                sync(stream)
        aside.replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            aside.unlink(missing_ok=True)
        raise
