"""Induction: [A][B] .. [A] -> [B].

Source: Olsson et al. 2022, "In-context learning and induction heads", arXiv 2209.11895, who measure it on repeated
random sequences.

A row is a segment of different random symbols, repeated to the row's end; its length is drawn for each row, so that
looking back by a fixed distance does not do. A target counts where the token before it has occurred earlier in the row:
since a segment's symbols differ, what followed it then follows now, and the floor is exactly 0.
"""

from typing import Literal

import numpy as np
from pydantic import Field, model_validator

from isogloss.data.counter import Draws
from isogloss.data.synthetic.task import OPENING, Sample, SyntheticConfig

FIRST_SYMBOL = 1


class InductionConfig(SyntheticConfig):
    """Repeated segments: needs two layers of attention that work together, or a convolution or state before one."""

    type: Literal["induction"] = "induction"
    n_symbols: int = Field(default=64, ge=1, le=1 << 16)
    """Different symbols."""
    min_period: int = Field(default=8, ge=1)
    """Symbols of the shortest segment."""
    max_period: int = Field(default=32, ge=1)
    """Symbols of the longest segment."""

    @model_validator(mode="after")
    def _check(self) -> "InductionConfig":
        if not self.min_period <= self.max_period <= self.n_symbols:
            raise ValueError(
                f"min_period ({self.min_period}), max_period ({self.max_period}) and n_symbols ({self.n_symbols}) must "
                "not fall: the symbols of a segment are all different"
            )
        return self


class Induction:
    """Implements ``Task``."""

    def __init__(self, config: InductionConfig):
        self._periods = config.min_period, config.max_period
        self._n_symbols = config.n_symbols
        self.n_tokens = FIRST_SYMBOL + config.n_symbols
        self.min_seq_len = config.max_period + 2  # so that every row has a target

    def floor(self, seq_len: int) -> float:
        """0: all that counts has been seen in the row."""
        return 0.0

    def generate(self, draws: Draws, seq_len: int, split: str) -> Sample:
        """Rows of a repeated segment."""
        low, high = self._periods
        period = low + draws.below("period", 1, high - low + 1)
        segment = FIRST_SYMBOL + draws.distinct("segment", high, self._n_symbols)
        place = np.arange(seq_len)[None]
        content = np.take_along_axis(segment, place % period, axis=1)
        return Sample(np.pad(content, ((0, 0), (1, 0)), constant_values=OPENING), place > period)
