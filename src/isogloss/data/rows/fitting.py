"""Which tokens stand in which row, where documents are kept whole: best-fit decreasing, and one document a row.

A *piece* is a run of inputs of one document. Documents are taken window by window (2^20 at a time), so memory is
bounded; within a window pieces of one length are placed together. The best fit for a piece of n inputs is the row with
the least room r >= n; that row takes floor(r / n) pieces of this length before another one fits better, so placing all
pieces of a length is one pass over the amounts of room: the packing of Ding et al. (2024), found by counting.

The table is kept beside the corpus, as flat files that are read by position::

    rows/<split>-<packing>-<T>/   start.bin  (int64, a piece's first input in the stream)   length.bin (int32)
                                  first.bin  (int64, the number of each row's first piece, and of one row more)
                                  table.json (what it was made from, and the checksums; written last)
"""

import json
from bisect import bisect_left, insort
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Literal

import numpy as np
from jaxtyping import Int, Integer

from isogloss.config.base import UserError
from isogloss.config.stored import DamagedError, Stored, inside, read_stored
from isogloss.data.flat import FlatFile
from isogloss.data.shards import TokenStream
from isogloss.data.stamps import Stamps
from isogloss.durable import FileLock, hash_file, whole_folder
from isogloss.headway import advance

FORMAT = 1
WINDOW = 1 << 20
"""Documents packed together."""
_FILES = {"start": "<i8", "length": "<i4", "first": "<i8"}


@dataclass(frozen=True)
class RowTable:
    """P pieces in R rows: row r holds the pieces from ``first_piece[r]`` to before ``first_piece[r + 1]``."""

    start: Integer[np.ndarray, "P"] | FlatFile
    length: Integer[np.ndarray, "P"] | FlatFile
    first_piece: Integer[np.ndarray, "R1"] | FlatFile

    @property
    def n_rows(self) -> int:
        """R."""
        return len(self.first_piece) - 1


def make_table(
    stream: TokenStream, packing: Literal["best_fit", "document"], seq_len: int, window: int = WINDOW
) -> RowTable:
    """The row table of a stream, in memory."""
    parts = list(_windows(stream, packing, seq_len, window))
    start, length, first = (np.concatenate([part[i] for part in parts]) for i in range(3))
    return RowTable(start, length, np.append(np.int64(0), first))


def keep_table(
    stream: TokenStream,
    packing: Literal["best_fit", "document"],
    seq_len: int,
    stamps: Stamps,
    name: str,
    window: int = WINDOW,
) -> RowTable:
    """The row table of a stream: the one that is kept where it is whole and of this stream, else made and kept there.

    Where the folder cannot be written (read-only, full) the table is made in memory.

    Args:
        stream: what is packed.
        packing: how.
        seq_len: T.
        stamps: of the files of the corpus: a table is hashed only if it has changed since it was whole.
        name: the table's folder within the corpus.
        window: documents packed together.
    """
    made_from = {
        "format": FORMAT, "stream": stream.fingerprint, "packing": packing, "seq_len": seq_len, "window": window
    }  # fmt: skip
    if (table := _open_table(stamps, name, made_from)) is not None:
        return table
    folder = stamps.folder / name
    try:
        folder.parent.mkdir(exist_ok=True)
        with FileLock(folder.with_name(f"{folder.name}.lock")):
            if (table := _open_table(stamps, name, made_from)) is None:  # nobody else has made it meanwhile
                _write_table(stamps, name, made_from, _windows(stream, packing, seq_len, window))
                table = _open_table(stamps, name, made_from)
    except OSError:
        table = None
    return make_table(stream, packing, seq_len, window) if table is None else table


def check_table(stamps: Stamps, name: str) -> None:
    """Make sure that a kept table is what it was when it was made.

    Raises:
        UserError: it is damaged.
    """
    damaged = None
    try:
        damaged = _damaged_file(stamps, name, read_stored(stamps.folder / name / "table.json", _Record))
    except (OSError, DamagedError):
        damaged = "table.json"
    if damaged is not None:
        raise UserError(
            f"{stamps.folder / name / damaged}: damaged; delete {stamps.folder / name}, and it is made anew when it is "
            "asked for"
        )


class _Sums(Stored):
    start: str
    length: str
    first: str


class _Record(Stored):
    made_from: dict[str, int | str]
    sha256: _Sums


def _damaged_file(stamps: Stamps, name: str, record: _Record) -> str | None:
    files = {f"{file}.bin": getattr(record.sha256, file) for file in _FILES}
    for file, sha256 in files.items():
        inside(stamps.folder, f"{name}/{file}")
        if not stamps.is_whole(f"{name}/{file}", sha256):
            return file
    return None


def _open_table(stamps: Stamps, name: str, made_from: dict[str, Any]) -> RowTable | None:
    """The table of a folder; ``None`` if there is none, or another one, or a damaged one."""
    folder = stamps.folder / name
    try:
        record = read_stored(folder / "table.json", _Record)
        if record.made_from != made_from or _damaged_file(stamps, name, record) is not None:
            return None
        files = [FlatFile(folder / f"{file}.bin", dtype) for file, dtype in _FILES.items()]
    except (OSError, ValueError):
        return None
    stamps.save()
    return RowTable(*files)


def _write_table(
    stamps: Stamps,
    name: str,
    made_from: dict[str, Any],
    parts: Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]],
) -> None:
    """Make a table in its place, its lock being held."""
    with whole_folder(stamps.folder / name) as aside:
        with ExitStack() as stack:
            streams = [stack.enter_context((aside / f"{file}.bin").open("wb")) for file in _FILES]
            streams[2].write(np.zeros(1, _FILES["first"]).tobytes())
            for part in parts:
                for stream, array, dtype in zip(streams, part, _FILES.values(), strict=True):
                    stream.write(array.astype(dtype).tobytes())
        record = {"made_from": made_from, "sha256": {file: hash_file(aside / f"{file}.bin") for file in _FILES}}
        (aside / "table.json").write_bytes(json.dumps(record).encode())
    stamps.vouch(f"{name}/{file}.bin" for file in _FILES)


def _windows(
    stream: TokenStream, packing: Literal["best_fit", "document"], seq_len: int, window: int
) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """For each window of documents its pieces' starts and lengths, and where each of its rows ends (in pieces)."""
    starts = stream.document_starts
    n_pieces = 0
    for first in range(0, len(starts), window):
        begins = np.asarray(starts[first : first + window], np.int64)
        # The last token of the stream is a target and no input.
        ends = np.append(starts[first + 1 : first + window + 1], len(stream) - 1)[: len(begins)]
        lengths = ends - begins
        n_full, rest = np.divmod(lengths, seq_len)
        nth = np.arange(n_full.sum()) - np.repeat(np.cumsum(n_full) - n_full, n_full)
        full = np.repeat(begins, n_full) + nth * seq_len
        tails = (begins + n_full * seq_len)[rest > 0]
        rest = rest[rest > 0]
        if packing == "best_fit":
            row_of_tail, n_rows = best_fit(rest, seq_len)
        else:
            row_of_tail, n_rows = np.arange(len(rest)), len(rest)
        order = np.argsort(row_of_tail, kind="stable")  # pieces of a row in the order of the stream
        sizes = np.concatenate([np.ones(len(full), np.int64), np.bincount(row_of_tail, minlength=n_rows)])
        row_ends = n_pieces + np.cumsum(sizes)
        n_pieces += int(sizes.sum())
        advance()
        yield (
            np.concatenate([full, tails[order]]),
            np.concatenate([np.full(len(full), seq_len), rest[order]]),
            row_ends,
        )


def best_fit(lengths: Int[np.ndarray, "N"], capacity: int) -> tuple[Int[np.ndarray, "N"], int]:
    """Best-fit decreasing: longest first, each into the fullest bin that it still fits.

    Args:
        lengths: of the pieces, from 1 to ``capacity``.
        capacity: of a bin.

    Returns:
        The bin of each piece, and how many bins there are.
    """
    bin_of = np.empty(len(lengths), np.int64)
    n_bins = 0
    rooms: list[int] = []  # the amounts of room that some bin has, rising
    bins: dict[int, np.ndarray] = {}  # amount of room -> the bins that have it

    def give(room: int, some: Int[np.ndarray, "M"]) -> None:
        if room and len(some):
            if room in bins:
                bins[room] = np.concatenate([bins[room], some])
            else:
                bins[room] = some
                insort(rooms, room)

    order = np.argsort(-lengths, kind="stable")
    edges = np.flatnonzero(np.diff(lengths[order], prepend=-1, append=-1))
    for begin, end in pairwise(edges):
        pieces = order[begin:end]
        length = int(lengths[pieces[0]])
        at = bisect_left(rooms, length)
        emptied: list[tuple[int, np.ndarray]] = []
        while len(pieces) and at < len(rooms):
            room = rooms.pop(at)
            here = bins.pop(room)
            each = room // length
            used = min(len(here), -(-len(pieces) // each))
            taken = np.repeat(here[:used], each)[: len(pieces)]
            bin_of[pieces[: len(taken)]] = taken
            pieces = pieces[len(taken) :]
            last = len(taken) - (used - 1) * each  # the last bin may get fewer
            emptied += [(room, here[used:]), (room - each * length, here[: used - 1])]
            emptied.append((room - last * length, here[used - 1 : used]))
        if len(pieces):
            each = capacity // length
            new = np.arange(n_bins, n_bins - (-len(pieces) // each))
            n_bins += len(new)
            bin_of[pieces] = np.repeat(new, each)[: len(pieces)]
            last = len(pieces) - (len(new) - 1) * each
            emptied += [(capacity - each * length, new[:-1]), (capacity - last * length, new[-1:])]
        for room, some in emptied:
            give(room, some)
    return bin_of, n_bins
