"""A unit, the piece of the input that one worker reads alone, and how it is to be read."""

from dataclasses import dataclass, field
from pathlib import Path

from isogloss.data.sources.filters import FilterConfig
from isogloss.data.sources.formats import Format, Kind
from isogloss.data.sources.records import TEXT_FIELDS, BadRecordError

MAX_DOCUMENT_BYTES = 32 << 20


@dataclass(frozen=True)
class Unit:
    """A file, or a part of it, as it was when it was listed."""

    path: Path
    name: str
    """Relative to what the user named, for messages and the manifest."""
    start: int
    """Where it begins: a byte of uncompressed JSON lines (a line belongs to the unit it begins in), a row group of a
    Parquet file, a file of a dataset of the hub; 0 for a whole file."""
    end: int | None
    """Where the next one begins; None for the last of its file."""
    size: int
    """Of the whole file, in bytes; 0 for a dataset of the hub."""
    mtime_ns: int
    kind: Kind = "text"
    """How it is read."""
    inode: int = 0
    ctime_ns: int = 0
    """Of its last change of any sort, which no program can set."""

    @property
    def stamp(self) -> list[int]:
        """What differs once the file is another or has changed."""
        return [self.size, self.mtime_ns, self.inode, self.ctime_ns]


@dataclass(frozen=True)
class ReadSettings:
    """How records become documents."""

    text_field: str | None = None
    """The field that holds the text; None: ``text``, or else ``content``."""
    max_document_bytes: int = MAX_DOCUMENT_BYTES
    """A longer document (of JSON lines: a longer line) is a bad record; one of text or JSON is never held whole."""
    filters: FilterConfig = field(default_factory=FilterConfig)
    format: Format = "auto"
    """What the files hold; ``auto``: by ending and content."""
    encoding: str | None = None
    """Of text, JSON and CSV files; None: UTF-8."""
    separator: str | None = None
    """What stands between documents within a text file; None: a file is a document."""

    @property
    def fields(self) -> tuple[str, ...]:
        """The fields that may hold the text, the first that is there."""
        return TEXT_FIELDS if self.text_field is None else (self.text_field,)

    def check_size(self, n_bytes: int) -> None:
        """Refuse what is too large.

        Raises:
            BadRecordError: it is.
        """
        if n_bytes > self.max_document_bytes:
            raise BadRecordError(
                f"a document of {n_bytes:,} bytes, more than max_document_bytes = "
                f"{self.max_document_bytes:,}; split it, or raise the limit"
            )
