"""Tables in CSV: the header names the columns, one of which holds the text; RFC 4180, with ``""`` for a quote."""

import csv
from collections.abc import Iterable, Iterator
from itertools import chain

from isogloss.data.sources.lines import split_lines
from isogloss.data.sources.records import EXCERPT_BYTES, BadRecord, BadRecordError, Document, find_field
from isogloss.data.sources.units import ReadSettings, Unit

DELIMITERS = {"csv": ",;\t", "tsv": "\t,;"}
"""Those that are tried, in this order, until one finds the text's column."""


def find_delimiter(header: str, kind: str, text_field: str | None) -> str:
    """What separates the columns.

    Raises:
        BadRecordError: no column holds the text, or two do.
    """
    problem: BadRecordError | None = None
    for delimiter in DELIMITERS[kind]:
        names = next(csv.reader([header], delimiter=delimiter), [])
        try:
            field = find_field(names, text_field)
        except BadRecordError as error:
            problem = problem or error
            continue
        if names.count(field) > 1:
            raise BadRecordError(f"column '{field}' is given {names.count(field)} times in the header")
        return delimiter
    assert problem is not None
    raise problem


def read_csv(unit: Unit, blocks: Iterable[bytes], settings: ReadSettings) -> Iterator[Document | BadRecord]:
    """The texts of a table's rows, named by the line on which each begins.

    Args:
        unit: the file.
        blocks: its content, in UTF-8.
        settings: how to read it.
    """
    csv.field_size_limit(settings.max_document_bytes)
    lines = _lines(blocks, settings)
    number = 1
    try:
        header = next(lines, "").removeprefix("\ufeff")
        if not header:
            return
        delimiter = find_delimiter(header, unit.kind, settings.text_field)
        rows = csv.reader(chain([header], lines), delimiter=delimiter, strict=True)
        names = next(rows)
        at = names.index(find_field(names, settings.text_field))
    except (BadRecordError, csv.Error) as error:
        advice = "name the text's column by data.text_field, or read it all as text by data.format=text"
        yield BadRecord(f"{unit.path}:{number}", f"the header: {error}; {advice}")
        return
    while True:
        number, row = rows.line_num + 1, None
        try:
            row = next(rows, None)
            if row is None:
                return
            if not row:
                continue
            text = _take(row, at, len(names))
            settings.check_size(len(text.encode()))
        except csv.Error as error:
            yield BadRecord(f"{unit.path}:{number}", _explain(error))
            if _loses_rest(error):
                return
        except _LineError as error:
            yield BadRecord(f"{unit.path}:{number}", f"{error}; the rest of the table is lost")
            return
        except BadRecordError as error:
            excerpt = delimiter.join(row or []).encode("utf-8", "surrogateescape")
            yield BadRecord(f"{unit.path}:{number}", str(error), excerpt[:EXCERPT_BYTES])
        else:
            yield Document(f"{unit.name}:{number}", text)


class _LineError(BadRecordError):
    """What is wrong with the stream itself."""


def _lines(blocks: Iterable[bytes], settings: ReadSettings) -> Iterator[str]:
    try:
        for line in split_lines(blocks, settings.max_document_bytes):
            settings.check_size(line.too_long)
            yield line.content.decode("utf-8", "surrogateescape") + "\n"  # a bad byte is one row's matter
    except BadRecordError as error:
        raise _LineError(str(error)) from error


def _take(row: list[str], at: int, n_columns: int) -> str:
    if len(row) != n_columns:
        raise BadRecordError(f"the row has {len(row)} columns, the header {n_columns}")
    text = row[at]
    if not text.isascii() and any("\udc80" <= character <= "\udcff" for character in text):
        raise BadRecordError("not UTF-8; convert it to UTF-8, or set data.encoding, such as data.encoding=cp1252")
    return text


def _loses_rest(error: csv.Error) -> bool:
    return "field larger" in str(error) or "unexpected end" in str(error)


def _explain(error: csv.Error) -> str:
    if "field larger" in str(error):
        return "a column of more than max_document_bytes; a quote may not be closed; the rest of the table is lost"
    if "unexpected end" in str(error):
        return "a quote is opened and not closed; the rest of the table is lost"
    return f"not CSV: {error}"
