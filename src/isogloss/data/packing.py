"""Rows cut from a token stream: row r covers the T+1 tokens from position r·T on.

Its inputs are the first T of them, its targets the last T: neighbouring rows share one token, so every token of the
stream but the first is a target exactly once. The last row, and any row beyond it, is filled with a padding token
whose targets are ``IGNORED``.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Int

from isogloss.data.shards import TokenStream
from isogloss.models.protocol import IGNORED


class Rows(NamedTuple):
    """N packed rows of T positions, 64-bit."""

    tokens: Int[np.ndarray, "N T"]
    targets: Int[np.ndarray, "N T"]
    documents: Int[np.ndarray, "N T"] | None
    """The number of each input's document within its row, rising from 0; padding counts as one more document."""


def count_rows(n_tokens: int, seq_len: int) -> int:
    """How many rows hold every target of a stream of ``n_tokens``."""
    return -(-max(n_tokens - 1, 0) // seq_len)


def pack_rows(
    stream: TokenStream, rows: Int[np.ndarray, "N"], seq_len: int, pad_token: int, with_documents: bool
) -> Rows:
    """Cut some rows, by their numbers.

    Args:
        stream: a stream of at least one token.
        rows: row numbers, in any order; one that is not below ``count_rows`` holds nothing but padding.
        seq_len: T.
        pad_token: the input where the stream has ended, by custom ``end_of_text``.
        with_documents: also number the documents.
    """
    positions = rows[:, None] * seq_len + np.arange(seq_len + 1)
    outside = positions >= len(stream)
    window = stream.gather(np.minimum(positions, len(stream) - 1)).astype(np.int64)
    window[outside] = pad_token
    targets = window[:, 1:].copy()
    targets[outside[:, 1:]] = IGNORED
    documents = None
    if with_documents:
        numbers = np.searchsorted(stream.document_starts, positions[:, :-1], side="right")
        numbers[outside[:, :-1]] = len(stream.document_starts) + 1
        documents = numbers - numbers[:, :1]
    return Rows(np.ascontiguousarray(window[:, :-1]), targets, documents)
