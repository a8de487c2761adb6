"""Rows from a token stream, in one of three ways.

``concatenate``
    Row r covers the T+1 tokens from position r·T on: documents laid end to end and cut wherever a row ends.
``best_fit``
    Documents are not cut where they fit (Ding et al. 2024, "Fewer Truncations Improve Language Modeling"): the full
    rows of longer ones are taken off, and what remains goes, longest first, into the row with the least room that it
    fits; see ``fitting.py``.
``document``
    Each document begins a row; a longer one has several.

The inputs of a row are its first T tokens, its targets the last T: neighbours in the stream share one token. In each
of the three ways every token of the stream but the first is a target exactly once; what does not fill a row is padded,
with targets that are ``IGNORED``.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Int

from isogloss.config.quantity import count
from isogloss.data.corpus import Packing
from isogloss.data.rows.fitting import RowTable
from isogloss.data.rows.source import Rows
from isogloss.data.shards import TokenStream
from isogloss.models.ignored import IGNORED


@dataclass(frozen=True)
class Waste:
    """What packing costs.

    Args:
        n_rows: how many rows there are.
        n_positions: positions in all of them.
        n_targets: those that predict something; the others are padding.
        n_documents: documents packed.
        n_cut: of them, those that do not stand whole in a row.
    """

    n_rows: int
    n_positions: int
    n_targets: int
    n_documents: int
    n_cut: int

    @property
    def padding(self) -> float:
        """The share of positions that predict nothing."""
        return 1 - self.n_targets / max(self.n_positions, 1)

    @property
    def cut(self) -> float:
        """The share of documents that are cut."""
        return self.n_cut / max(self.n_documents, 1)

    def __str__(self) -> str:
        return (
            f"{count(self.n_rows, 'row')}, {self.padding:.2%} of them padding; "
            f"{self.n_cut:,} of {count(self.n_documents, 'document')} cut ({self.cut:.1%})"
        )


def count_rows(n_tokens: int, seq_len: int) -> int:
    """How many rows hold every target of a stream of ``n_tokens``, laid end to end."""
    return -(-max(n_tokens - 1, 0) // seq_len)


class PackedRows:
    """All rows of a stream (a ``RowSource``).

    Args:
        stream: a stream of at least one token.
        seq_len: T.
        pad_token: the input where there is nothing, by custom ``end_of_text``.
        with_documents: also number the documents within each row.
        table: which tokens each row holds; laid end to end and cut if not given.
        packing: the name of the way.
    """

    def __init__(
        self,
        stream: TokenStream,
        seq_len: int,
        pad_token: int,
        with_documents: bool,
        table: RowTable | None = None,
        packing: Packing = "concatenate",
    ):
        assert (table is None) == (packing == "concatenate")
        self.seq_len = seq_len
        self.n_rows = count_rows(len(stream), seq_len) if table is None else table.n_rows
        # Of a stream laid end to end the stream's own, which checkpoints of earlier versions hold.
        self.fingerprint = stream.fingerprint if table is None else f"{stream.fingerprint}:{packing}"
        self._stream, self._pad_token, self._with_documents, self._table = stream, pad_token, with_documents, table

    @property
    def n_targets(self) -> int:
        """Targets of all rows."""
        return max(len(self._stream) - 1, 0)

    def rows(self, numbers: Int[np.ndarray, "N"] | Sequence[int]) -> Rows:
        """Some rows, by their numbers, in any order."""
        numbers = np.asarray(numbers)
        if self._table is None:
            return pack_rows(self._stream, numbers, self.seq_len, self._pad_token, self._with_documents)
        return _take_rows(self._stream, self._table, numbers, self.seq_len, self._pad_token, self._with_documents)

    def waste(self) -> Waste:
        """What this way of packing costs; reads where all documents start."""
        starts = self._stream.document_starts
        n_cut = 0
        for first in range(0, len(starts), WINDOW):
            begins = starts[first : first + WINDOW]
            # The last token of the stream is no input.
            ends = np.append(starts[first + 1 : first + WINDOW + 1], len(self._stream) - 1)[: len(begins)]
            if self._table is None:
                n_cut += int((begins // self.seq_len < (ends - 1) // self.seq_len).sum())
            else:
                n_cut += int((ends - begins > self.seq_len).sum())
        return Waste(self.n_rows, self.n_rows * self.seq_len, self.n_targets, len(starts), n_cut)


WINDOW = 1 << 20
"""Documents looked at together."""


def pack_rows(
    stream: TokenStream,
    rows: Int[np.ndarray, "N"],
    seq_len: int,
    pad_token: int,
    with_documents: bool,
    lookahead: int = 1,
) -> Rows:
    """Cut some rows of a stream laid end to end, by their numbers.

    Args:
        stream: a stream of at least one token.
        rows: row numbers, in any order; one that is not below ``count_rows`` holds nothing but padding.
        seq_len: T.
        pad_token: the input where the stream has ended, by custom ``end_of_text``.
        with_documents: also number the documents.
        lookahead: K, how many of the tokens that follow are targets, for multi-token prediction. Beyond the first,
            those of a later document than the input's are ``IGNORED`` where documents are numbered; the token that
            opens it closes the one before, and counts.
    """
    positions = rows[:, None] * seq_len + np.arange(seq_len + lookahead)
    outside = positions >= len(stream)
    window = stream.gather(np.minimum(positions, len(stream) - 1)).astype(np.int64)
    window[outside] = pad_token
    targets = np.where(outside, IGNORED, window)[:, 1:]
    if lookahead > 1:
        targets = np.stack([targets[:, k : k + seq_len] for k in range(lookahead)], axis=-1)
    documents = None
    if with_documents:
        numbers = np.searchsorted(stream.document_starts, positions[:, :-1], side="right")
        numbers[outside[:, :-1]] = len(stream.document_starts) + 1
        documents = np.ascontiguousarray((numbers - numbers[:, :1])[:, :seq_len])
        for k in range(1, lookahead):
            targets[:, :, k][numbers[:, k : k + seq_len] != numbers[:, :seq_len]] = IGNORED
    return Rows(np.ascontiguousarray(window[:, :seq_len]), np.ascontiguousarray(targets), documents)


def _take_rows(
    stream: TokenStream,
    table: RowTable,
    rows: Int[np.ndarray, "N"],
    seq_len: int,
    pad_token: int,
    with_documents: bool,
) -> Rows:
    """Put together the pieces of some rows."""
    first = table.first_piece[rows]
    n_pieces = table.first_piece[rows + 1] - first
    pieces = _ranges(first, n_pieces)
    lengths = table.length[pieces].astype(np.int64)
    row_of_piece = np.repeat(np.arange(len(rows)), n_pieces)
    filled = np.bincount(row_of_piece, weights=lengths, minlength=len(rows)).astype(np.int64)
    # Positions in the stream of all inputs, piece after piece, and where they go in the rows.
    source = _ranges(table.start[pieces].astype(np.int64), lengths)
    goal = _ranges(np.arange(len(rows)) * seq_len, filled)
    tokens = np.full(len(rows) * seq_len, pad_token, np.int64)
    targets = np.full(len(rows) * seq_len, IGNORED, np.int64)
    tokens[goal] = stream.gather(source)
    targets[goal] = stream.gather(source + 1)
    documents = None
    if with_documents:
        nth_in_row = np.arange(len(pieces)) - np.repeat(np.cumsum(n_pieces) - n_pieces, n_pieces)
        numbers = np.repeat(n_pieces, seq_len)  # padding: one more than the last
        numbers[goal] = np.repeat(nth_in_row, lengths)
        documents = numbers.reshape(-1, seq_len)
    return Rows(tokens.reshape(-1, seq_len), targets.reshape(-1, seq_len), documents)


def _ranges(starts: Int[np.ndarray, "N"], lengths: Int[np.ndarray, "N"]) -> Int[np.ndarray, "M"]:
    """``starts[0], starts[0] + 1, ...``, ``lengths[0]`` of them, then those from ``starts[1]`` on, and so on."""
    ends = np.cumsum(lengths)
    return np.arange(ends[-1] if len(ends) else 0) + np.repeat(starts - (ends - lengths), lengths)
