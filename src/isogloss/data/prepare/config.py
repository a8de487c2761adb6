"""The configs of corpora that are prepared: where the text is, what is kept of it, and what validates."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, model_validator

from isogloss.config.base import Config
from isogloss.config.lists import Texts
from isogloss.data.corpus import PackedConfig
from isogloss.data.sources.filters import FilterConfig


class TextConfig(Config):
    """What every text has that is prepared."""

    validation_bytes: int = Field(default=600_000, ge=1)
    """Text set aside for validation, unless validation files are given; never more than a tenth of all text."""
    prepared_dir: Path = Path("prepared")
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


class FilesText(TextConfig):
    """Text files, JSON lines and tables of your own."""

    type: Literal["files"] = "files"
    train: Texts = Field(min_length=1)
    """Files, folders and globs to train on."""
    validation: Texts = ()
    """Files, folders and globs to validate on; without any, a part of ``train`` is set aside."""
    validation_fraction: float | None = Field(default=None, gt=0, lt=1)
    """The share of documents set aside for validation, instead of ``validation_bytes``: a document stays on its side
    whatever files are added later."""
    text_field: str | None = None
    """The field of a record that holds its text; without it ``text``, or else ``content``."""
    max_document_bytes: int = Field(default=32 << 20, ge=1, lt=1 << 31)
    """A longer document is a bad record."""
    filters: FilterConfig = FilterConfig()
    """Ranges that a document's measures must lie in for it to be kept."""
    near_duplicates: NearDuplicatesConfig | None = None
    """Drop documents that nearly repeat another one; without it only exact copies are dropped."""
    max_bad: int = Field(default=0, ge=0)
    """How many bad records may be left out and reported; one more ends the preparation."""

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
    "max_document_bytes",
    "filters",
    "near_duplicates",
    "max_bad",
}
"""What decides the documents and the split, as a manifest records it."""
