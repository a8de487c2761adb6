"""The input cut into units, so that all cores have work whatever the files' sizes are."""

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from io import BufferedIOBase
from pathlib import Path

from isogloss.config.base import UserError
from isogloss.data.sources import hub, parquet
from isogloss.data.sources.csv_table import find_delimiter
from isogloss.data.sources.files import WITH_ENDING, SourceFile, endings, find_files
from isogloss.data.sources.formats import HEAD_BYTES, OPTIONAL_ENDINGS, Kind, needs_head, recognise
from isogloss.data.sources.json_values import split_values
from isogloss.data.sources.lines import decode_blocks, read_blocks, split_lines
from isogloss.data.sources.records import BadRecordError, NoObjectError, find_field, parse_record
from isogloss.data.sources.tally import Tallies, count_one
from isogloss.data.sources.units import ReadSettings, Unit

UNIT_BYTES = 64 << 20


@dataclass(frozen=True)
class Listing:
    """What paths name: the units that are read, and what was found and is not."""

    units: list[Unit]
    passed_over: Tallies = field(default_factory=dict)
    """By reason."""


def list_units(
    paths: Sequence[str | Path], unit_bytes: int = UNIT_BYTES, settings: ReadSettings | None = None
) -> list[Unit]:
    """The units of all files that ``paths`` name, in a fixed order, as ``list_inputs`` finds them."""
    return list_inputs(paths, unit_bytes, settings).units


def list_inputs(
    paths: Sequence[str | Path], unit_bytes: int = UNIT_BYTES, settings: ReadSettings | None = None
) -> Listing:
    """The units of all files that ``paths`` name, in a fixed order, and what is passed over.

    Args:
        paths: files, folders, globs and ``hf:`` names.
        unit_bytes: uncompressed JSON lines longer than this are cut into parts of this size (to within a line), Parquet
            files into row groups of about as much.
        settings: how the files are read.

    Raises:
        UserError: a path names nothing, a file may not be read, or a library that it needs is not installed.
    """
    settings = settings or ReadSettings()
    listing = Listing([])

    def skip(path: Path, reason: str) -> None:
        count_one(listing.passed_over, reason, str(path))

    for file in find_files(paths, skip):
        try:
            units = _cut_hub(file) if file.is_hub else _cut_file(file, unit_bytes, settings)
        except OSError as error:
            raise UserError(f"{file.path}: cannot be read ({error.strerror}); mend that, or leave it out") from error
        except _NoTextError as error:
            skip(file.path, str(error))
        else:
            listing.units.extend(units)
    if not listing.units:
        reasons = "; ".join(f"{tally.first}: {reason}" for reason, tally in listing.passed_over.items())
        raise UserError(f"{', '.join(map(str, paths))}: no file there is read ({reasons})")
    return listing


class _NoTextError(Exception):
    """Why a file of a folder is no data."""


def _cut_hub(file: SourceFile) -> list[Unit]:
    starts = range(hub.count_shards(file.name))
    return [Unit(file.path, file.name, *part, 0, 0) for part in _parts(starts)]


def _parts(starts: Sequence[int]) -> Iterator[tuple[int, int | None]]:
    return zip(starts, [*starts[1:], None], strict=True)


def _cut_file(file: SourceFile, unit_bytes: int, settings: ReadSettings) -> list[Unit]:
    path = file.path
    ending, compression = endings(path)
    with path.open("rb") as stream:
        status = os.fstat(stream.fileno())
        is_optional = file.is_searched and settings.format == "auto" and ending in OPTIONAL_ENDINGS
        has_head = is_optional or needs_head(ending, settings.format)
        head = _read_head(stream, compression, settings.encoding) if has_head else b""
    kind = recognise(ending, head, settings.format)
    if is_optional and not _has_text(kind, head, settings):
        wanted = " or ".join(repr(name) for name in settings.fields)
        raise _NoTextError(f"{WITH_ENDING}{ending} and no field {wanted}")
    starts: Sequence[int] = (0,)
    if kind == "parquet":
        if compression:
            raise UserError(f"{path}: Parquet compresses by itself and cannot be read as {compression}; decompress it")
        starts = parquet.cut(path, unit_bytes)
    elif kind == "lines" and not compression and settings.encoding is None:
        starts = range(0, max(1, status.st_size), unit_bytes)
    facts = status.st_size, status.st_mtime_ns, kind, status.st_ino, status.st_ctime_ns
    return [Unit(path, file.name, *part, *facts) for part in _parts(starts)]


def _read_head(stream: BufferedIOBase, compression: str, encoding: str | None) -> bytes:
    """The first bytes of the content; as much as can be read, where it is damaged."""
    head = b""
    try:
        for block in decode_blocks(read_blocks(stream, compression), encoding):
            head += block
            if len(head) >= HEAD_BYTES:
                break
    except BadRecordError:  # whoever reads it reports it
        pass
    return head[:HEAD_BYTES]


def _has_text(kind: Kind, head: bytes, settings: ReadSettings) -> bool:
    """Whether the first record has the text's field; also where it cannot be seen, so that what is wrong is said."""
    try:
        if kind in ("csv", "tsv"):
            find_delimiter(head.partition(b"\n")[0].decode("utf-8-sig", "replace"), kind, settings.text_field)
            return True
        if kind == "lines":
            first = next((line.content for line in split_lines([head], HEAD_BYTES) if line.content.strip()), b"")
        else:
            first = next(split_values([head], HEAD_BYTES, kind == "array")).content
        record = parse_record(first.removeprefix(b"\xef\xbb\xbf"))
    except NoObjectError:
        return False
    except BadRecordError:
        return kind not in ("csv", "tsv")
    except StopIteration:
        return True
    try:
        find_field(record, settings.text_field)
    except BadRecordError:
        return False
    return True
