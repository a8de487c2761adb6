"""What reading yields, a document, a bad record or a dropped one, and how a line of JSON becomes one of them.

Nothing is lost in silence: what cannot be used is yielded too, with its place and the reason.
"""

import json
from collections import Counter
from dataclasses import dataclass
from typing import Any, NoReturn

TEXT_FIELDS = ("text", "content")
EXCERPT_BYTES = 200


@dataclass(frozen=True)
class Document:
    """A text and the name that identifies it within its corpus, wherever the corpus lies."""

    name: str
    text: str


@dataclass(frozen=True)
class BadRecord:
    """A record, or the rest of a file, that cannot be read."""

    where: str
    """``file:line`` (of a Parquet file or a dataset: its row), or the file where all of it is meant."""
    why: str
    excerpt: bytes = b""
    """The first bytes of the record."""


@dataclass(frozen=True)
class Dropped:
    """A document that was read and is left out on purpose."""

    where: str
    reason: str
    """``empty``, or the filter's name and bound: few different ones, so that they can be counted."""


@dataclass(frozen=True)
class Suspicion:
    """What is odd about a document that is read all the same."""

    where: str
    what: str
    """Few different ones, so that they can be counted."""


class BadRecordError(Exception):
    """What is wrong with one record or file; where it is, the caller knows."""


class NoObjectError(BadRecordError):
    """A record that is JSON, but no object."""


def decode(data: bytes | bytearray) -> str:
    """UTF-8 to text.

    Raises:
        BadRecordError: it is not UTF-8.
    """
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise BadRecordError(
            f"not UTF-8: byte 0x{data[error.start]:02x} at offset {error.start} ({error.reason}); convert it to UTF-8"
            f"{_describe(bytes(data[:8]))}"
        ) from error


_MAGIC = {
    b"\xff\xfe": ", or set data.encoding=utf-16 (it begins with that byte order mark)",
    b"\xfe\xff": ", or set data.encoding=utf-16 (it begins with that byte order mark)",
    b"\x1f\x8b": "; it is gzip data, whose file's name ends in .gz",
    b"\x28\xb5\x2f\xfd": "; it is zstd data, whose file's name ends in .zst",
    b"PAR1": "; it is a Parquet table, whose name ends in .parquet",
    b"BZh": "; it is bzip2 data: unpack it, or compress it by gzip or zstd",
    b"\xfd7zXZ": "; it is xz data: unpack it, or compress it by gzip or zstd",
    b"PK\x03\x04": "; it is a zip archive: unpack it",
    b"%PDF": "; it is a PDF: extract its text",
}
"""What files begin with, and what mends it."""


def _describe(head: bytes) -> str:
    known = (mending for magic, mending in _MAGIC.items() if head.startswith(magic))
    return next(known, ", or set data.encoding, such as data.encoding=cp1252")


def parse_line(line: bytes, text_field: str | None) -> str:
    """The text of one JSON line.

    Args:
        line: without its line end.
        text_field: the field that holds the text; None: ``text``, or else ``content``.

    Raises:
        BadRecordError: it holds no text that can be used.
    """
    return take_text(parse_record(line), text_field)


def parse_record(data: bytes) -> dict[str, Any]:
    """The object of a JSON record.

    Raises:
        BadRecordError: it is none.
    """
    text = decode(data)
    try:
        record = _DECODER.decode(text)
    except json.JSONDecodeError as error:
        raise BadRecordError(f"not JSON: {error.msg} at column {error.colno}") from error
    except ValueError as error:  # Python refuses to read integers of thousands of digits
        raise BadRecordError(f"JSON that cannot be read: {error}") from error
    except RecursionError as error:
        raise BadRecordError("JSON that is nested too deeply") from error
    if not isinstance(record, dict):
        raise NoObjectError(f"not a JSON object but a {type(record).__name__}")
    return record


def take_text(record: dict[str, Any], text_field: str | None) -> str:
    """The text of a record that came from JSON, or from a table.

    Raises:
        BadRecordError: it holds no text that can be used.
    """
    field = find_field(record, text_field)
    if isinstance(record, _Repeating) and field in record.repeated:
        raise BadRecordError(f"field '{field}' is given twice")
    text = record[field]
    if not isinstance(text, str):
        raise BadRecordError(f"field '{field}' is not a string but a {type(text).__name__}")
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise BadRecordError(
            f"field '{field}' has the lone surrogate U+{ord(text[error.start]):04X} at character {error.start}"
        ) from error
    return text


def find_field(names: Any, text_field: str | None) -> str:
    """The name among ``names`` that holds the text.

    Raises:
        BadRecordError: none does.
    """
    wanted = TEXT_FIELDS if text_field is None else (text_field,)
    field = next((field for field in wanted if field in names), None)
    if field is None:
        found = ", ".join(repr(name) for name in list(names)[:8]) or "nothing"
        raise BadRecordError(f"no field {' or '.join(map(repr, wanted))} (it has {found})")
    return field


class _Repeating(dict[str, Any]):
    """A JSON object some of whose keys are given more than once; JSON itself would keep the last in silence."""

    def __init__(self, pairs: list[tuple[str, Any]]):
        super().__init__(pairs)
        self.repeated = {key for key, count in Counter(key for key, _ in pairs).items() if count > 1}


def _build_object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    built = dict(pairs)
    return built if len(built) == len(pairs) else _Repeating(pairs)


def _refuse_constant(name: str) -> NoReturn:
    raise BadRecordError(f"not JSON: {name} is no JSON value")


_DECODER = json.JSONDecoder(object_pairs_hook=_build_object, parse_constant=_refuse_constant)
