"""Selective copying (Gu and Dao 2023, "Mamba", arXiv 2312.00752, section 4.1.1, after Jing et al. 2019).

A row holds n data symbols at random places among noise, then COPY and the data symbols in their order. Only those
count, and all of them stand in the row already: the floor is exactly 0. The authors' answers are read off at n marks;
here each follows the one before, as in text. They take n = 16 and 16 symbols in 4096 places.
"""

from typing import Literal

import numpy as np
from pydantic import Field

from isogloss.data.counter import Draws
from isogloss.data.synthetic.task import OPENING, Sample, SyntheticConfig

NOISE, COPY, FIRST_SYMBOL = 1, 2, 3


class SelectiveCopyConfig(SyntheticConfig):
    """Symbols to pick out of noise and to copy: needs a choice by content, which a fixed convolution cannot make."""

    type: Literal["selective_copy"] = "selective_copy"
    n_symbols: int = Field(default=16, ge=1, le=1 << 20)
    """Different data symbols."""
    n_data: int = Field(default=16, ge=1)
    """Data symbols in a row."""


class SelectiveCopy:
    """Implements ``Task``."""

    def __init__(self, config: SelectiveCopyConfig):
        self._n_symbols, self._n_data = config.n_symbols, config.n_data
        self.n_tokens = FIRST_SYMBOL + config.n_symbols
        self.min_seq_len = 2 * config.n_data + 1

    def floor(self, seq_len: int) -> float:
        """0: all data symbols stand in the row already."""
        return 0.0

    def generate(self, draws: Draws, seq_len: int, split: str) -> Sample:
        """Rows of data among noise, and the data again."""
        n_data = self._n_data
        n_context = seq_len - n_data - 1
        data = FIRST_SYMBOL + draws.below("data", n_data, self._n_symbols)
        tokens = np.full((draws.n_rows, seq_len + 1), NOISE)
        tokens[:, 0], tokens[:, n_context + 1] = OPENING, COPY
        places = 1 + np.sort(draws.distinct("places", n_data, n_context), axis=1)
        np.put_along_axis(tokens, places, data, axis=1)
        tokens[:, n_context + 2 :] = data
        counts = np.zeros((draws.n_rows, seq_len), dtype=bool)
        counts[:, n_context + 1 :] = True
        return Sample(tokens, counts)
