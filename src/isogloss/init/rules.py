"""Rules: the distribution one parameter starts from, with the numbers put in and the reason; and how it is updated."""

import math
from dataclasses import dataclass
from statistics import NormalDist

NARROW = 1e-3
"""A normal that is cut at less of its std is uniform to a part in a million."""


@dataclass(frozen=True)
class Normal:
    """A normal distribution of mean 0, cut at ``cut`` nominal standard deviations on both sides.

    Args:
        std: the nominal standard deviation, before the cut.
        text: the rule with its numbers put in, such as ``256^-0.5/sqrt(2*(6+1))``.
        cut: in units of ``std``; ``None`` for no cut.
        compensated: widened before the cut, so that the standard deviation after it is ``std``; the bounds widen too.
        why: the reason, where it is not the obvious one.
    """

    std: float
    text: str
    cut: float | None = 3.0
    compensated: bool = False
    why: str = ""

    @property
    def drawn_std(self) -> float:
        """The standard deviation of the normal that is cut."""
        return self.std / self._shrinkage() if self.compensated else self.std

    @property
    def effective_std(self) -> float:
        """The standard deviation after the cut: ``s sqrt(1 - 2 c phi(c) / (2 Phi(c) - 1))``."""
        return self.drawn_std * self._shrinkage()

    @property
    def bound(self) -> float:
        """No element is larger in magnitude."""
        return math.inf if self.cut is None else self.cut * self.drawn_std

    @property
    def kurtosis(self) -> float:
        """The fourth moment over the squared second one; 3 without a cut."""
        if self.cut is None:
            return 3.0
        c, m2 = self.cut, self._shrinkage() ** 2
        if c < NARROW:
            return 1.8
        tail = 2 * c**3 * NormalDist().pdf(c) / math.erf(c / math.sqrt(2))
        return (3 * m2 - tail) / m2**2

    def _shrinkage(self) -> float:
        if self.cut is None:
            return 1.0
        c = self.cut
        if c < NARROW:  # a uniform distribution's, where the difference below is lost in rounding
            return c / math.sqrt(3)
        return math.sqrt(1 - 2 * c * NormalDist().pdf(c) / math.erf(c / math.sqrt(2)))


@dataclass(frozen=True)
class Uniform:
    """A uniform distribution of mean 0 and standard deviation ``std``: within +- sqrt(3) std."""

    std: float
    text: str
    why: str = ""

    @property
    def effective_std(self) -> float:
        """The nominal one: nothing is cut."""
        return self.std

    @property
    def bound(self) -> float:
        """No element is larger in magnitude."""
        return math.sqrt(3) * self.std

    @property
    def kurtosis(self) -> float:
        """The fourth moment over the squared second one."""
        return 1.8


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
    def bound(self) -> float:
        """No element is larger in magnitude."""
        return abs(self.value)


Rule = Normal | Uniform | Constant


@dataclass(frozen=True)
class Update:
    """What a parametrisation makes of the optimizer's settings for one parameter: a factor each.

    Args:
        lr: of the learning rate.
        weight_decay: of the weight decay, which the optimizer multiplies by the learning rate.
        eps: of Adam's epsilon.
    """

    lr: float = 1.0
    weight_decay: float = 1.0
    eps: float = 1.0
