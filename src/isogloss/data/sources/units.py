"""Pieces of the input that one worker reads alone, so that all cores have work whatever the files' sizes are."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from isogloss.config.base import UserError
from isogloss.data.sources.files import endings, find_files


@dataclass(frozen=True)
class Unit:
    """A file, or a part of it, as it was when it was listed."""

    path: Path
    name: str
    """Relative to what the user named, for messages and the manifest."""
    start: int
    """Where it begins: a byte of uncompressed JSON lines (a line belongs to the unit it begins in), a row group of a
    Parquet file, a shard of a dataset of the hub; 0 for a whole file."""
    end: int | None
    """Where the next one begins; None for the last of its file."""
    size: int
    """Of the whole file, in bytes; 0 for a dataset of the hub."""
    mtime_ns: int


def list_units(paths: Sequence[str | Path], unit_bytes: int = 64 << 20) -> list[Unit]:
    """The units of all files that ``paths`` name, in a fixed order.

    Args:
        paths: files, folders, globs and ``hf:`` names.
        unit_bytes: uncompressed JSON lines longer than this are cut into parts of about this size.

    Raises:
        UserError: a path names nothing, or a file may not be read.
    """
    units: list[Unit] = []
    for file in find_files(paths):
        try:
            status = file.path.stat()
        except OSError as error:
            raise UserError(f"{file.path}: cannot be read ({error.strerror})") from error
        if not os.access(file.path, os.R_OK):
            raise UserError(f"{file.path}: cannot be read (Permission denied); change its permissions, or leave it out")
        starts = range(0, max(1, status.st_size), unit_bytes) if endings(file.path) == (".jsonl", "") else range(1)
        ends = [*starts[1:], None]
        units += [
            Unit(file.path, file.name, start, end, status.st_size, status.st_mtime_ns)
            for start, end in zip(starts, ends, strict=True)
        ]
    return units
