"""The best learning rate among losses on a grid of rates, and the range that it is known to lie in.

Between finite neighbours it is the vertex of the parabola through the lowest loss and them, over log2 of the rate. The
cubics through a fourth loss say how far to trust that; where there is none, half a step of the grid. A neighbour that
diverged, or whose loss has left the parabola that the losses on the other side lie on, leaves one side only: the lowest
loss is then an edge. The parabola through the three losses on the other side still tells the trend, and the range is
that between the neighbours. At an end of the rates there is no neighbour, and the range has no end.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from isogloss.study.statistics import linear_weights

BLOWN_UP = 4.0
"""A parabola so many times as bent as the one beside it is not the same parabola."""


@dataclass(frozen=True)
class Optimum:
    """The best rate of one size and seed.

    Args:
        rate: estimated; NaN where every rate diverged.
        low, high: the range it is known to lie in; 0 and infinity where the rates end.
        is_edge: whether the losses rise on one side only: the best usable rate, and perhaps no optimum.
    """

    rate: float
    low: float
    high: float
    is_edge: bool


def find_optimum(rates: Sequence[float], losses: Sequence[float]) -> Optimum:
    """The best of rising rates; losses that are not finite diverged."""
    x, y = [math.log2(rate) for rate in rates], [loss if math.isfinite(loss) else math.inf for loss in losses]
    i = min(range(len(y)), key=y.__getitem__)
    if y[i] == math.inf:
        return Optimum(math.nan, 0.0, math.inf, True)
    if i in (0, len(y) - 1):
        ends = (0.0, rates[1]) if i == 0 else (rates[-2], math.inf)
        return Optimum(rates[i], *ends, True)
    low, high = rates[i - 1], rates[i + 1]
    gone = [towards for towards in (-1, 1) if _diverged(x, y, i, towards)]
    if gone:
        rate, side = rates[i], sorted(i - k * gone[0] for k in range(3))
        if side[0] >= 0 and side[-1] < len(y) and max(y[k] for k in side) < math.inf:
            bend, vertex = _parabola([x[k] for k in side], [y[k] for k in side])
            rate = 2**vertex if bend > 0 else rate
        return Optimum(min(max(rate, low), high), low, high, True)
    bend, vertex = _parabola(x[i - 1 : i + 2], y[i - 1 : i + 2])
    if bend == 0:
        return Optimum(rates[i], low, high, False)
    off = max(_doubts(x, y, i, vertex), default=max(x[i + 1] - x[i], x[i] - x[i - 1]) / 2)
    return Optimum(2**vertex, max(low, 2 ** (vertex - off)), min(high, 2 ** (vertex + off)), False)


def slope_doubt(sizes: Sequence[int], found: Sequence[Optimum]) -> float:
    """How far the exponent of ``best = a size^b`` may be off, every best rate being anywhere in its range."""
    if not all(0 < best.low <= best.rate <= best.high < math.inf for best in found):
        return math.inf
    doubt = {1: 0.0, -1: 0.0}
    for weight, best in zip(linear_weights([math.log(size) for size in sizes]), found, strict=True):
        for sign in doubt:
            end = best.high if sign * weight > 0 else best.low
            doubt[sign] += abs(weight * math.log(end / best.rate))
    return max(doubt.values())


def _diverged(x: Sequence[float], y: Sequence[float], i: int, towards: int) -> bool:
    """Whether the neighbour of the lowest loss says nothing about where the lowest loss lies."""
    if y[i + towards] == math.inf:
        return True
    away = i - 2 * towards
    if not (0 <= away < len(y)) or y[i - towards] == math.inf:
        return False
    here, _ = _parabola(x[i - 1 : i + 2], y[i - 1 : i + 2])
    side = sorted((i, i - towards, away))
    beside, _ = _parabola([x[k] for k in side], [y[k] for k in side])
    # The far side of a valley may be as steep: only a neighbour that rises more than the other one has left it.
    return 0 < beside < math.inf and here > BLOWN_UP * beside and y[i + towards] > y[i - towards]


def _doubts(x: Sequence[float], y: Sequence[float], i: int, vertex: float) -> list[float]:
    """How far the lowest points of cubics lie from the parabola's; half a step where a cubic has none there."""
    found = []
    bend, _ = _parabola(x[i - 1 : i + 2], y[i - 1 : i + 2])
    half = max(x[i + 1] - x[i], x[i] - x[i - 1]) / 2
    u = [place - vertex for place in x[i - 1 : i + 2]]
    for fourth in (i - 2, i + 2):
        if not (0 <= fourth < len(y)) or y[fourth] == math.inf:
            continue
        at = x[fourth] - vertex
        above_parabola = y[fourth] - y[i] - bend * (at**2 - u[1] ** 2)
        k = above_parabola / math.prod(at - place for place in u)
        # bend u^2 + k (u - u0)(u - u1)(u - u2): where its slope, a u^2 + b u + c, is 0 and rising.
        a, b, c = 3 * k, 2 * (bend - k * sum(u)), k * (u[0] * u[1] + u[0] * u[2] + u[1] * u[2])
        inside = b * b - 4 * a * c
        found.append(min(abs(2 * c / (b + math.sqrt(inside))), half) if b > 0 and inside >= 0 else half)
    return found


def _parabola(x: Sequence[float], y: Sequence[float]) -> tuple[float, float]:
    """The second divided difference of three points and where the parabola through them is lowest or highest."""
    first, second = (y[1] - y[0]) / (x[1] - x[0]), (y[2] - y[1]) / (x[2] - x[1])
    bend = (second - first) / (x[2] - x[0])
    return bend, (x[0] + x[1]) / 2 - first / (2 * bend) if bend else x[1]
