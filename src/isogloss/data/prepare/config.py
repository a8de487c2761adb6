"""The configs of corpora that are prepared: where the text is, what is kept of it, and what validates."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from isogloss.config.base import Config
from isogloss.config.lists import Texts
from isogloss.config.paths import UserPath
from isogloss.data.corpus import PackedConfig
from isogloss.data.sources.filters import FilterConfig
from isogloss.data.sources.formats import Format
from isogloss.data.sources.lines import check_encoding
from isogloss.data.sources.units import ReadSettings


class TextConfig(Config):
    """What every text has that is prepared."""

    validation_bytes: int = Field(default=600_000, ge=1)
    """Text set aside for validation, unless validation files are given; never more than a tenth of all text."""
    prepared_dir: UserPath = Path("prepared")
    """Where prepared corpora are kept, each in a folder of its own."""


class PythonStdlibText(TextConfig):
    """The sources of the running Python's standard library: nothing to download."""

    type: Literal["python_stdlib"] = "python_stdlib"
    include_tests: bool = False
    """Also the library's own tests: about three times as much text."""


class NearDuplicatesConfig(Config):
    """Leaves one document of each group that nearly repeat each other (``pip install 'isogloss[dedup]'``)."""

    threshold: float = Field(default=0.75, gt=0, lt=1)
    """The share of common word sequences (Jaccard) at which two documents are more likely than not taken for one."""
    n_words: int = Field(default=5, ge=1)
    """Words in a sequence."""


class ReadConfig(Config):
    """How files become documents: what is read of them, and what is left out."""

    text_field: str | None = None
    """The field of a record that holds its text; without it ``text``, or else ``content``."""
    format: Format = "auto"
    """What the files hold: text, json (lines, arrays or objects), csv, tsv or parquet; auto: by ending and content."""
    encoding: str | None = None
    """Of text, JSON and CSV files, such as utf-16 or cp1252; without it UTF-8."""
    separator: str | None = Field(default=None, min_length=1)
    """What stands between the documents of a text file, such as <|endoftext|>; without it a file is a document."""
    max_document_bytes: int = Field(default=32 << 20, ge=1, lt=1 << 31)
    """A longer document is a bad record."""
    filters: FilterConfig = FilterConfig()
    """Ranges that a document's measures must lie in for it to be kept."""
    max_bad: int = Field(default=0, ge=0)
    """How many bad records may be left out and reported; one more is an error."""

    @field_validator("encoding")
    @classmethod
    def _check_encoding(cls, encoding: str | None) -> str | None:
        if encoding is not None:
            check_encoding(encoding)
        return encoding

    def read_settings(self) -> ReadSettings:
        """How the files are read."""
        return ReadSettings(
            self.text_field, self.max_document_bytes, self.filters, self.format, self.encoding, self.separator
        )


class FilesText(TextConfig, ReadConfig):
    """Text files, JSON lines and tables of your own."""

    type: Literal["files"] = "files"
    train: Texts = Field(min_length=1)
    """Files, folders and globs to train on."""
    validation: Texts = ()
    """Files, folders and globs to validate on; without any, a part of ``train`` is set aside."""
    validation_fraction: float | None = Field(default=None, gt=0, lt=1)
    """The share of documents set aside for validation, instead of ``validation_bytes``: a document stays on its side
    whatever files are added later, so none is cut, and of few documents the share in bytes may be another."""
    min_train_share: float = Field(default=0.5, ge=0, le=1)
    """Refuse a split of one's own text that leaves a smaller share of its bytes to train on."""
    near_duplicates: NearDuplicatesConfig | None = None
    """Drop documents that nearly repeat another one; without it only exact copies are dropped."""

    @model_validator(mode="after")
    def _check(self) -> "FilesText":
        if self.validation and self.validation_fraction is not None:
            raise ValueError("validation files are given, so validation_fraction has no meaning; leave one of them out")
        return self


class PythonStdlibConfig(PythonStdlibText, PackedConfig):
    """The sources of the running Python's standard library: nothing to download."""


class FilesConfig(FilesText, PackedConfig):
    """Text files, JSON lines and tables of your own."""


TextChoice = Annotated[PythonStdlibText | FilesText, Field(discriminator="type")]
"""Any text that is prepared: what is read, without how its rows are cut."""

DECISIVE = {
    "type",
    "include_tests",
    "train",
    "validation",
    "validation_bytes",
    "validation_fraction",
    "text_field",
    "format",
    "encoding",
    "separator",
    "max_document_bytes",
    "filters",
    "near_duplicates",
    "max_bad",
}
"""What decides the documents and the split, as a manifest records it."""
