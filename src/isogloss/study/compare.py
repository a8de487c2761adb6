"""Schemes side by side: the same batches, the same uniforms behind the weights, several seeds, and an honest verdict.

Trials with one seed share everything random, so schemes are compared by the differences within seeds, which vary less
than the losses themselves. Where each scheme has several learning rates, its best one stands for it.
"""

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from isogloss.config.base import UserError
from isogloss.config.draft import Override
from isogloss.config.load import with_overrides
from isogloss.recipe import Recipe
from isogloss.study.optimum import find_optimum
from isogloss.study.statistics import Interval, interval
from isogloss.study.training import training_trial
from isogloss.study.trials import Result, Study, Trial

LEAST_SEEDS = 3
OWN = "recipe"
"""The label of the recipe's own scheme, with all its settings."""
SPIKE, SPIKE_WINDOW = 7.0, 50
"""A spike: a loss above the mean of so many steps before it by so many of their standard deviations (OLMo 2, 2025)."""


@dataclass(frozen=True)
class Arm:
    """One scheme at its best learning rate, over seeds.

    Args:
        label: as asked for.
        rate: the peak learning rate.
        rates: what was tried, with the mean validation loss of each.
        results: of `isogloss.study.training.training_trial`, one a seed.
    """

    label: str
    rate: float
    rates: dict[float, float]
    results: tuple[Result, ...]

    @property
    def validation(self) -> tuple[float, ...]:
        """Of each seed, nats a target; infinite where it diverged."""
        return tuple(result["validation"] for result in self.results)

    @property
    def rank(self) -> tuple[int, float]:
        """By how many seeds diverged, then by the mean of the others."""
        whole = [loss for loss in self.validation if math.isfinite(loss)]
        return len(self.validation) - len(whole), statistics.fmean(whole) if whole else math.inf

    @property
    def train(self) -> Interval:
        """The loss of the last twentieth of the steps."""
        return interval([statistics.fmean(r["loss"][-max(1, len(r["loss"]) // 20) :]) for r in self.results])

    @property
    def spikes(self) -> int:
        """Steps whose loss stood out, over all seeds."""
        return sum(count_spikes(result["loss"]) for result in self.results)

    @property
    def largest_gradient(self) -> float:
        """The largest norm after the first tenth of the steps, over all seeds."""
        return max(max(r["grad_norm"][len(r["grad_norm"]) // 10 :]) for r in self.results)

    @property
    def largest_attention_logit(self) -> float:
        """Of the probe, over training and seeds."""
        return max(max(r["attention_logit"]) for r in self.results)


@dataclass(frozen=True)
class Comparison:
    """Arms in the order asked for."""

    arms: tuple[Arm, ...]

    @property
    def lowest(self) -> Arm:
        """The arm with the fewest divergences and, of those, the lowest mean validation loss."""
        return min(self.arms, key=lambda arm: arm.rank)

    def behind(self, arm: Arm) -> Interval:
        """How much more loss an arm has than the lowest one, paired by seed.

        The interval holds for all arms together (Bonferroni: 5 % shared among them).
        """
        differences = [a - b for a, b in zip(arm.validation, self.lowest.validation, strict=True)]
        if not all(map(math.isfinite, differences)):
            return Interval(math.inf, 0.0)
        return interval(differences, 1 - 0.05 / max(1, len(self.arms) - 1))

    @property
    def winner(self) -> Arm | None:
        """The lowest arm, if the interval of its difference from every other one leaves 0 out.

        Not from fewer than ``LEAST_SEEDS``, and not one that diverged itself.
        """
        others = [self.behind(arm) for arm in self.arms if arm is not self.lowest]
        clear = len(others) > 0 and all(other.low > 0 for other in others)
        return self.lowest if clear and self.lowest.rank[0] == 0 and self._n_seeds >= LEAST_SEEDS else None

    @property
    def _n_seeds(self) -> int:
        return len(self.arms[0].results)

    @property
    def verdict(self) -> str:
        """In a sentence."""
        n_seeds = self._n_seeds
        if len(self.arms) < 2:
            return "one scheme alone: nothing to compare"
        if n_seeds < LEAST_SEEDS:
            return f"no winner is named from {n_seeds} seed{'s' * (n_seeds > 1)}: at least {LEAST_SEEDS} are needed"
        if self.lowest.rank[0]:
            return f"no winner: every scheme diverged in some of {n_seeds} seeds; lower the learning rate"
        if self.winner is not None:
            nearest = min((self.behind(arm) for arm in self.arms if arm is not self.lowest), key=lambda i: i.mean)
            found = f"{self.winner.label} has the lowest loss, by {nearest} nats from the next, over {n_seeds} seeds"
        else:
            close = [arm.label for arm in self.arms if arm is not self.lowest and self.behind(arm).low <= 0]
            found = (
                f"no winner: {self.lowest.label} has the lowest mean, but the intervals of its differences from "
                f"{', '.join(close)} hold 0 ({n_seeds} seeds)"
            )
        return f"{found}; {self._rates}"

    @property
    def _rates(self) -> str:
        """What the verdict rests on."""
        rates = sorted(self.arms[0].rates)
        if len(rates) == 1:
            return f"all at the one learning rate {rates[0]:g}, which may suit one better than another"
        edge = [arm.label for arm in self.arms if find_optimum(rates, [arm.rates[rate] for rate in rates]).is_edge]
        if edge:
            where = "at an end of the rates, or beside one that diverged, and may lie beyond"
            return f"the best rate of {', '.join(edge)} is {where}"
        return f"each at its best of {len(rates)} learning rates"


def compare_schemes(study: Study, schemes: Sequence[str], rates: Sequence[float], seeds: int) -> Comparison:
    """Train every scheme with every seed at every rate.

    Args:
        study: its recipe says how long, and everything but the scheme.
        schemes: ``recipe`` for the recipe's own, ``NAME`` for one with its own defaults, or ``NAME:KEY=VALUE,...``;
            keys with a dot are of the recipe, others of ``init``.
        rates: peak learning rates; the recipe's own if there are none.
        seeds: how many, from the recipe's on.

    Raises:
        UserError: a scheme is unknown or named twice, or fits no such model.
    """
    if len(set(schemes)) < len(schemes):
        raise UserError("a scheme is named twice")
    rates = sorted(set(rates)) or [study.recipe.optim.lr]
    recipes = {label: with_scheme(study.recipe, label) for label in schemes}
    trials = [
        Trial(
            f"{label}, rate {rate:g}, seed {seed}",
            with_overrides(recipe, [f"optim.lr={rate!r}", f"seed={seed}"]),
        )
        for label, recipe in recipes.items()
        for rate in rates
        for seed in range(recipe.seed, recipe.seed + seeds)
    ]
    found = iter(study.run(training_trial, trials))
    arms = []
    for label in schemes:
        by_rate = {rate: tuple(next(found) for _ in range(seeds)) for rate in rates}
        means = {rate: statistics.fmean(r["validation"] for r in results) for rate, results in by_rate.items()}
        best = min(rates, key=lambda rate: Arm(label, rate, means, by_rate[rate]).rank)
        arms.append(Arm(label, best, means, by_rate[best]))
    return Comparison(tuple(arms))


def with_scheme(recipe: Recipe, label: str) -> Recipe:
    """The recipe with another scheme.

    Raises:
        UserError: it is not as ``NAME:KEY=VALUE,...``, or nothing like it can be made.
    """
    name, _, settings = label.partition(":")
    changes: list[Override] = [] if name == OWN else [("init", {"type": name})]
    for setting in filter(None, settings.split(",")):
        if "=" not in setting:
            raise UserError(f"{label}: {setting!r} is not KEY=VALUE; write it as {name}:base_std=0.02,cut=2")
        changes.append(setting if "." in setting.partition("=")[0] else f"init.{setting}")
    return with_overrides(recipe, changes)


def count_spikes(losses: Sequence[float]) -> int:
    """Losses that are not finite, or above the mean of the window before them by ``SPIKE`` standard deviations.

    The first ``SPIKE_WINDOW`` steps have no such window and are not counted.
    """
    count = 0
    for i in range(SPIKE_WINDOW, len(losses)):
        window = [loss for loss in losses[i - SPIKE_WINDOW : i] if math.isfinite(loss)]
        known = len(window) > 1
        high = known and losses[i] > statistics.fmean(window) + SPIKE * statistics.stdev(window)
        count += not math.isfinite(losses[i]) or high
    return count


COLUMNS = (
    "scheme",
    "rate",
    "validation loss",
    "behind the lowest",
    "training loss",
    f"spikes after step {SPIKE_WINDOW}",
    "largest gradient",
    "largest attention logit",
)


def comparison_rows(found: Comparison) -> list[tuple[str, ...]]:
    """A table's rows, in the order of ``COLUMNS``, from the lowest loss up."""
    arms = sorted(found.arms, key=lambda arm: arm.rank)
    return [
        (
            arm.label,
            f"{arm.rate:g}",
            str(interval(arm.validation)),
            "-" if arm is found.lowest else str(found.behind(arm)),
            str(arm.train),
            str(arm.spikes),
            f"{arm.largest_gradient:.3g}",
            f"{arm.largest_attention_logit:.3g}",
        )
        for arm in arms
    ]
