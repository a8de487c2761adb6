"""A needle in a haystack, in symbols.

Source: the passkey task of Mohtashami and Jaggi 2023, "Landmark attention", arXiv 2305.16300.

A row is random symbols with a needle ``MARK v_1 .. v_m`` at some depth, and ends with ``ASK v_1 .. v_m``. Only the
answer counts, and it stands in the needle: the floor is exactly 0.
"""

from typing import Literal

import numpy as np
from pydantic import Field, model_validator

from isogloss.data.counter import Draws
from isogloss.data.synthetic.task import OPENING, Sample, SyntheticConfig

MARK, ASK, FIRST_SYMBOL = 1, 2, 3


class NeedleConfig(SyntheticConfig):
    """One thing to remember among noise: how far back a model reaches."""

    type: Literal["needle"] = "needle"
    n_symbols: int = Field(default=64, ge=1, le=1 << 20)
    """Different symbols."""
    length: int = Field(default=4, ge=1)
    """m, symbols in the needle."""
    depth: tuple[float, float] = (0.0, 1.0)
    """Where needles are put, drawn evenly: 0 is the row's beginning, 1 just before the question."""

    @model_validator(mode="after")
    def _check(self) -> "NeedleConfig":
        if not 0 <= self.depth[0] <= self.depth[1] <= 1:
            raise ValueError(f"depth {list(self.depth)} must be two rising numbers from 0 to 1")
        return self


class Needle:
    """Implements ``Task``."""

    def __init__(self, config: NeedleConfig):
        self._n_symbols, self._length, self._depth = config.n_symbols, config.length, config.depth
        self.n_tokens = FIRST_SYMBOL + config.n_symbols
        self.min_seq_len = 2 * config.length + 2

    def floor(self, seq_len: int) -> float:
        """0: the answer stands in the row already."""
        return 0.0

    def generate(self, draws: Draws, seq_len: int, split: str) -> Sample:
        """Rows of noise with a needle, and the question."""
        length = self._length
        n_hay = seq_len - length - 1
        tokens = FIRST_SYMBOL + draws.below("hay", seq_len + 1, self._n_symbols)
        value = FIRST_SYMBOL + draws.below("value", length, self._n_symbols)
        low, high = self._depth
        depth = low + (high - low) * draws.uniform("depth", 1)
        start = 1 + np.minimum((depth * (n_hay - length)).astype(np.int64), n_hay - length - 1)
        np.put_along_axis(tokens, start, MARK, axis=1)
        np.put_along_axis(tokens, start + 1 + np.arange(length), value, axis=1)
        tokens[:, 0], tokens[:, n_hay + 1] = OPENING, ASK
        tokens[:, n_hay + 2 :] = value
        counts = np.zeros((draws.n_rows, seq_len), dtype=bool)
        counts[:, n_hay + 1 :] = True
        return Sample(tokens, counts)
