"""Copying strings.

Source: Graves, Wayne and Danihelka 2014, "Neural Turing machines", 4.1; Jelassi, Brandfonbrener, Kakade and Malach
2024, "Repeat after me", arXiv 2402.01032.

A row is made of blocks ``x_1 .. x_n COPY x_1 .. x_n`` of random symbols, n drawn for each row. Only the copies count.
Each of their symbols stands n + 1 places earlier, and where COPY stands tells n: the floor is exactly 0.
"""

from typing import Literal

import numpy as np
from pydantic import Field, model_validator

from isogloss.data.counter import Draws
from isogloss.data.synthetic.task import OPENING, Sample, SyntheticConfig

COPY, FIRST_SYMBOL = 1, 2


class CopyConfig(SyntheticConfig):
    """Strings to copy: easy for attention, and as hard for a recurrent state as the string is long."""

    type: Literal["copy"] = "copy"
    n_symbols: int = Field(default=32, ge=1, le=1 << 20)
    """Different symbols."""
    min_length: int = Field(default=8, ge=1)
    """Symbols of the shortest string."""
    max_length: int = Field(default=32, ge=1)
    """Symbols of the longest string."""

    @model_validator(mode="after")
    def _check(self) -> "CopyConfig":
        if self.min_length > self.max_length:
            raise ValueError(f"min_length ({self.min_length}) is above max_length ({self.max_length})")
        return self


class Copy:
    """Implements ``Task``."""

    def __init__(self, config: CopyConfig):
        self._lengths = config.min_length, config.max_length
        self._n_symbols = config.n_symbols
        self.n_tokens = FIRST_SYMBOL + config.n_symbols
        self.min_seq_len = config.max_length + 2  # so that every row has a target

    def floor(self, seq_len: int) -> float:
        """0: all that counts stands in the row already."""
        return 0.0

    def generate(self, draws: Draws, seq_len: int, split: str) -> Sample:
        """Rows of whole blocks, the last one cut at the row's end."""
        low, high = self._lengths
        length = low + draws.below("length", 1, high - low + 1)
        block, within = np.divmod(np.arange(seq_len)[None], 2 * length + 1)
        symbols = FIRST_SYMBOL + draws.below("symbols", seq_len + high, self._n_symbols)
        copied = within > length
        place = np.where(copied, within - length - 1, np.minimum(within, length - 1))
        content = np.take_along_axis(symbols, block * length + place, axis=1)
        content[within == length] = COPY
        return Sample(np.pad(content, ((0, 0), (1, 0)), constant_values=OPENING), copied)
