"""A prepared corpus on disk: token shards, the tokenizer and a manifest that vouches for every file.

The manifest is written last and the folder is renamed into place, so a folder with a manifest was once complete. The
files' checksums tell whether it still is; a file is hashed again only when its size, its time or its place on the disk
is not what it was when it was last verified (``verified.json``, which only saves that work).
"""

import hashlib
import json
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from isogloss.config.base import Config, UserError
from isogloss.data.baselines import Baselines
from isogloss.data.corpus import Packing, Part, SplitFacts, SplitName
from isogloss.data.rows.fitting import keep_table
from isogloss.data.rows.packing import PackedRows
from isogloss.data.shards import TokenStream, open_stream
from isogloss.data.tokenizers.base import Tokenizer
from isogloss.data.tokenizers.loading import load_tokenizer
from isogloss.durable import hash_file, whole_file

MANIFEST = "manifest.json"
TOKENIZER_FOLDER = "tokenizer"
VERIFIED = "verified.json"
BAD_RECORDS = "bad_records.jsonl"


class FileRecord(Config):
    """What a file of the folder must be."""

    n_bytes: int
    sha256: str


class InputRecord(Config):
    """An input file as it was read."""

    name: str
    split: SplitName
    """``train``, from which a part may have been set aside for validation, or ``validation``."""
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
    """The tokenizer's config; its type alone where it was given ready."""
    inputs: tuple[InputRecord, ...]
    """The files that were read; none for an embedded corpus."""
    inputs_fingerprint: str
    tokenizer_fingerprint: str
    n_tokens: int
    """Ids the tokenizer has: every stored id is below it."""
    dtype: str
    train: SplitRecord
    validation: SplitRecord
    n_duplicates: int
    """Documents dropped because another one has the same text."""
    n_near_duplicates: int
    """Different documents dropped because another one has nearly the same text."""
    dropped: dict[str, int]
    """Documents that are empty or did not pass a filter, by reason."""
    n_bad: int
    """Records that could not be read; ``bad_records.jsonl`` lists them."""
    skipped: dict[str, str]
    """Files of an embedded corpus that could not be decoded, and why."""
    baselines: Baselines
    """Of the validation text."""
    files: dict[str, FileRecord]
    """Every other file of the folder, by its relative path."""

    @property
    def n_empty(self) -> int:
        """Documents dropped because they hold no text."""
        return self.dropped.get("empty", 0)


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
        self.check_tokenizer(tokenizer, str(self.folder / TOKENIZER_FOLDER))
        self._tokenizer = tokenizer
        return tokenizer

    def check_tokenizer(self, tokenizer: Tokenizer, origin: str) -> None:
        """Make sure that a tokenizer is the one that made the tokens.

        Raises:
            UserError: it encodes otherwise.
        """
        if tokenizer.fingerprint != self.manifest.tokenizer_fingerprint:
            raise UserError(
                f"{origin}: not the tokenizer that made this corpus (its fingerprint is {tokenizer.fingerprint}, the "
                f"corpus was made with {self.manifest.tokenizer_fingerprint}); put that one back, or delete "
                f"{self.folder} and prepare the corpus again"
            )

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
        verify: compare the checksum of every file, also of those that have not changed since they were last verified.

    Raises:
        UserError: the folder is not a whole prepared corpus.
    """
    try:
        manifest = Manifest.model_validate_json((folder / MANIFEST).read_bytes())
    except OSError as error:
        raise UserError(f"{folder}: not a prepared corpus (its {MANIFEST}: {error.strerror})") from error
    except ValidationError as error:
        raise UserError(f"{folder / MANIFEST}: damaged ({error.error_count()} problems); prepare again") from error
    known = {} if verify else _load_stamps(folder)
    stamps = {name: _verify(folder / name, record, known.get(name)) for name, record in manifest.files.items()}
    if stamps != known:
        save_stamps(folder, stamps)
    return PreparedCorpus(folder, manifest)


def find_prepared(folder: Path) -> Path:
    """A prepared corpus, or in a folder that holds some the one that was made last.

    Raises:
        UserError: there is none.
    """
    if (folder / MANIFEST).exists():
        return folder
    inside = sorted(folder.glob(f"*/{MANIFEST}"), key=lambda path: path.stat().st_mtime_ns)
    if not inside:
        raise UserError(f"{folder}: no prepared corpus, and none in it; isogloss data prepare makes one")
    return inside[-1].parent


def _verify(path: Path, record: FileRecord, known: Sequence[int] | None) -> list[int]:
    """The stamp of a file that is what it must be."""
    try:
        stamp = stamp_of(path)
        n_bytes = stamp[0]
        intact = n_bytes == record.n_bytes and (stamp == known or hash_file(path) == record.sha256)
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); prepare the corpus again") from error
    if not intact:
        wrong = "its checksum" if n_bytes == record.n_bytes else f"{n_bytes} bytes, not {record.n_bytes}: its size"
        raise UserError(f"{path}: damaged ({wrong} differs from the manifest's); prepare the corpus again")
    return stamp


def stamp_of(path: Path) -> list[int]:
    """What changes when a file does: its size, the time of its last change and its place on the disk."""
    status = path.stat()
    return [status.st_size, status.st_mtime_ns, status.st_ino]


def save_stamps(folder: Path, stamps: dict[str, list[int]]) -> None:
    """Remember what the files are like now, when they are known to be whole."""
    with suppress(OSError), whole_file(folder / VERIFIED) as stream:  # full or read-only disk: it only saves time
        stream.write(json.dumps(stamps).encode())


def _load_stamps(folder: Path) -> dict[str, list[int]]:
    try:
        known = json.loads((folder / VERIFIED).read_bytes())
    except (OSError, ValueError):  # absent or damaged
        return {}
    return known if isinstance(known, dict) else {}
