"""Where the best learning rate lies, and whether it stays there as models grow.

At each size, losses over learning rates; each seed has a best one (`isogloss.study.optimum`). A rate that transfers
has ``best ~ size^0``.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from isogloss.config.base import UserError
from isogloss.config.load import with_overrides
from isogloss.init.scheme import Axis
from isogloss.study.families import resize, rising
from isogloss.study.optimum import Optimum, find_optimum, slope_doubt
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

    @cached_property
    def best(self) -> tuple[tuple[Optimum, ...], ...]:
        """The best rates, ``[size][seed]``."""
        return tuple(tuple(find_optimum(self.rates, losses) for losses in seeds) for seeds in self.losses)

    @property
    def trend(self) -> Slope:
        """The best rate against the size; not judged where a best rate was not found, only an edge.

        Its interval holds what the grid of rates leaves open.
        """
        by_seed = tuple(zip(*self.best, strict=True))
        rates = tuple(tuple(best.rate for best in bests) for bests in by_seed)
        doubt = max(slope_doubt(self.sizes, bests) for bests in by_seed)
        promised = 0.0 if self.promised and not self.at_the_edge else None
        return Slope("best learning rate", self.sizes, rates, promised, doubt)

    @property
    def at_the_edge(self) -> tuple[int, ...]:
        """Sizes whose lowest loss, for some seed, lies at the first or last rate, or beside one that diverged."""
        return tuple(size for size, seeds in zip(self.sizes, self.best, strict=True) if any(s.is_edge for s in seeds))

    def advice(self) -> list[str]:
        """For each size at an edge, what is known of its best rate, and the rates that would find it."""
        return [
            f"{self.axis} {size}: {_known(self.rates, [best for best in seeds if best.is_edge])}"
            for size, seeds in zip(self.sizes, self.best, strict=True)
            if size in self.at_the_edge
        ]


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


def _known(rates: Sequence[float], edges: Sequence[Optimum]) -> str:
    if any(math.isnan(best.rate) for best in edges):
        return f"every rate diverged; give --rates below {rates[0]:g}"
    low, high = min(best.low for best in edges), max(best.high for best in edges)
    if low == 0 and high == math.inf:
        return f"the lowest loss is at either end of the rates; give --rates below {rates[0]:g} and above {rates[-1]:g}"
    if low == 0:
        return (
            f"the lowest loss is at an end of the rates, the best one below {high:g}; give --rates below {rates[0]:g}"
        )
    if high == math.inf:
        return (
            f"the lowest loss is at an end of the rates, the best one above {low:g}; give --rates above {rates[-1]:g}"
        )
    finer = ",".join(f"{low * (high / low) ** (k / 8):.3g}" for k in range(9))
    return (
        "the lowest loss is beside a rate that diverged: an edge, not an optimum; the best rate lies between "
        f"{low:g} and {high:g}. Refine with --rates {finer}, and read the edge as the largest stable rate"
    )
