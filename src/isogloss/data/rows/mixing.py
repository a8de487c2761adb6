"""Which source each row of a mixture comes from: weights kept to the row, and any place found without those before it.

The endless order of a mixture is cut into blocks of M rows (4096; fewer in a short run). What source i is owed in a
block is M times its weight in the middle of the block plus what it was owed before; each source gets the whole part,
and what is left goes to the largest remainders. Within a block the n_i rows of source i stand evenly: its row j may
come from place ⌊j L/n_i⌋ on and must by ⌈(j+1) L/n_i⌉, for a block of L rows, and of those that may come the one that
must come first does ("earliest deadline first"; a block has a place for each, by Hall's theorem, since between any
two places lie no more such windows than places: Steiner and Yeomans 1993, "Level schedules for mixed-model,
just-in-time processes").

So, where each source that takes part has a weight of at least 1/M, counts are less than one row off what the weights
say at every block's end and less than two at every row (proven: nobody is ever owed less than none, and remainders
are below one; within a block a count is less than one off its even share). Sources with smaller weights get their rows
too, but can be a little farther off. Where a source has given all it may, the others share its rows by their weights
from then on.

Within a source its rows follow each other in its own order, so each source is visited in epochs of its own.
"""

import math
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from isogloss.config.base import UserError
from isogloss.data.rows.source import Rows, RowSource, gather_rows

MAX_BLOCK = 4096
MIN_BLOCKS = 64
BLOCKS_AT_ONCE = 1024


@dataclass(frozen=True)
class Segment:
    """Rows from ``start`` on, until another segment begins.

    Args:
        start: the first row.
        block: M.
        names: of the sources.
        caps: how many rows each source may give in all; ``None``: any number.
        points: rows, rising, with the weights by row that hold there, in the order of ``names``; linear between them.
    """

    start: int
    block: int
    names: tuple[str, ...]
    caps: tuple[int | None, ...]
    points: tuple[tuple[int, tuple[float, ...]], ...]

    @classmethod
    def load(cls, saved: Mapping[str, Any]) -> "Segment":
        """From JSON."""
        points = tuple((row, tuple(weights)) for row, weights in saved["points"])
        return cls(saved["start"], saved["block"], tuple(saved["names"]), tuple(saved["caps"]), points)

    def weights(self, row: float) -> list[float]:
        """By row, at a row; they need not sum to 1."""
        return self.weights_at(np.array([row], np.float64))[0].tolist()

    def weights_at(self, rows: Float[np.ndarray, "N"]) -> Float[np.ndarray, "N K"]:
        """By row, at several rows."""
        points = [at for at, _ in self.points]
        columns = [np.interp(rows, points, [w[i] for _, w in self.points]) for i in range(len(self.names))]
        return np.stack(columns, axis=1)

    def means_the_same(self, other: "Segment") -> bool:
        """Whether two segments differ in nothing that was asked for."""
        return (self.names, self.caps, self.points) == (other.names, other.caps, other.points)


def block_size(n_rows: int) -> int:
    """M for a run of ``n_rows``: a power of two, with at least ``MIN_BLOCKS`` blocks in the run if it can be."""
    return min(MAX_BLOCK, 1 << max(0, (n_rows // MIN_BLOCKS).bit_length() - 1))


class _Blocks:
    """The counts of one segment at the beginnings of its blocks, found as far as they are asked for."""

    def __init__(self, segment: Segment, counts: Mapping[str, int]) -> None:
        self.segment = segment
        self.before = dict(counts)
        """Of all sources that there have been."""
        self._at = [tuple(counts.get(name, 0) for name in segment.names)]
        self._owed = [0.0] * len(segment.names)
        self._weights: Iterator[list[float]] = iter(())
        """Of the blocks to come."""
        self._lock = threading.Lock()  # batches are made ahead by a thread, while shares are asked for

    def counts(self, block: int) -> tuple[int, ...]:
        """Rows of each source before a block."""
        with self._lock:
            while len(self._at) <= block:
                self._append()
        return self._at[block]

    def _append(self) -> None:
        segment, counts = self.segment, self._at[-1]
        size = segment.block
        weights = next(self._weights, None)
        if weights is None:  # many at once: one by one they would take most of the time
            middles = segment.start + (np.arange(len(self._at), len(self._at) + BLOCKS_AT_ONCE) - 0.5) * size
            self._weights = iter(segment.weights_at(middles).tolist())
            weights = next(self._weights)
        room = [
            0 if w == 0 else math.inf if cap is None else cap - n
            for w, cap, n in zip(weights, segment.caps, counts, strict=True)
        ]
        owed = [o if r else 0.0 for o, r in zip(self._owed, room, strict=True)]
        sharing = [i for i, r in enumerate(room) if r]
        extra = size - sum(owed)
        while sharing and extra > 0:  # by weight; what goes beyond a source's room is shared again by the others
            total = sum(weights[i] for i in sharing)
            for i in sharing:
                owed[i] += extra * weights[i] / total
            extra = sum(max(o - r, 0.0) for o, r in zip(owed, room, strict=True))
            owed = [min(o, float(r)) for o, r in zip(owed, room, strict=True)]
            sharing = [i for i in sharing if owed[i] < room[i]]
        given = [max(math.floor(o), 0) for o in owed]
        left = min(size, sum(room)) - sum(given)
        by_remainder = sorted(range(len(owed)), key=lambda i: given[i] - owed[i])
        while left > 0:
            for i in by_remainder:
                if left > 0 and given[i] < room[i]:
                    given[i] += 1
                    left -= 1
        for i in reversed(by_remainder):
            if left < 0 and given[i]:
                given[i] -= 1
                left += 1
        self._owed = [o - g for o, g in zip(owed, given, strict=True)]
        self._at.append(tuple(n + g for n, g in zip(counts, given, strict=True)))


@lru_cache(maxsize=256)
def block_order(counts: tuple[int, ...]) -> Int[np.ndarray, "L"]:
    """The source of each row of a block, spread evenly: of every first t rows, within one of ``t * count / L``."""
    length = sum(counts)
    order = np.empty(length, np.int64)
    given = [0] * len(counts)
    present = [i for i, n in enumerate(counts) if n]
    for place in range(length):
        best, first_deadline = -1, length + 1
        for i in present:
            n, j = counts[i], given[i]
            if j < n and j * length // n <= place and (deadline := -(-(j + 1) * length // n)) < first_deadline:
                best, first_deadline = i, deadline
        order[place] = best
        given[best] += 1
    return order


class MixedRows:
    """The endless rows of a mixture (a ``RowSource``).

    Args:
        sources: endless rows by name: place k of a source is the k-th row that it gives.
        targets_per_row: of each source, on average; what its tokens are counted by.
        segment: the mixture from the first row on.
        n_planned: how many rows are going to be read.

    Raises:
        UserError: the sources do not last so long.
    """

    n_rows: int | None = None

    def __init__(
        self,
        sources: Mapping[str, RowSource],
        targets_per_row: Mapping[str, float],
        segment: Segment,
        n_planned: int = 0,
    ):
        self.sources, self._targets_per_row = dict(sources), dict(targets_per_row)
        self.seq_len = next(iter(sources.values())).seq_len
        self._n_planned = n_planned
        self._load([segment])

    @property
    def segments(self) -> list[Segment]:
        """What the mixture is, from which row on."""
        return [blocks.segment for blocks in self._segments]

    @property
    def fingerprint(self) -> str:
        """Of the sources and of what is mixed."""
        return repr(self.state())

    def state(self) -> dict[str, Any]:
        """All that decides a row, for JSON."""
        fingerprints = {name: source.fingerprint for name, source in self.sources.items()}
        return {"sources": fingerprints, "segments": [asdict(segment) for segment in self.segments]}

    def resume(self, saved: Mapping[str, Any], row: int) -> list[str]:
        """Go on from a saved ``state``; what is mixed otherwise now is mixed so from ``row`` on.

        Returns:
            What has changed, in words.

        Raises:
            UserError: a source is not what it was.
        """
        other = [
            n for n, source in self.sources.items() if saved["sources"].get(n, source.fingerprint) != source.fingerprint
        ]
        if other:
            raise UserError(
                f"the text of {', '.join(other)} in the mixture is not what the checkpoint was trained on. Restore it, "
                "give the changed source another name, or start a new run from the checkpoint's weights"
            )
        asked = self.segments[0]
        segments = [Segment.load(segment) for segment in saved["segments"]]
        if segments[-1].means_the_same(asked):
            self._load(segments)
            return []
        self._load([segment for segment in segments if segment.start < row] + [Segment(
            row, asked.block, asked.names, asked.caps, asked.points
        )])  # fmt: skip
        was, now = (_in_words(segment, row) for segment in (segments[-1], asked))
        return [f"from row {row:,} on the mixture is {now}; it was {was}"]

    def rows(self, numbers: Int[np.ndarray, "N"]) -> Rows:
        """The rows at some places of the mixture."""
        return gather_rows(list(self.sources.values()), *self.locate(numbers))

    def locate(self, places: Int[np.ndarray, "N"]) -> tuple[Int[np.ndarray, "N"], Int[np.ndarray, "N"]]:
        """The source of the row at each place (its number in ``sources``), and which of the source's rows it is.

        Raises:
            UserError: every source has given all it may before a place.
        """
        which, nth = np.empty_like(places), np.empty_like(places)
        starts = [segment.start for segment in self.segments]
        names = list(self.sources)
        of_segment = np.searchsorted(starts, places, side="right") - 1
        for number in np.unique(of_segment):
            blocks = self._segments[number]
            segment = blocks.segment
            missing = [name for name in segment.names if name not in self.sources]
            if missing:
                raise UserError(f"rows before {starts[-1]:,} hold {', '.join(missing)}, which is mixed in no longer")
            to_source = np.array([names.index(name) for name in segment.names])
            in_segment = np.flatnonzero(of_segment == number)
            block, slot = np.divmod(places[in_segment] - segment.start, segment.block)
            for one in np.unique(block):
                here = block == one
                counts, order, rank = self._block(blocks, int(one))
                if slot[here].max() >= len(order):
                    last = segment.start + sum(counts) - sum(blocks.counts(0)) + len(order)
                    raise UserError(
                        f"the mixture is used up after {last:,} rows: every source has reached its max_epochs or "
                        "max_tokens; raise one of them, or lower train.steps"
                    )
                source = order[slot[here]]
                which[in_segment[here]] = to_source[source]
                nth[in_segment[here]] = np.array(counts)[source] + rank[slot[here]]
        return which, nth

    def counts(self, row: int) -> dict[str, int]:
        """How many of the first ``row`` rows come from each source, those no longer mixed in included."""
        number = max(i for i, segment in enumerate(self.segments) if segment.start <= row)
        return _counts(self._segments[number], row)

    def shares(self, row: int) -> dict[str, float]:
        """The share of each source in the targets of the first ``row`` rows."""
        tokens = {name: n * self._targets_per_row.get(name, 1.0) for name, n in self.counts(row).items()}
        total = sum(tokens.values())
        return {name: n / total if total else 0.0 for name, n in tokens.items()}

    def _load(self, segments: Sequence[Segment]) -> None:
        self._segments: list[_Blocks] = []
        counts: Mapping[str, int] = {}
        for segment in segments:
            if self._segments:
                counts = _counts(self._segments[-1], segment.start)
            self._segments.append(_Blocks(segment, counts))
        may_end = any(cap is not None for cap in segments[-1].caps)  # otherwise no count need be found beforehand
        if may_end and self._n_planned > segments[-1].start:
            self.locate(np.array([self._n_planned - 1]))

    @staticmethod
    def _block(blocks: _Blocks, number: int) -> tuple[tuple[int, ...], Int[np.ndarray, "L"], Int[np.ndarray, "L"]]:
        """The counts before a block, the source of each of its rows, and how many of the same stand before it."""
        before, after = blocks.counts(number), blocks.counts(number + 1)
        counts = tuple(b - a for a, b in zip(before, after, strict=True))
        return before, block_order(counts), _rank_within(counts)


def _counts(blocks: _Blocks, row: int) -> dict[str, int]:
    number, slot = divmod(row - blocks.segment.start, blocks.segment.block)
    before, order, _ = MixedRows._block(blocks, number)
    within = np.bincount(order[:slot], minlength=len(before))
    now = {name: n + int(m) for name, n, m in zip(blocks.segment.names, before, within, strict=True)}
    return blocks.before | now


@lru_cache(maxsize=256)
def _rank_within(counts: tuple[int, ...]) -> Int[np.ndarray, "L"]:
    order = block_order(counts)
    rank = np.empty_like(order)
    for i in np.unique(order):
        here = order == i
        rank[here] = np.arange(here.sum())
    return rank


def _in_words(segment: Segment, row: int) -> str:
    weights = segment.weights(row)
    total = sum(weights)
    return ", ".join(f"{name} {w / total:.1%}" for name, w in zip(segment.names, weights, strict=True))
