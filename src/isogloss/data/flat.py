"""Numbers in flat files, read by position while others may change the file.

A mapping into memory would be as fast, but where a file is cut short under it, or a disk fails, the system kills the
process (SIGBUS). A read that finds too little is an error with a name.
"""

import os
import threading
import weakref
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int, Integer

from isogloss.config.base import UserError

_SEEKING = threading.Lock()


class FlatFile:
    """A flat file of numbers of one type, indexed by arrays of positions as an array is.

    Args:
        path: the file; it stays open, so that one put in its place later changes nothing.
        dtype: of the numbers.

    Raises:
        OSError: it cannot be opened.
    """

    def __init__(self, path: Path, dtype: str) -> None:
        self.path, self.dtype = path, np.dtype(dtype)
        self._handle = os.open(path, os.O_RDONLY | getattr(os, "O_BINARY", 0))
        weakref.finalize(self, os.close, self._handle)
        self._n = os.fstat(self._handle).st_size // self.dtype.itemsize

    def __len__(self) -> int:
        return self._n

    def __getitem__(self, positions: Int[np.ndarray, "..."]) -> Integer[np.ndarray, "..."]:
        """The numbers at some positions, with one read for each run of neighbours.

        Raises:
            UserError: the file is shorter than it was.
        """
        flat = positions.reshape(-1)
        found = np.empty(len(flat), self.dtype)
        edges = np.flatnonzero(np.diff(flat) != 1) + 1
        for begin, end in zip([0, *edges.tolist()], [*edges.tolist(), len(flat)], strict=True):
            if begin < end:
                self._read(found[begin:end], int(flat[begin]))
        return found.reshape(positions.shape)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return self[np.arange(self._n)].astype(dtype or self.dtype)

    def _read(self, into: Integer[np.ndarray, "N"], position: int) -> None:
        left, at = into.data.cast("B"), position * self.dtype.itemsize
        while left:
            try:
                n = _read_at(self._handle, left, at)
            except OSError as error:
                raise UserError(f"{self.path}: cannot be read any more ({error.strerror}); check its disk") from error
            if n == 0:
                raise UserError(
                    f"{self.path}: was cut short while it was read: it ends at byte {at:,}; "
                    "prepare the corpus again, and let nothing else write there"
                )
            left, at = left[n:], at + n


def _read_at(handle: int, into: memoryview, at: int) -> int:
    """Read from a place in a file into memory; how many bytes."""
    if hasattr(os, "preadv"):
        return os.preadv(handle, [into], at)
    with _SEEKING:  # Windows has one place for each file
        os.lseek(handle, at, os.SEEK_SET)
        data = os.read(handle, len(into))
    into[: len(data)] = data
    return len(data)


def check_size(path: Path, size: int) -> None:
    """Make sure that a file that is mapped into memory is as long as it was; to be called before each use.

    Raises:
        UserError: it is shorter; reading the mapping would end the process.
    """
    try:
        now = path.stat().st_size
    except FileNotFoundError:  # the mapping holds what it was made of
        return
    if now < size:
        raise UserError(
            f"{path}: was cut short while it was read, from {size:,} bytes to {now:,}; "
            "prepare the corpus again, and let nothing else write there"
        )
