"""What is in a prepared corpus: how long its documents are, which tokens are frequent, and the text itself."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import get_args

import numpy as np
from jaxtyping import Int

from isogloss.config.base import UserError
from isogloss.data.corpus import Packing
from isogloss.data.prepared import PreparedCorpus, SplitName
from isogloss.data.rows.packing import Waste, count_rows
from isogloss.data.shards import TokenStream

QUANTILES = (0.0, 0.01, 0.1, 0.5, 0.9, 0.99, 1.0)
TOKENS_AT_A_TIME = 1 << 22


@dataclass(frozen=True)
class Statistics:
    """Of one split.

    Args:
        n_documents: how many.
        n_bytes: of their texts.
        n_tokens: of their texts, the one that opens each document left out.
        quantiles: the lengths in tokens of the documents at ``QUANTILES`` of all, the shortest first.
        top: the most frequent tokens and how often they occur, the most frequent first.
        n_unused: ids that do not occur.
    """

    n_documents: int
    n_bytes: int
    n_tokens: int
    quantiles: tuple[int, ...]
    top: tuple[tuple[int, int], ...]
    n_unused: int

    @property
    def bytes_per_token(self) -> float:
        """Bytes of text for each token of it; 0 where there is none."""
        return self.n_bytes / self.n_tokens if self.n_tokens else 0.0


@dataclass(frozen=True)
class Piece:
    """A document, or as much of it as was asked for.

    Args:
        document: its number in its split.
        first: the first of the piece's tokens, counted from the one that opens the document.
        n_tokens: tokens of the piece.
        n_document: tokens of the whole document.
        text: of the piece.
    """

    document: int
    first: int
    n_tokens: int
    n_document: int
    text: str


def gather_statistics(corpus: PreparedCorpus, split: SplitName, n_top: int = 20) -> Statistics:
    """Read a whole split, in bounded memory."""
    stream = corpus.split(split)
    record = corpus.manifest.train if split == "train" else corpus.manifest.validation
    counts = np.zeros(corpus.manifest.n_tokens, np.int64)
    for tokens in _blocks(stream):
        counts += np.bincount(tokens, minlength=len(counts))
    counts[corpus.tokenizer.end_of_text] -= record.n_documents  # a text may hold it too
    order = np.argsort(-counts, kind="stable")[:n_top]
    lengths = np.sort(_lengths(stream) - 1)
    at = [round(share * (len(lengths) - 1)) for share in QUANTILES]
    return Statistics(
        n_documents=record.n_documents,
        n_bytes=record.n_bytes,
        n_tokens=record.n_tokens - record.n_documents,
        quantiles=tuple(lengths[at].tolist()),
        top=tuple((int(token), int(counts[token])) for token in order if counts[token]),
        n_unused=int((counts == 0).sum()),
    )


def gather_waste(corpus: PreparedCorpus, split: SplitName, seq_len: int) -> dict[Packing, Waste]:
    """What each way of packing costs; the rows found for it are kept with the corpus, where training looks for them."""
    return {packing: corpus.rows(split, seq_len, packing=packing).waste() for packing in get_args(Packing)}


def peek_document(corpus: PreparedCorpus, split: SplitName, number: int) -> Piece:
    """A document by its number.

    Raises:
        UserError: there are not so many.
    """
    starts = corpus.split(split).document_starts
    if not 0 <= number < len(starts):
        raise UserError(f"{corpus.folder}: {split} has documents 0 to {len(starts) - 1:,}, not {number:,}")
    end = starts[number + 1] if number + 1 < len(starts) else len(corpus.split(split))
    return peek_tokens(corpus, split, int(starts[number]), int(end))[0]


def peek_row(corpus: PreparedCorpus, split: SplitName, number: int, seq_len: int) -> list[Piece]:
    """The documents of a row of documents laid end to end.

    Raises:
        UserError: there are not so many rows.
    """
    n_tokens = len(corpus.split(split))
    n_rows = count_rows(n_tokens, seq_len)
    if not 0 <= number < n_rows:
        raise UserError(f"{corpus.folder}: {split} has rows 0 to {n_rows - 1:,} of {seq_len} tokens, not {number:,}")
    return peek_tokens(corpus, split, number * seq_len, min((number + 1) * seq_len, n_tokens))


def peek_tokens(corpus: PreparedCorpus, split: SplitName, first: int, last: int) -> list[Piece]:
    """The documents in a range of the split's tokens."""
    stream = corpus.split(split)
    starts = stream.document_starts
    pieces: list[Piece] = []
    at = first
    while at < last:
        number = int(np.searchsorted(starts, at, side="right")) - 1
        end = int(starts[number + 1]) if number + 1 < len(starts) else len(stream)
        tokens = stream.gather(np.arange(at, min(end, last)))
        text = corpus.tokenizer.decode(tokens)
        pieces.append(Piece(number, at - int(starts[number]), len(tokens), end - int(starts[number]), text))
        at += len(tokens)
    return pieces


def _blocks(stream: TokenStream) -> Iterator[np.ndarray]:
    for first in range(0, len(stream), TOKENS_AT_A_TIME):
        yield stream.gather(np.arange(first, min(first + TOKENS_AT_A_TIME, len(stream))))


def _lengths(stream: TokenStream) -> Int[np.ndarray, "N"]:
    return np.diff(np.append(stream.document_starts, len(stream)))


def quantile_names() -> Sequence[str]:
    """What the quantiles are called."""
    return ["shortest", *(f"{share:.0%}" for share in QUANTILES[1:-1]), "longest"]
