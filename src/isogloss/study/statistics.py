"""Means with their uncertainty: intervals by Student's t, slopes of logarithms over seeds."""

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Interval:
    """A mean and half the width of its interval; infinite for a single value."""

    mean: float
    half: float

    @property
    def low(self) -> float:
        """The lower end."""
        return self.mean - self.half

    @property
    def high(self) -> float:
        """The upper end."""
        return self.mean + self.half

    def __str__(self) -> str:
        """Such as ``0.120 +- 0.050``, to two digits of the half width."""
        if not math.isfinite(self.half) or not math.isfinite(self.mean):
            return f"{self.mean:.4g}"
        digits = 3 if self.half == 0 else min(6, max(0, 1 - math.floor(math.log10(self.half))))
        return f"{self.mean:.{digits}f} +- {self.half:.{digits}f}"


def interval(values: Sequence[float], confidence: float = 0.95) -> Interval:
    """The mean of independent values and its interval by Student's t."""
    n = len(values)
    if n < 2 or not all(map(math.isfinite, values)):
        return Interval(statistics.fmean(values), math.inf)
    t = t_quantile((1 + confidence) / 2, n - 1)
    return Interval(statistics.fmean(values), t * statistics.stdev(values) / math.sqrt(n))


def t_quantile(p: float, df: int) -> float:
    """The quantile of Student's t with ``df`` degrees of freedom, for p in (1/2, 1), to 1e-6.

    By ``t = sqrt(df) tan(a)``: the distribution is ``1/2 + int_0^a cos^(df-1) / B``, whose integral has a closed sum.
    """
    low, high = 0.0, math.pi / 2
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if _t_distribution(middle, df) < p else (low, middle)
    return math.sqrt(df) * math.tan(low)


def _t_distribution(a: float, df: int) -> float:
    """Abramowitz and Stegun 26.7.3 and 26.7.4, at ``t = sqrt(df) tan(a)``."""
    term = total = 1.0 if df % 2 == 0 else math.cos(a)
    for k in range(2 if df % 2 == 0 else 3, df, 2):
        term *= (k - 1) / k * math.cos(a) ** 2
        total += term
    if df % 2 == 0:
        return 0.5 + math.sin(a) * total / 2
    return 0.5 + (a + (math.sin(a) * total if df > 1 else 0.0)) / math.pi


def linear_weights(x: Sequence[float]) -> list[float]:
    """How much each value counts in a slope by least squares: ``slope = sum w y``."""
    mean = statistics.fmean(x)
    squares = sum((value - mean) ** 2 for value in x)
    return [(value - mean) / squares for value in x]


def log_slope(sizes: Sequence[float], values: Sequence[float]) -> float:
    """The exponent b of ``value = a size^b``, by least squares on the logarithms; NaN where that has no meaning."""
    if not all(0 < value < math.inf for value in values):
        return math.nan
    return statistics.linear_regression([math.log(x) for x in sizes], [math.log(y) for y in values]).slope
