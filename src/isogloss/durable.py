"""Files and folders that are on the disk when we say so, and whole or not at all.

The order is the same for both: written under another name, flushed, renamed, and the list of names that holds the new
one flushed too. Before the renaming there is what was there before; after the last flush it survives a power cut.

Some file systems cannot flush a folder (CIFS, FUSE) or lock a file (NFS). There the work goes on without, and a warning
says once which promise is weaker.
"""

import contextlib
import errno
import hashlib
import os
import shutil
import sys
from collections.abc import Iterator
from multiprocessing import parent_process
from pathlib import Path
from typing import BinaryIO, TextIO

import filelock

from isogloss.headway import advance
from isogloss.streams import say_error

_AT_ONCE = 1 << 24  # bytes
DISK_FULL = {
    errno.ENOSPC: "the disk is full",
    errno.EDQUOT: "the quota on this disk is used up",
    errno.EFBIG: "a file may not become so large here (ulimit -f)",
}
"""Errors that say there is no room, in words."""


NOT_OFFERED = frozenset({errno.EINVAL, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOTTY, errno.ENOLCK})
"""Errors by which a file system says that it does not have an operation."""
_WEAKER = {
    "flush": "what was saved last may be lost in a power cut, though not when a process is killed",
    "mapping": "files are read into memory whole",
    "lock": "nothing keeps a second process from writing there at the same time; start none",
}
_said: set[str] = set()


def sync(stream: BinaryIO | TextIO) -> None:
    """Flush an open file down to the disk."""
    stream.flush()
    _flush(stream.fileno(), stream.name)


def sync_folder(folder: Path) -> None:
    """Bring a folder's list of names to the disk, where the file system offers that."""
    if os.name != "posix":
        return
    try:
        handle = os.open(folder, os.O_RDONLY)
    except PermissionError as error:  # names may be written to it, and not be listed
        weaken("flush", folder, error)
        return
    try:
        _flush(handle, folder, (errno.EACCES, errno.EPERM, errno.EBADF, errno.EISDIR))
    finally:
        os.close(handle)


def _flush(handle: int, path: object, also: tuple[int, ...] = ()) -> None:
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in (*NOT_OFFERED, *also):
            error.filename = error.filename or str(path)
            raise
        weaken("flush", path, error)


def weaken(promise: str, path: object, error: OSError) -> None:
    """Warn once that a promise is weaker, on the first rank and not in the processes that work for it.

    Args:
        promise: ``flush``, ``lock`` or ``mapping``.
        path: whose file system does not offer it.
        error: by which it said so.
    """
    rank = os.environ.get("RANK", os.environ.get("SLURM_PROCID", "0"))
    if promise in _said or rank != "0" or parent_process() is not None:
        return
    _said.add(promise)
    say_error(
        f"isogloss: warning: {path}: its file system offers no {promise} ({error.strerror}): {_WEAKER[promise]} "
        "(docs/reliability.md)"
    )


class FileLock:
    """A lock on a file, that the system releases even when the process is killed; none where that is not offered."""

    def __init__(self, path: Path, timeout: float = -1) -> None:
        self._path, self._timeout = path, timeout
        self._lock = filelock.FileLock(path)

    def acquire(self, timeout: float | None = None) -> None:
        """Take the lock.

        Args:
            timeout: in seconds; for ever if negative.

        Raises:
            filelock.Timeout: another process holds it.
            OSError: the file cannot be written.
        """
        try:
            self._probe()
            self._lock.acquire(timeout=self._timeout if timeout is None else timeout)
        except OSError as error:
            if isinstance(error, filelock.Timeout) or error.errno not in NOT_OFFERED:
                error.filename = error.filename or str(self._path)
                raise
            weaken("lock", self._path.parent, error)

    @property
    def is_held(self) -> bool:
        """Whether this process has it; not where the file system offers none."""
        return self._lock.is_locked

    def release(self) -> None:
        """Let another process take it."""
        self._lock.release()

    def _probe(self) -> None:
        """Lock another file beside it: what the library does on an error differs between its versions."""
        if sys.platform == "win32":
            return
        import fcntl

        probe = self._path.with_name(f".{self._path.name}.{os.getpid()}")
        try:
            handle = os.open(probe, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError:  # whoever takes the lock says what is wrong
            return
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        finally:
            os.close(handle)
            probe.unlink(missing_ok=True)

    def __enter__(self) -> "FileLock":
        self.acquire()
        return self

    def __exit__(self, *_: object) -> None:
        self.release()


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
                sync(stream)
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
    with contextlib.suppress(OSError):  # the new one is there; what is left goes the next time
        _delete(former)


def _delete(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
