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
from isogloss.data.sources.account import Account
from isogloss.data.sources.csv_table import read_csv
from isogloss.data.sources.files import HUB, endings
from isogloss.data.sources.filters import Filters
from isogloss.data.sources.formats import BYTE_ORDER_MARK
from isogloss.data.sources.json_values import split_values
from isogloss.data.sources.lines import BLOCK_BYTES, Line, decode_blocks, read_blocks, split_lines
from isogloss.data.sources.listing import list_inputs
from isogloss.data.sources.records import (
    EXCERPT_BYTES,
    BadRecord,
    BadRecordError,
    Document,
    Dropped,
    Suspicion,
    decode,
    parse_line,
)
from isogloss.data.sources.suspicion import find_suspicions
from isogloss.data.sources.tally import merge
from isogloss.data.sources.units import ReadSettings, Unit

Record = Document | BadRecord | Dropped | Suspicion


def read_documents(
    paths: str | Path | Iterable[str | Path], settings: ReadSettings | None = None, account: Account | None = None
) -> Iterator[Document]:
    """The documents of all files that ``paths`` name, streamed, by the rules of ``isogloss data prepare``.

    Args:
        paths: files, folders, globs and ``hf:`` names; one alone, or some.
        settings: how they are read.
        account: counts what is left out, and says how many bad records may be; without it none.

    Yields:
        Documents with text, in a fixed order; line ``n`` of JSON lines is named ``<file>:<n>``. A byte-order mark is
        not text.

    Raises:
        UserError: a path names nothing, or a record cannot be read (with its file and line).
    """
    settings, account = settings or ReadSettings(), account or Account()
    named = listed(paths) if isinstance(paths, str | Path) else list(paths)
    listing = list_inputs(named, sys.maxsize, settings)
    merge(account.passed_over, listing.passed_over)
    for unit in listing.units:
        for record in read_unit(unit, settings):
            if isinstance(record, Document):
                yield record
            else:
                account.add(record)


def read_unit(unit: Unit, settings: ReadSettings) -> Iterator[Record]:
    """Every record of a unit, in order: its document, or why there is none; what is odd about one comes before it.

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
            where = f"{unit.path}{record.name.removeprefix(unit.name)}"
            yield from (Suspicion(where, what) for what in find_suspicions(record.text, unit.kind))
            yield record


def _read(unit: Unit, settings: ReadSettings) -> Iterator[Document | BadRecord]:
    if unit.name.startswith(HUB):
        yield from hub.read_shard(unit, settings)
        return
    with _open(unit) as stream:
        if unit.kind == "parquet":
            yield from parquet.read_table(unit, stream, settings)
            return
        if unit.kind == "lines":  # the stream is moved to where the unit's lines begin
            yield from _read_records(unit, _lines_of_unit(unit, stream, settings), settings)
            return
        blocks = decode_blocks(read_blocks(stream, endings(unit.path)[1]), settings.encoding)
        if unit.kind in ("csv", "tsv"):
            yield from read_csv(unit, blocks, settings)
        elif unit.kind in ("array", "values"):
            values = split_values(blocks, settings.max_document_bytes, in_array=unit.kind == "array")
            yield from _read_records(unit, values, settings)
        elif settings.separator is None:
            yield _read_text(unit, blocks, settings)
        else:
            yield from _read_separated(unit, blocks, settings, settings.separator)


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
    if (status.st_size, status.st_mtime_ns, status.st_ctime_ns) != (unit.size, unit.mtime_ns, unit.ctime_ns):
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


def _read_separated(
    unit: Unit, blocks: Iterable[bytes], settings: ReadSettings, separator: str
) -> Iterator[Document | BadRecord]:
    """The documents of a text file, named by their number; a blank beginning or end of the file is none.

    A line break beside a separator belongs to it.
    """
    number, held = 0, None  # a piece is held until another follows, as the last may be blank
    pieces = split_lines(blocks, settings.max_document_bytes, end=separator.encode())
    while True:
        piece = problem = None
        try:
            piece = next(pieces, None)
        except BadRecordError as error:
            problem = error
        if held is not None and (piece or problem or held.strip()):
            number += 1
            yield Document(f"{unit.name}:{number}", held)
        held = None
        if piece is not None:
            try:
                settings.check_size(piece.too_long)
                text = decode(piece.content)
            except BadRecordError as error:
                number += 1
                yield BadRecord(f"{unit.path}:{number}", str(error), piece.content[:EXCERPT_BYTES])
            else:
                text = _strip_breaks(text if piece.start else text.removeprefix("\ufeff"), separator)
                held = text if piece.start or text.strip() else None
            continue
        if problem is not None:
            yield BadRecord(f"{unit.path}:{number + 1}", str(problem))
        return


def _strip_breaks(text: str, separator: str) -> str:
    """Without the line breaks beside the separators, which may be made of them."""
    if "\n" in separator:
        return text.removesuffix("\r") if separator.startswith("\n") else text
    for end in ("\r\n", "\n"):
        if text.startswith(end):
            text = text.removeprefix(end)
            break
    return text.removesuffix("\n").removesuffix("\r")


def _read_records(unit: Unit, lines: Iterator[Line], settings: ReadSettings) -> Iterator[Document | BadRecord]:
    before: int | None = None if unit.start else 0
    number = 0

    def bad(why: str, excerpt: bytes = b"") -> BadRecord:
        nonlocal before
        if before is None:  # only the first bad record of a part has the lines before it counted
            before = _count_lines(unit)
        return BadRecord(f"{unit.path}:{before + number}", why, excerpt[:EXCERPT_BYTES])

    while True:
        number += 1
        try:
            if (line := next(lines, None)) is None:
                return
        except BadRecordError as error:
            yield bad(str(error))
            return
        content = line.content if line.start else line.content.removeprefix(BYTE_ORDER_MARK)
        if unit.kind == "lines" and not content.strip() and not line.too_long:
            continue
        try:
            settings.check_size(line.too_long)
            text = parse_line(content, settings.text_field)
        except BadRecordError as error:
            yield bad(str(error), content)
        else:
            yield Document(f"{unit.name}@{line.start}" if unit.start else f"{unit.name}:{number}", text)


def _lines_of_unit(unit: Unit, stream: BufferedIOBase, settings: ReadSettings) -> Iterator[Line]:
    """The lines that begin in the unit."""
    start = _find_line(stream, unit) if unit.start else 0
    end = sys.maxsize if unit.end is None else unit.end
    if start >= end:
        return iter(())
    blocks = read_blocks(stream, endings(unit.path)[1])
    if start == 0:
        blocks = decode_blocks(blocks, settings.encoding)
    lines = split_lines(blocks, settings.max_document_bytes, start)
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
