"""Rows that can be asked for by number, whatever they are made from: the one thing a loader reads.

A source is finite (the packed rows of a token stream; one pass over them is an epoch) or endless (generated, or read as
they are asked for). Row ``k`` is a pure function of the source and ``k``.
"""

from collections.abc import Sequence
from typing import NamedTuple, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Int


class Rows(NamedTuple):
    """N packed rows of T positions, 64-bit."""

    tokens: Int[np.ndarray, "N T"]
    targets: Int[np.ndarray, "N T"] | Int[np.ndarray, "N T K"]
    """What each position predicts; with a lookahead of K > 1 tokens, the K that follow it."""
    documents: Int[np.ndarray, "N T"] | None
    """The number of each input's document within its row, rising from 0; padding counts as one more document."""


@runtime_checkable
class RowSource(Protocol):
    """Rows by number."""

    @property
    def seq_len(self) -> int:
        """T, positions in a row."""
        ...

    @property
    def n_rows(self) -> int | None:
        """How many there are; ``None``: endless, and visited in order instead of shuffled."""
        ...

    @property
    def fingerprint(self) -> str:
        """Changes when any row would."""
        ...

    def rows(self, numbers: Int[np.ndarray, "N"]) -> Rows:
        """Some rows, in any order; those of a finite source are numbered below ``n_rows``."""
        ...


def gather_rows(sources: Sequence[RowSource], which: Int[np.ndarray, "N"], numbers: Int[np.ndarray, "N"]) -> Rows:
    """Rows of several sources in one.

    Args:
        sources: all with one T, and all with documents or none of them.
        which: the source of each row.
        numbers: which of the source's rows it is.
    """
    parts, places = [], []
    for i in np.unique(which):
        here = np.flatnonzero(which == i)
        parts.append(sources[i].rows(numbers[here]))
        places.append(here)
    back = np.argsort(np.concatenate(places))
    tokens, targets = (np.concatenate([part[i] for part in parts])[back] for i in (0, 1))
    documents = [part.documents for part in parts if part.documents is not None]
    return Rows(tokens, targets, np.concatenate(documents)[back] if documents else None)
