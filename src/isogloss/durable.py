"""Files and folders that are on the disk when we say so, and whole or not at all.

The order is the same for both: written under another name, flushed, renamed, and the list of names that holds the new
one flushed too. Before the renaming there is what was there before; after the last flush it survives a power cut.
"""

import contextlib
import errno
import hashlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from isogloss.headway import advance

_AT_ONCE = 1 << 24  # bytes
DISK_FULL = {
    errno.ENOSPC: "the disk is full",
    errno.EDQUOT: "the quota on this disk is used up",
    errno.EFBIG: "a file may not become so large here (ulimit -f)",
}
"""Errors that say there is no room, in words."""


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
        synced: wait until it and its name are on the disk, so that it survives a power cut too.

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
        if synced:
            sync_folder(path.parent)
    except BaseException:
        with contextlib.suppress(OSError):
            aside.unlink(missing_ok=True)
        raise


@contextlib.contextmanager
def whole_folder(folder: Path) -> Iterator[Path]:
    """A folder to fill, given empty: it is at its place, on the disk with all that is in it, if the block ends well.

    One process at a time. What was at its place gives way in the end; what a killed process left is removed first.

    Raises:
        OSError: it cannot be written; nothing is left behind, and what was at its place stays.
    """
    aside = folder.with_name(f".{folder.name}.aside")
    shutil.rmtree(aside, ignore_errors=True)
    try:
        aside.mkdir(parents=True)
        yield aside
        put_folder(aside, folder)
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def put_folder(aside: Path, folder: Path) -> None:
    """Rename a folder that is complete to its place, when all that is in it is on the disk.

    What was there is renamed before it is deleted: nothing that bears the folder's name is ever half there.

    Raises:
        OSError: it cannot be done.
    """
    for parent, _, names in os.walk(aside, topdown=False):
        for name in names:
            with Path(parent, name).open("rb" if os.name == "posix" else "rb+") as stream:
                os.fsync(stream.fileno())
        sync_folder(Path(parent))
    former = folder.with_name(f".{folder.name}.former")
    _delete(former)
    with contextlib.suppress(FileNotFoundError):
        folder.rename(former)
    try:
        aside.rename(folder)
    except OSError:
        with contextlib.suppress(OSError):  # what failed first is to be said
            former.rename(folder)
        raise
    sync_folder(folder.parent)
    _delete(former)


def _delete(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
