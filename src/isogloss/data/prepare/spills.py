"""The text on its way: sorted runs on the disk, as pass 1 leaves them and pass 2 merges them.

A document's key is the 128-bit BLAKE2b of its text, and its place in the corpus is that of its key: a shuffle that
depends on nothing but the documents themselves, in which equal ones are neighbours. Pass 1 writes each unit of the
input as one or more runs sorted by key (an external merge sort); a range of keys is then one slice of every run::

    <n>.text    the documents of the unit's runs, end to end
    <n>.index   of each run: its keys (16 bytes each), then where its documents end in <n>.text ("<i8")
    <n>.bands   of each run, where near duplicates are sought: a row of "<u8" for each band
    <n>.json    what is in them; written last, so the others are whole where it is there

The key is the checksum too: what is read back is hashed again. So nobody waits for these files to be on the disk: they
survive the process that wrote them, and what a power cut leaves of them is noticed.
"""

import hashlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Int, UInt
from pydantic import Field

from isogloss.config.base import UserError
from isogloss.config.stored import Count, DamagedError, Stored, read_stored
from isogloss.data.mapped import map_array
from isogloss.data.sources.tally import Tallies
from isogloss.durable import whole_file, write_whole

KEY_BYTES = 16
KEY = np.dtype(f"S{KEY_BYTES}")
"""NumPy compares these bytewise and takes trailing zeros for nothing, which at equal widths changes no comparison."""
INDEX_BYTES = KEY_BYTES + 8
RUN_BYTES = 64 << 20
PIECE_BYTES = 8 << 20


def text_key(data: bytes) -> bytes:
    """The key of a text in UTF-8."""
    return hashlib.blake2b(data, digest_size=KEY_BYTES).digest()


class BadEntry(Stored):
    """A bad record, in words."""

    where: str
    why: str
    excerpt: str


class UnitRecord(Stored):
    """What pass 1 found in a unit."""

    identity: str
    is_validation: bool
    n_documents: Count
    """With text, copies included."""
    n_bytes: Count
    """Of their texts."""
    dropped: dict[str, Count]
    """Documents left out, by reason."""
    bad: tuple[BadEntry, ...]
    runs: tuple[tuple[Count, Count], ...]
    """Documents and bytes of each run."""
    suspicious: Tallies = Field(default_factory=dict)
    """Documents that look like something else, by what."""


class SpillWriter:
    """Writes the documents of one unit as sorted runs, in a ``with``; the files count once ``write_record`` has run."""

    def __init__(self, folder: Path, number: int, sign: Callable[[list[bytes]], UInt[np.ndarray, "N bands"]] | None):
        self.runs: list[tuple[int, int]] = []
        self._documents: dict[bytes, bytes] = {}  # copies within a run fall together
        self._n_bytes = self._end = 0
        self._sign = sign
        kinds = ("text", "index") if sign is None else ("text", "index", "bands")
        self._files = ExitStack()
        self._streams = {
            kind: self._files.enter_context(whole_file(folder / f"{number:06d}.{kind}", synced=False)) for kind in kinds
        }

    def __enter__(self) -> "SpillWriter":
        return self

    def __exit__(self, *error: object) -> None:
        if error[0] is None and self._documents:
            self._flush()
        self._files.__exit__(*error)  # type: ignore[arg-type]

    def add(self, data: bytes) -> None:
        """Take a document's text."""
        key = text_key(data)
        if key not in self._documents:
            self._documents[key] = data
            self._n_bytes += len(data)
            if self._n_bytes >= RUN_BYTES:
                self._flush()

    def _flush(self) -> None:
        keys = sorted(self._documents)
        texts = [self._documents[key] for key in keys]
        ends = self._end + np.cumsum([len(text) for text in texts])
        self._streams["text"].writelines(texts)
        self._streams["index"].write(b"".join(keys))
        self._streams["index"].write(ends.astype("<i8").tobytes())
        if self._sign is not None:
            self._streams["bands"].write(np.ascontiguousarray(self._sign(texts).T.astype("<u8")).tobytes())
        self.runs.append((len(keys), self._n_bytes))
        self._end += self._n_bytes
        self._documents, self._n_bytes = {}, 0


def write_record(folder: Path, number: int, record: UnitRecord) -> None:
    """Vouch for the files of a unit."""
    write_whole(folder / f"{number:06d}.json", record.model_dump_json().encode())


def read_record(folder: Path, number: int, identity: str) -> UnitRecord | None:
    """What was found in a unit, if its files are there and the unit is still the same."""
    try:
        record = read_stored(folder / f"{number:06d}.json", UnitRecord)
        size = (folder / f"{number:06d}.text").stat().st_size
    except (OSError, DamagedError):
        return None
    return record if record.identity == identity and size == sum(run[1] for run in record.runs) else None


@dataclass(frozen=True)
class Run:
    """A sorted run."""

    folder: Path
    number: int
    """Of its unit."""
    is_validation: bool
    n_before: int
    """Documents of the unit before it."""
    start: int
    """Bytes of text of the unit before it."""
    n_documents: int

    @property
    def keys(self) -> np.ndarray:
        """Its keys (``S16``), memory-mapped."""
        return self._column(0, KEY)

    @property
    def ends(self) -> Int[np.ndarray, "N"]:
        """Where its documents end, memory-mapped."""
        return self._column(KEY_BYTES * self.n_documents, np.dtype("<i8"))

    @property
    def text_file(self) -> Path:
        """Where its documents are."""
        return self.folder / f"{self.number:06d}.text"

    def band(self, band: int, n_bands: int) -> UInt[np.ndarray, "N"]:
        """One band of the documents' signatures, memory-mapped."""
        offset = 8 * (self.n_before * n_bands + band * self.n_documents)
        path = self.folder / f"{self.number:06d}.bands"
        return map_array(path, "<u8", offset, self.n_documents)

    def _column(self, offset: int, dtype: np.dtype) -> np.ndarray:
        path = self.folder / f"{self.number:06d}.index"
        return map_array(path, dtype, INDEX_BYTES * self.n_before + offset, self.n_documents)


@dataclass(frozen=True)
class SortedDocuments:
    """N different documents in the order of their keys; of equal ones that of a validation file, if there is one."""

    keys: np.ndarray
    run: Int[np.ndarray, "N"]
    start: Int[np.ndarray, "N"]
    end: Int[np.ndarray, "N"]
    is_validation: Bool[np.ndarray, "N"]
    """Whether it is in a validation file."""

    def __len__(self) -> int:
        return len(self.keys)

    @property
    def size(self) -> Int[np.ndarray, "N"]:
        """Bytes of each text."""
        return self.end - self.start

    def where(self, chosen: Bool[np.ndarray, "N"]) -> "SortedDocuments":
        """Some of them."""
        columns = (self.keys, self.run, self.start, self.end, self.is_validation)
        return SortedDocuments(*(column[chosen] for column in columns))


class Spills:
    """All runs of a corpus, read by ranges of keys: the n-th of so many equal parts of all possible keys.

    Args:
        folder: where pass 1 wrote.
        records: of its units, in the order of their numbers.
    """

    def __init__(self, folder: Path, records: Sequence[UnitRecord]):
        self.runs: list[Run] = []
        for number, record in enumerate(records):
            n_before = start = 0
            for n_documents, n_bytes in record.runs:
                self.runs.append(Run(folder, number, record.is_validation, n_before, start, n_documents))
                n_before, start = n_before + n_documents, start + n_bytes
        self.runs.sort(key=lambda run: not run.is_validation)  # so that among equal keys these come first

    @property
    def n_documents(self) -> int:
        """Documents in all runs."""
        return sum(run.n_documents for run in self.runs)

    def sorted_documents(self, part: int, n_parts: int) -> SortedDocuments:
        """The documents of a range of keys."""
        keys, numbers, starts, ends, roles = [np.empty(0, KEY)], [], [], [], []
        for number, run in enumerate(self.runs):
            all_keys, all_ends = run.keys, run.ends
            first = np.searchsorted(all_keys, _bound(part, n_parts)) if part else 0
            last = np.searchsorted(all_keys, _bound(part + 1, n_parts)) if part + 1 < n_parts else run.n_documents
            if first == last:
                continue
            keys.append(np.array(all_keys[first:last]))
            ends.append(np.array(all_ends[first:last]))
            starts.append(np.concatenate([[all_ends[first - 1] if first else run.start], ends[-1][:-1]]))
            numbers.append(np.full(last - first, number))
            roles.append(np.full(last - first, run.is_validation))
        merged = np.concatenate(keys)
        order = np.argsort(merged, kind="stable")
        merged = merged[order]
        is_first = np.ones(len(merged), bool)
        is_first[1:] = merged[1:] != merged[:-1]
        order = order[is_first]
        columns = [
            np.concatenate([np.empty(0, dtype), *column])[order]
            for dtype, column in ((np.int64, numbers), (np.int64, starts), (np.int64, ends), (np.bool_, roles))
        ]
        return SortedDocuments(merged[is_first], *columns)

    def texts(self, documents: SortedDocuments) -> Iterator[list[bytes]]:
        """The texts of some documents in their order, several megabytes at a time.

        Raises:
            UserError: what is on the disk is not what was written there.
        """
        keys = documents.keys.tobytes()
        total = np.cumsum(documents.size)
        first = 0
        while first < len(documents):
            before = total[first - 1] if first else 0
            last = max(first + 1, int(np.searchsorted(total, before + PIECE_BYTES, side="right")))
            piece = self._read(documents, first, last)
            for i, data in enumerate(piece, first):
                if text_key(data) != keys[KEY_BYTES * i : KEY_BYTES * (i + 1)]:
                    text_file = self.runs[documents.run[i]].text_file
                    raise UserError(
                        f"{text_file}: damaged (a text in it is not what was written there); delete "
                        f"{text_file.parent.parent} and run the same command again"
                    )
            yield piece
            first = last

    def _read(self, documents: SortedDocuments, first: int, last: int) -> list[bytes]:
        piece = [b""] * (last - first)
        for number in np.unique(documents.run[first:last]):
            mine = np.flatnonzero(documents.run[first:last] == number)
            with self.runs[number].text_file.open("rb") as stream:
                at = None
                for i in mine.tolist():
                    start, end = int(documents.start[first + i]), int(documents.end[first + i])
                    if at != start:
                        stream.seek(start)
                    piece[i] = stream.read(end - start)
                    at = end
        return piece


def _bound(part: int, n_parts: int) -> bytes:
    return (part * (1 << 8 * KEY_BYTES) // n_parts).to_bytes(KEY_BYTES, "big")
