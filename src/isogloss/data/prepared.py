"""A prepared corpus on disk: token shards, the tokenizer and a manifest that vouches for every file.

The manifest is written last and the folder is renamed into place, so a folder with a manifest was once complete; the
file sizes, and on demand the checksums, tell whether it still is.
"""

import hashlib
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from isogloss.config.base import Config, UserError
from isogloss.data.baselines import Baselines
from isogloss.data.corpus import Packing, Part, SplitFacts, SplitName
from isogloss.data.fitting import keep_table
from isogloss.data.packing import PackedRows
from isogloss.data.shards import TokenStream, open_stream
from isogloss.data.tokenizers.base import Tokenizer
from isogloss.data.tokenizers.loading import load_tokenizer
from isogloss.durable import hash_file

MANIFEST = "manifest.json"
TOKENIZER_FOLDER = "tokenizer"


class FileRecord(Config):
    """What a file of the folder must be."""

    n_bytes: int
    sha256: str


class SplitRecord(Config):
    """What a split holds."""

    n_documents: int
    n_bytes: int
    """Of the texts, as UTF-8."""
    n_tokens: int
    """The ``end_of_text`` that opens each document included."""
    shards: tuple[str, ...]


class Manifest(Config):
    """Where a prepared corpus came from and what is in it."""

    format: int
    origin: str
    """The corpus in words."""
    corpus: dict[str, Any]
    """The settings that decided the documents and the split."""
    tokenizer: dict[str, Any]
    """The tokenizer's config."""
    inputs_fingerprint: str
    tokenizer_fingerprint: str
    n_tokens: int
    """Ids the tokenizer has: every stored id is below it."""
    dtype: str
    train: SplitRecord
    validation: SplitRecord
    n_duplicates: int
    """Documents dropped because an earlier one has the same text."""
    n_empty: int
    """Documents dropped because they hold no text."""
    skipped: dict[str, str]
    """Files of an embedded corpus that could not be decoded, and why."""
    baselines: Baselines
    """Of the validation text."""
    files: dict[str, FileRecord]
    """Every other file of the folder, by its relative path."""


class PreparedCorpus:
    """An open prepared corpus (a ``Corpus``). Each split is memory-mapped once, when it is first asked for."""

    floor: float | None = None
    parts: tuple[Part, ...] = ()

    def __init__(self, folder: Path, manifest: Manifest):
        self.folder = folder
        self.manifest = manifest
        self._streams: dict[str, TokenStream] = {}
        self._tokenizer: Tokenizer | None = None

    @property
    def tokenizer(self) -> Tokenizer:
        """The tokenizer that made the tokens.

        Raises:
            UserError: the folder's tokenizer encodes otherwise than it did.
        """
        if self._tokenizer is not None:
            return self._tokenizer
        tokenizer = load_tokenizer(self.folder / TOKENIZER_FOLDER)
        if tokenizer.fingerprint != self.manifest.tokenizer_fingerprint:
            raise UserError(
                f"{self.folder / TOKENIZER_FOLDER}: not the tokenizer that made this corpus; "
                f"delete {self.folder} and prepare the corpus again"
            )
        self._tokenizer = tokenizer
        return tokenizer

    def __reduce__(self) -> tuple[Any, ...]:
        """Another process opens the folder for itself."""
        return open_prepared, (self.folder,)

    @property
    def name(self) -> str:
        """The folder's name: a hash of all that decides its content."""
        return self.folder.name

    @property
    def origin(self) -> str:
        """The corpus in words."""
        return self.manifest.origin

    @property
    def baselines(self) -> Baselines:
        """Of the validation text."""
        return self.manifest.baselines

    def facts(self, split: SplitName) -> SplitFacts:
        """What a split holds."""
        record: SplitRecord = getattr(self.manifest, split)
        return SplitFacts(record.n_documents, record.n_tokens, record.n_bytes)

    def rows(
        self, split: SplitName, seq_len: int, within_document: bool = True, packing: Packing = "concatenate"
    ) -> PackedRows:
        """The rows of a split; the table of those that are not cut end to end is kept in the folder's ``rows/``."""
        stream = self.split(split)
        table = None
        if packing != "concatenate":
            table = keep_table(stream, packing, seq_len, self.folder / "rows" / f"{split}-{packing}-{seq_len}")
        return PackedRows(stream, seq_len, self.tokenizer.end_of_text, within_document, table, packing)

    def split(self, name: SplitName) -> TokenStream:
        """The tokens of a split."""
        if name not in self._streams:
            record: SplitRecord = getattr(self.manifest, name)
            hashes = [self.manifest.files[file].sha256 for file in (*record.shards, f"{name}.starts.npy")]
            fingerprint = hashlib.sha256("".join(hashes).encode()).hexdigest()
            self._streams[name] = open_stream(self.folder, name, record.shards, self.manifest.dtype, fingerprint)
        return self._streams[name]


def open_prepared(folder: Path, verify: bool = False) -> PreparedCorpus:
    """Open a prepared corpus.

    Args:
        folder: one that ``prepare`` made.
        verify: also compare the checksum of every file, which reads all of it.

    Raises:
        UserError: the folder is not a whole prepared corpus.
    """
    try:
        manifest = Manifest.model_validate_json((folder / MANIFEST).read_bytes())
    except OSError as error:
        raise UserError(f"{folder}: not a prepared corpus (its {MANIFEST}: {error.strerror})") from error
    except ValidationError as error:
        raise UserError(f"{folder / MANIFEST}: damaged ({error.error_count()} problems); prepare again") from error
    for name, record in manifest.files.items():
        path = folder / name
        try:
            n_bytes = path.stat().st_size
            intact = n_bytes == record.n_bytes and (not verify or hash_file(path) == record.sha256)
        except OSError as error:
            raise UserError(f"{path}: cannot be read ({error.strerror}); prepare the corpus again") from error
        if not intact:
            wrong = "its checksum" if n_bytes == record.n_bytes else f"{n_bytes} bytes, not {record.n_bytes}: its size"
            raise UserError(f"{path}: damaged ({wrong} differs from the manifest's); prepare the corpus again")
    return PreparedCorpus(folder, manifest)
