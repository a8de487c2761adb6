"""Multi-query associative recall, MQAR.

Source: Arora, Eyuboglu, Timalsina, Johnson, Poli, Zou, Rudra and Ré 2023, "Zoology: measuring and improving recall in
efficient language models", arXiv 2312.04927.

A row begins with D pairs of a key and its value, keys all different. Each key then comes once more, followed by its
value again, at a place whose distance from the pairs follows a power law: g-th slot of two tokens with weight g^(a-1).
Slots without a query hold random values. Only the answers count, and each stands beside its key among the pairs: the
floor is exactly 0.

Two differences from the authors' program: an answer follows its query in the row, as in text, where theirs is a label
alone; and what fills the gaps is drawn from the values only, so that a key in a row is always a pair's or a query.
"""

from typing import Literal

import numpy as np
from pydantic import Field

from isogloss.data.counter import Draws
from isogloss.data.synthetic.task import OPENING, Sample, SyntheticConfig

FIRST_KEY = 1


class AssociativeRecallConfig(SyntheticConfig):
    """Many lookups in a row: a recurrent state must hold all pairs, attention looks back."""

    type: Literal["associative_recall"] = "associative_recall"
    n_keys: int = Field(default=128, ge=1, le=1 << 16)
    """Different keys; the authors take 4096."""
    n_values: int = Field(default=128, ge=1, le=1 << 16)
    """Different values; the authors take 4096."""
    n_pairs: int = Field(default=8, ge=1)
    """D, pairs in a row; the authors go from 4 to 64."""
    power: float = Field(default=0.01, gt=0, le=1)
    """a, of the power law of gaps: small asks soon after the pairs, 1 anywhere alike."""


class AssociativeRecall:
    """Implements ``Task``."""

    def __init__(self, config: AssociativeRecallConfig):
        self._n_keys, self._n_values, self._n_pairs = config.n_keys, config.n_values, config.n_pairs
        self._power = config.power
        self._first_value = FIRST_KEY + config.n_keys
        self.n_tokens = self._first_value + config.n_values
        self.min_seq_len = 4 * config.n_pairs

    def floor(self, seq_len: int) -> float:
        """0: every answer stands in the row already."""
        return 0.0

    def generate(self, draws: Draws, seq_len: int, split: str) -> Sample:
        """Rows of pairs, then queries among random values."""
        n_pairs = self._n_pairs
        keys = FIRST_KEY + draws.distinct("keys", n_pairs, self._n_keys)
        values = self._first_value + draws.below("values", n_pairs, self._n_values)
        tokens = self._first_value + draws.below("gaps", seq_len + 1, self._n_values)
        tokens[:, 0] = OPENING
        tokens[:, 1 : 2 * n_pairs + 1 : 2] = keys
        tokens[:, 2 : 2 * n_pairs + 2 : 2] = values
        n_slots = (seq_len - 2 * n_pairs) // 2
        weights = np.arange(1, n_slots + 1) ** (self._power - 1)
        # Drawing without replacement by weight: the largest of u^(1/w) in turn (Efraimidis and Spirakis 2006).
        slots = np.argsort(-np.log(draws.uniform("slots", n_slots)) / weights, axis=1, kind="stable")[:, :n_pairs]
        places = 2 * n_pairs + 1 + 2 * slots
        np.put_along_axis(tokens, places, keys, axis=1)
        np.put_along_axis(tokens, places + 1, values, axis=1)
        counts = np.zeros((draws.n_rows, seq_len), dtype=bool)
        np.put_along_axis(counts, places, True, axis=1)
        return Sample(tokens, counts)
