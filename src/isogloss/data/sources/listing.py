"""The input cut into units, so that all cores have work whatever the files' sizes are."""

import os
from collections.abc import Sequence
from pathlib import Path

from isogloss.config.base import UserError
from isogloss.data.sources import hub, parquet
from isogloss.data.sources.files import SourceFile, endings, find_files
from isogloss.data.sources.units import Unit

UNIT_BYTES = 64 << 20


def list_units(paths: Sequence[str | Path], unit_bytes: int = UNIT_BYTES) -> list[Unit]:
    """The units of all files that ``paths`` name, in a fixed order.

    Args:
        paths: files, folders, globs and ``hf:`` names.
        unit_bytes: uncompressed JSON lines longer than this are cut into parts of this size (to within a line), Parquet
            files into row groups of about as much.

    Raises:
        UserError: a path names nothing, a file may not be read, or a library that it needs is not installed.
    """
    units: list[Unit] = []
    for file in find_files(paths):
        try:
            starts, size, mtime_ns = _cut_hub(file) if file.is_hub else _cut_file(file.path, unit_bytes)
        except OSError as error:
            raise UserError(f"{file.path}: cannot be read ({error.strerror}); mend that, or leave it out") from error
        ends = [*starts[1:], None]
        units += [Unit(file.path, file.name, *part, size, mtime_ns) for part in zip(starts, ends, strict=True)]
    return units


def _cut_hub(file: SourceFile) -> tuple[Sequence[int], int, int]:
    return range(hub.count_shards(file.name)), 0, 0


def _cut_file(path: Path, unit_bytes: int) -> tuple[Sequence[int], int, int]:
    with path.open("rb") as stream:
        status = os.fstat(stream.fileno())
    match endings(path):
        case ".jsonl", "":
            starts = range(0, max(1, status.st_size), unit_bytes)
        case ".parquet", "":
            starts = parquet.cut(path, unit_bytes)
        case ".parquet", compression:
            raise UserError(f"{path}: Parquet compresses by itself and cannot be read as {compression}; decompress it")
        case _:
            starts = (0,)
    return starts, status.st_size, status.st_mtime_ns
