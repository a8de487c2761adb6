"""Rules: the distribution one parameter starts from, with the numbers put in and the reason."""

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class Normal:
    """A normal distribution of mean 0, cut at ``cut`` nominal standard deviations on both sides.

    Args:
        std: the nominal standard deviation, before the cut.
        text: the rule with its numbers put in, such as ``256^-0.5 / sqrt(2*(6+1))``.
        cut: in units of ``std``; ``None`` for no cut.
        why: the reason, where it is not the obvious one.
    """

    std: float
    text: str
    cut: float | None = 3.0
    why: str = ""

    @property
    def effective_std(self) -> float:
        """The standard deviation after the cut: ``s sqrt(1 - 2 c phi(c) / (2 Phi(c) - 1))``."""
        if self.cut is None:
            return self.std
        c = self.cut
        density = math.exp(-c * c / 2) / math.sqrt(2 * math.pi)
        return self.std * math.sqrt(1 - 2 * c * density / math.erf(c / math.sqrt(2)))


@dataclass(frozen=True)
class Constant:
    """Every element has the same value."""

    value: float
    text: str
    why: str = ""

    @property
    def std(self) -> float:
        """Nothing varies."""
        return 0.0

    @property
    def effective_std(self) -> float:
        """Nothing varies."""
        return 0.0

    @property
    def cut(self) -> None:
        """There is nothing to cut."""
        return None


Rule = Normal | Constant
