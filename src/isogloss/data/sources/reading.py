"""The documents of files, one at a time and in a fixed order; what cannot be used comes with its place and reason."""

import os
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from io import BufferedIOBase
from itertools import takewhile
from pathlib import Path

from isogloss.config.base import UserError
from isogloss.config.lists import listed
from isogloss.data.sources import hub, parquet
from isogloss.data.sources.files import HUB, endings
from isogloss.data.sources.filters import Filters
from isogloss.data.sources.lines import BLOCK_BYTES, Line, read_blocks, split_lines
from isogloss.data.sources.listing import list_units
from isogloss.data.sources.records import (
    EXCERPT_BYTES,
    BadRecord,
    BadRecordError,
    Document,
    Dropped,
    decode,
    parse_line,
)
from isogloss.data.sources.units import ReadSettings, Unit

BYTE_ORDER_MARK = b"\xef\xbb\xbf"


def read_documents(paths: str | Path | Iterable[str | Path]) -> Iterator[Document]:
    """The documents of all files that ``paths`` name, streamed.

    Args:
        paths: files, folders, globs and ``hf:`` names; one alone, or some.

    Yields:
        Documents in a fixed order, empty ones too; line ``n`` of JSON lines is named ``<file>:<n>``. A byte-order mark
        is not text.

    Raises:
        UserError: a path names nothing, or a record cannot be read (with its file and line).
    """
    settings = ReadSettings()
    for unit in list_units(listed(paths) if isinstance(paths, str | Path) else list(paths), unit_bytes=sys.maxsize):
        for record in _read(unit, settings):
            if isinstance(record, BadRecord):
                raise UserError(f"{record.where}: {record.why}; mend it, or leave it out")
            yield record


def read_unit(unit: Unit, settings: ReadSettings) -> Iterator[Document | BadRecord | Dropped]:
    """Every record of a unit, in order: its document, or why there is none.

    Args:
        unit: the piece of the input.
        settings: how to read it.

    Yields:
        Documents of JSON lines and tables are named ``<file>:<number>``, or ``<file>@<byte>`` where the unit begins in
        the midst of JSON lines and the number is not known. A blank line is no record.

    Raises:
        UserError: the file cannot be read, or is not what it was when it was listed.
    """
    filters = Filters(settings.filters)
    for record in _read(unit, settings):
        if isinstance(record, BadRecord):
            yield record
        elif not record.text:
            yield Dropped(record.name, "empty")
        elif reason := filters.reason_to_drop(record.text):
            yield Dropped(record.name, reason)
        else:
            yield record


def _read(unit: Unit, settings: ReadSettings) -> Iterator[Document | BadRecord]:
    if unit.name.startswith(HUB):
        yield from hub.read_shard(unit, settings)
        return
    content, compression = endings(unit.path)
    with _open(unit) as stream:
        if content == ".jsonl":
            yield from _read_lines(unit, stream, compression, settings)
        elif content == ".parquet":
            yield from parquet.read_table(unit, stream, settings)
        else:
            yield _read_text(unit, read_blocks(stream, compression), settings)


@contextmanager
def _open(unit: Unit) -> Iterator[BufferedIOBase]:
    """The unit's file, which must be and stay what was listed."""
    try:
        with unit.path.open("rb") as stream:
            _compare(unit, os.fstat(stream.fileno()))
            yield stream
        _compare(unit, unit.path.stat())
    except FileNotFoundError as error:
        raise UserError(f"{unit.path}: has vanished since the inputs were listed; put it back") from error
    except OSError as error:
        raise UserError(f"{unit.path}: cannot be read ({error.strerror})") from error


def _compare(unit: Unit, status: os.stat_result) -> None:
    if (status.st_size, status.st_mtime_ns) != (unit.size, unit.mtime_ns):
        raise UserError(
            f"{unit.path}: has changed since it was listed ({unit.size:,} bytes then, {status.st_size:,} now); "
            "wait until it is written to its end, then begin anew"
        )


def _read_text(unit: Unit, blocks: Iterable[bytes], settings: ReadSettings) -> Document | BadRecord:
    data = bytearray()
    try:
        for block in blocks:
            data += block
            if len(data) > settings.max_document_bytes:
                raise BadRecordError(f"a document of more than max_document_bytes = {settings.max_document_bytes:,}")
        text = decode(data)
    except BadRecordError as error:
        return BadRecord(str(unit.path), str(error), bytes(data[:EXCERPT_BYTES]))
    return Document(unit.name, text.removeprefix("\ufeff"))


def _read_lines(
    unit: Unit, stream: BufferedIOBase, compression: str, settings: ReadSettings
) -> Iterator[Document | BadRecord]:
    before: int | None = None if unit.start else 0
    number = 0

    def bad(why: str, excerpt: bytes = b"") -> BadRecord:
        nonlocal before
        if before is None:  # only the first bad record of a part has the lines before it counted
            before = _count_lines(unit)
        return BadRecord(f"{unit.path}:{before + number}", why, excerpt[:EXCERPT_BYTES])

    lines = _lines_of_unit(unit, stream, compression, settings.max_document_bytes)
    while True:
        number += 1
        try:
            if (line := next(lines, None)) is None:
                return
        except BadRecordError as error:
            yield bad(str(error))
            return
        content = line.content if line.start else line.content.removeprefix(BYTE_ORDER_MARK)
        if not content.strip() and not line.too_long:
            continue
        try:
            settings.check_size(line.too_long)
            text = parse_line(content, settings.text_field)
        except BadRecordError as error:
            yield bad(str(error), content)
        else:
            yield Document(f"{unit.name}@{line.start}" if unit.start else f"{unit.name}:{number}", text)


def _lines_of_unit(unit: Unit, stream: BufferedIOBase, compression: str, max_bytes: int) -> Iterator[Line]:
    """The lines that begin in the unit."""
    start = _find_line(stream, unit) if unit.start else 0
    end = sys.maxsize if unit.end is None else unit.end
    if start >= end:
        return iter(())
    lines = split_lines(read_blocks(stream, compression), max_bytes, start)
    return takewhile(lambda line: line.start < end, lines)


def _find_line(stream: BufferedIOBase, unit: Unit) -> int:
    """Move the stream to where the first line begins after the unit's beginning, or to its end or beyond."""
    position = unit.start - 1  # the byte before may be a line's end
    end = unit.size if unit.end is None else unit.end
    stream.seek(position)
    while position < end and (block := stream.read(BLOCK_BYTES)):
        if (found := block.find(b"\n")) >= 0:
            position += found + 1
            break
        position += len(block)
    stream.seek(position)
    return position


def _count_lines(unit: Unit) -> int:
    """How many lines begin before the unit."""
    count, left = 1, unit.start - 1
    with _open(unit) as stream:
        while block := stream.read(min(left, BLOCK_BYTES)):
            count += block.count(b"\n")
            left -= len(block)
    return count
