"""A prepared corpus on disk: token shards, the tokenizer and a manifest that vouches for every file.

The manifest is written last and the folder is renamed into place, so a folder with a manifest was once complete. The
files' checksums tell whether it still is; a file is hashed again only when it is not as it was when it was last whole
(``stamps.py``): opening reads the manifest, and of the others nothing but sizes, times and places.
"""

import hashlib
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from pydantic import Field, model_validator

from isogloss.config.base import UserError
from isogloss.config.quantity import count
from isogloss.config.stored import Count, DamagedError, Stored, inside, read_stored
from isogloss.data.baselines import Baselines
from isogloss.data.corpus import Cut, Packing, Part, SplitFacts, SplitName
from isogloss.data.rows.fitting import check_table, keep_table
from isogloss.data.rows.packing import PackedRows
from isogloss.data.shards import TokenStream, open_stream, token_dtype
from isogloss.data.sources.tally import Tallies
from isogloss.data.stamps import Stamp, Stamps
from isogloss.data.tokenizers.base import Tokenizer
from isogloss.data.tokenizers.loading import load_tokenizer
from isogloss.headway import advance

MANIFEST = "manifest.json"
TOKENIZER_FOLDER = "tokenizer"
BAD_RECORDS = "bad_records.jsonl"
ROWS_FOLDER = "rows"
THREADS = 8
"""That look at files and hash them: both wait for the disk, or let go of the interpreter."""
LONG_BYTES = 1 << 30
"""From so many bytes on it is said that they are hashed."""


class FileRecord(Stored):
    """What a file of the folder must be."""

    n_bytes: Count
    sha256: str


class InputRecord(Stored):
    """An input file as it was read."""

    name: str
    split: SplitName
    """``train``, from which a part may have been set aside for validation, or ``validation``."""
    n_bytes: Count
    sha256: str


class SplitRecord(Stored):
    """What a split holds."""

    n_documents: Count
    n_bytes: Count
    """Of the texts, as UTF-8."""
    n_tokens: Count
    """The ``end_of_text`` that opens each document included."""
    shards: tuple[str, ...]


class Manifest(Stored):
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
    n_tokens: Count
    """Ids the tokenizer has: every stored id is below it."""
    dtype: str
    train: SplitRecord
    validation: SplitRecord
    n_duplicates: Count
    """Documents dropped because another one has the same text."""
    n_near_duplicates: Count
    """Different documents dropped because another one has nearly the same text."""
    dropped: dict[str, Count]
    """Documents that are empty or did not pass a filter, by reason."""
    n_bad: Count
    """Records that could not be read; ``bad_records.jsonl`` lists them."""
    skipped: dict[str, str]
    """Files of an embedded corpus that could not be decoded, and why."""
    baselines: Baselines
    """Of the validation text."""
    files: dict[str, FileRecord]
    """Every other file of the folder, by its relative path."""
    passed_over: Tallies = Field(default_factory=dict)
    """Files that were found in the inputs and not read, by reason."""
    suspicious: Tallies = Field(default_factory=dict)
    """Documents that look like something else, by what."""

    @property
    def left_out(self) -> dict[str, int]:
        """Records that are not in the corpus, by reason."""
        copies = {"copies": self.n_duplicates, "near copies": self.n_near_duplicates}
        counts = {**copies, **self.dropped, "bad records": self.n_bad, "unreadable files": len(self.skipped)}
        return {reason: n for reason, n in counts.items() if n}

    @model_validator(mode="after")
    def _check_shards(self) -> "Manifest":
        """Each split's tokens are in files of the folder, which have the bytes that they take."""
        if self.dtype != token_dtype(self.n_tokens):
            raise ValueError(f"{self.n_tokens:,} ids are not stored as {self.dtype!r}")
        for name in ("train", "validation"):
            split: SplitRecord = getattr(self, name)
            for files, item_bytes, n in (
                (split.shards, int(self.dtype[-1]), split.n_tokens),
                ((f"{name}.starts.npy",), 8, split.n_documents),
            ):
                if missing := [file for file in files if file not in self.files]:
                    raise ValueError(f"{name}: {missing[0]!r} is none of its files")
                header = -sum(self.files[file].n_bytes for file in files) + item_bytes * n
                if header > 0 or (header and files == split.shards):
                    raise ValueError(f"{name}: its files do not have the bytes of {n:,} numbers")
        return self

    @property
    def n_empty(self) -> int:
        """Documents dropped because they hold no text."""
        return self.dropped.get("empty", 0)


class PreparedCorpus:
    """An open prepared corpus (a ``Corpus``). Splits are memory-mapped, and their rows opened, once, when asked for.

    Args:
        folder: its place.
        manifest: what is in it.
        stamps: of its files, all of which are known to be whole.
    """

    floor: float | None = None
    parts: tuple[Part, ...] = ()

    def __init__(self, folder: Path, manifest: Manifest, stamps: Stamps):
        self.folder = folder
        self.manifest = manifest
        self._stamps = stamps
        self._streams: dict[str, TokenStream] = {}
        self._rows: dict[tuple[SplitName, Cut], PackedRows] = {}
        self._tokenizer: Tokenizer | None = None

    @property
    def tokenizer(self) -> Tokenizer:
        """The tokenizer that made the tokens.

        Raises:
            UserError: the folder's tokenizer encodes otherwise than it did.
        """
        if self._tokenizer is not None:
            return self._tokenizer
        tokenizer = load_tokenizer(self.folder / TOKENIZER_FOLDER, is_checked=True)
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
        """Another process opens the folder for itself; what is whole here it does not hash again."""
        return _open_as_told, (self.folder, dict(self._stamps.found))

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
        cut = Cut(seq_len, within_document, packing)
        if (split, cut) not in self._rows:
            stream, table = self.split(split), None
            if packing != "concatenate":
                table = keep_table(stream, packing, seq_len, self._stamps, f"{ROWS_FOLDER}/{split}-{packing}-{seq_len}")
            end_of_text = self.tokenizer.end_of_text
            self._rows[split, cut] = PackedRows(stream, seq_len, end_of_text, within_document, table, packing)
        return self._rows[split, cut]

    def check_tables(self) -> int:
        """Make sure that the row tables kept in the folder are what they were when they were made; their number.

        Raises:
            UserError: one is damaged.
        """
        tables = sorted(path.parent for path in (self.folder / ROWS_FOLDER).glob("*/table.json"))
        for table in tables:
            check_table(self._stamps, table.relative_to(self.folder).as_posix())
        self._stamps.save()
        return len(tables)

    def split(self, name: SplitName) -> TokenStream:
        """The tokens of a split."""
        if name not in self._streams:
            record: SplitRecord = getattr(self.manifest, name)
            hashes = [self.manifest.files[file].sha256 for file in (*record.shards, f"{name}.starts.npy")]
            fingerprint = hashlib.sha256("".join(hashes).encode()).hexdigest()
            dtype, n_ids = self.manifest.dtype, self.manifest.n_tokens
            self._streams[name] = open_stream(self.folder, name, record.shards, dtype, fingerprint, n_ids)
        return self._streams[name]


def open_prepared(
    folder: str | Path, verify: bool = False, progress: Callable[[str], None] = lambda message: None
) -> PreparedCorpus:
    """Open a prepared corpus.

    Args:
        folder: one that ``prepare`` made.
        verify: compare the checksum of every file, also of those that have not changed since they were last verified.
        progress: told when that will take a while.

    Raises:
        UserError: the folder is not a whole prepared corpus.
    """
    return _open(Path(folder), forget=verify, progress=progress)


def _open_as_told(folder: Path, told: Mapping[str, Stamp]) -> PreparedCorpus:
    """Open what another process has found whole."""
    try:
        return _open(folder, told)
    except UserError as error:
        raise UserError(
            f"{error}. The run's first process has found it whole: all processes must see one data.prepared_dir, or "
            "copies of it under one path"
        ) from error


def _open(
    folder: Path,
    told: Mapping[str, Stamp] | None = None,
    forget: bool = False,
    progress: Callable[[str], None] = lambda message: None,
) -> PreparedCorpus:
    try:
        manifest = read_stored(folder / MANIFEST, Manifest)
        for name in manifest.files:
            inside(folder, name)
    except OSError as error:
        raise UserError(f"{folder}: not a prepared corpus (its {MANIFEST}: {error.strerror})") from error
    except DamagedError as error:
        raise UserError(f"{error}; prepare again") from error
    stamps = Stamps(folder, told, forget)
    with ThreadPoolExecutor(THREADS) as pool:
        known = pool.map(lambda item: _is_known(stamps, *item), manifest.files.items())
        unknown = dict(item for item, known in zip(manifest.files.items(), known, strict=True) if not known)
        n_bytes = sum(record.n_bytes for record in unknown.values())
        if n_bytes >= LONG_BYTES:
            progress(f"comparing the checksums of {count(len(unknown), 'file')}, {count(n_bytes, 'byte')}, in {folder}")
        for _ in pool.map(lambda item: _check(stamps, *item), unknown.items()):
            advance()  # the pool's threads do not speak for this one
    stamps.save()
    return PreparedCorpus(folder, manifest, stamps)


def find_prepared(folder: str | Path) -> Path:
    """A prepared corpus, or in a folder that holds some the one that was made last.

    Raises:
        UserError: there is none.
    """
    folder = Path(folder)
    if (folder / MANIFEST).exists():
        return folder
    corpora = sorted(folder.glob(f"*/{MANIFEST}"), key=lambda path: path.stat().st_mtime_ns)
    if not corpora:
        raise UserError(f"{folder}: no prepared corpus, and none in it; isogloss data prepare makes one")
    return corpora[-1].parent


def _is_known(stamps: Stamps, name: str, record: FileRecord) -> bool:
    """Whether a file is what it must be, by its stamp."""
    try:
        return stamps.knows(name) and stamps.found[name][0] == record.n_bytes
    except OSError as error:
        raise _unreadable(stamps.folder / name, error) from error


def _check(stamps: Stamps, name: str, record: FileRecord) -> None:
    """Make sure by its checksum that a file is what it must be."""
    path = stamps.folder / name
    try:
        n_bytes = path.stat().st_size
        if n_bytes == record.n_bytes and stamps.is_whole(name, record.sha256):
            return
    except OSError as error:
        raise _unreadable(path, error) from error
    wrong = "its checksum" if n_bytes == record.n_bytes else f"{n_bytes} bytes, not {record.n_bytes}: its size"
    raise UserError(f"{path}: damaged ({wrong} differs from the manifest's); prepare the corpus again")


def _unreadable(path: Path, error: OSError) -> UserError:
    return UserError(f"{path}: cannot be read ({error.strerror}); prepare the corpus again")
