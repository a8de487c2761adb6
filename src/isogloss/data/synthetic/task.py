"""What the generated corpora share: how a family is asked for rows, and the distributions it draws from by table.

A row is one document: id 0 (``end_of_text``), then what the family generates. Row k of a split is a pure function of
the family's settings, its seed, the split and k.
"""

from typing import NamedTuple, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Bool, Float, Int
from pydantic import Field

from isogloss.config.base import Config
from isogloss.data.corpus import Cut
from isogloss.data.counter import Draws

OPENING = 0
"""The id that opens every row."""

RESOLUTION = 12
"""Probabilities of generated processes are whole multiples of 2^-12: drawn by looking up 12 random bits, exactly."""


class SyntheticConfig(Config):
    """What every generated corpus has."""

    seq_len: int = Field(default=128, ge=1)
    """Tokens in a row."""
    validation_rows: int = Field(default=512, ge=1)
    """Rows that validate; training rows never end."""
    seed: int = Field(default=0, ge=0, lt=2**63)
    """Decides the process and its rows, whatever the recipe's own seed is."""

    def cut(self) -> Cut:
        """How rows are asked of the corpus: each is a document, so there is none to keep apart."""
        return Cut(self.seq_len, within_document=False)


class Sample(NamedTuple):
    """Generated rows: N of T + 1 tokens, and which of the last T can be known, or are to be predicted as they fall."""

    tokens: Int[np.ndarray, "N T1"]
    counts: Bool[np.ndarray, "N T"]


@runtime_checkable
class Task(Protocol):
    """One family with its settings."""

    @property
    def n_tokens(self) -> int:
        """Ids there are, 0 included."""
        ...

    @property
    def min_seq_len(self) -> int:
        """The shortest row that has a target."""
        ...

    def floor(self, seq_len: int) -> float:
        """The expected loss of the best predictor there is, which knows the process: nats a target that counts."""
        ...

    def generate(self, draws: Draws, seq_len: int, split: str) -> Sample:
        """The rows that some random words decide."""
        ...


def quantised(probabilities: Float[np.ndarray, "*S V"]) -> Int[np.ndarray, "*S V"]:
    """Probabilities as counts out of 2^12, each at least 1, the rest shared out by largest remainder."""
    n = probabilities.shape[-1]
    share = probabilities * ((1 << RESOLUTION) - n)
    counts = np.floor(share).astype(np.int64)
    missing = (1 << RESOLUTION) - n - counts.sum(-1, keepdims=True)
    order = np.argsort(np.argsort(counts - share, axis=-1, kind="stable"), axis=-1, kind="stable")
    return counts + (order < missing) + 1


def lookup(counts: Int[np.ndarray, "C V"]) -> Int[np.ndarray, "L"]:
    """The table that turns ``context · 2^12 + 12 random bits`` into an outcome with these counts."""
    outcomes = np.tile(np.arange(counts.shape[1], dtype=np.int32), len(counts))
    return np.repeat(outcomes, counts.reshape(-1))


def entropy(probabilities: Float[np.ndarray, "*S V"]) -> Float[np.ndarray, "*S"]:
    """In nats, over the last axis; 0·log 0 = 0."""
    logarithms = np.log(probabilities, where=probabilities > 0, out=np.zeros_like(probabilities))
    return np.asarray(-(probabilities * logarithms).sum(-1))
