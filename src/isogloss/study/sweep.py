"""Where the best learning rate lies, and whether it stays there as models grow.

At each size, losses over learning rates; the best rate of a seed is the vertex of the parabola through the lowest loss
and its neighbours, over log2 of the rate. A rate that transfers has ``best ~ size^0``.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from isogloss.config.base import UserError
from isogloss.config.load import with_overrides
from isogloss.init.scheme import Axis
from isogloss.study.families import resize, rising
from isogloss.study.slopes import Slope
from isogloss.study.training import training_trial
from isogloss.study.trials import Study, Trial


@dataclass(frozen=True)
class Sweep:
    """Validation losses by size, rate and seed.

    Args:
        axis: what grows.
        sizes: widths or depths.
        rates: peak learning rates, rising.
        losses: nats a target, ``[size][seed][rate]``; infinite where training diverged.
        promised: whether the scheme promises that the rate transfers along this axis.
    """

    axis: Axis
    sizes: tuple[int, ...]
    rates: tuple[float, ...]
    losses: tuple[tuple[tuple[float, ...], ...], ...]
    promised: bool

    @property
    def trend(self) -> Slope:
        """The best rate against the size; not judged where a best rate was not found, only an end of the rates."""
        best = [[best_rate(self.rates, losses) for losses in seeds] for seeds in self.losses]
        by_seed = tuple(zip(*best, strict=True))
        return Slope("best learning rate", self.sizes, by_seed, 0.0 if self.promised and not self.at_the_edge else None)

    @property
    def at_the_edge(self) -> tuple[int, ...]:
        """Sizes whose lowest loss, for some seed, is at the first or last rate: the best may lie beyond."""
        edges = (0, len(self.rates) - 1)
        return tuple(
            size
            for size, seeds in zip(self.sizes, self.losses, strict=True)
            if any(losses.index(min(losses)) in edges for losses in seeds)
        )


def sweep_rates(study: Study, axis: Axis, sizes: Sequence[int], rates: Sequence[float], seeds: int) -> Sweep:
    """Train every size at every rate.

    Args:
        study: its recipe says how long, and with what scheme.
        axis: what grows.
        sizes: widths or depths.
        rates: peak learning rates, at least three.
        seeds: how many, from the recipe's on.

    Raises:
        UserError: too few sizes or rates, or a size is not possible.
    """
    sizes = rising(sizes)
    rates = sorted(set(rates))
    if len(rates) < 3:
        raise UserError("--rates needs at least three learning rates: the best one is found between its neighbours")
    base = study.recipe
    trials = [
        Trial(
            f"{axis} {size}, rate {rate:g}, seed {seed}",
            with_overrides(resize(base, axis, size), [f"optim.lr={rate!r}", f"seed={seed}"]),
        )
        for size in sizes
        for seed in range(base.seed, base.seed + seeds)
        for rate in rates
    ]
    found = iter(study.run(training_trial, trials))
    losses = tuple(tuple(tuple(next(found)["validation"] for _ in rates) for _ in range(seeds)) for _ in sizes)
    return Sweep(axis, tuple(sizes), tuple(rates), losses, "learning rate" in base.init.promises(axis))


def best_rate(rates: Sequence[float], losses: Sequence[float]) -> float:
    """The rate of the lowest loss, by a parabola over log2; one of ``rates`` where a neighbour is missing."""
    i = min(range(len(losses)), key=losses.__getitem__)
    if i in (0, len(losses) - 1) or not all(map(math.isfinite, losses[i - 1 : i + 2])):
        return rates[i]
    (x0, x1, x2), (y0, y1, y2) = (math.log2(rate) for rate in rates[i - 1 : i + 2]), losses[i - 1 : i + 2]
    above = (x1 - x0) ** 2 * (y1 - y2) - (x1 - x2) ** 2 * (y1 - y0)
    below = (x1 - x0) * (y1 - y2) - (x1 - x2) * (y1 - y0)
    return 2 ** (x1 - above / (2 * below)) if below else rates[i]
