"""Arrays in files, mapped into memory; read into it where a file system does not offer that."""

import errno
from pathlib import Path

import numpy as np
from numpy.typing import DTypeLike

from isogloss.durable import NOT_OFFERED, weaken


def map_array(path: Path, dtype: DTypeLike, offset: int = 0, n_items: int | None = None) -> np.ndarray:
    """The items of a file from a byte on, all of them if ``n_items`` is not given.

    A plain view of the mapped memory, since numpy's class for it makes every small gather several times slower.

    Raises:
        OSError: the file cannot be read.
        ValueError: it is shorter.
    """
    try:
        return np.asarray(np.memmap(path, dtype, "r", offset, None if n_items is None else (n_items,)))
    except OSError as error:
        if error.errno not in (errno.ENODEV, *NOT_OFFERED):
            raise
        weaken("mapping", path, error)
        found = np.fromfile(path, dtype, -1 if n_items is None else n_items, offset=offset)
        if n_items not in (None, len(found)):
            raise ValueError(f"{path} is shorter than {n_items} items") from None
        return found


def map_npy(path: Path) -> np.ndarray:
    """The array of a ``.npy`` file.

    Raises:
        OSError: the file cannot be read.
        ValueError: it is none.
    """
    try:
        return np.asarray(np.load(path, mmap_mode="r"))
    except OSError as error:
        if error.errno not in (errno.ENODEV, *NOT_OFFERED):
            raise
        weaken("mapping", path, error)
        return np.load(path)
