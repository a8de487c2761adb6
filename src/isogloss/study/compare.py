"""Schemes side by side: the same batches, the same uniforms behind the weights, several seeds, and an honest verdict.

Trials with one seed share everything random, so schemes are compared by the differences within seeds, which vary less
than the losses themselves. Where each scheme has several learning rates, its best one stands for it.
"""

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from isogloss.config.base import UserError
from isogloss.config.load import with_overrides
from isogloss.recipe import Recipe
from isogloss.study.statistics import Interval, interval
from isogloss.study.training import training_trial
from isogloss.study.trials import Result, Study, Trial

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
        return tuple(_loss(result) for result in self.results)

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
        """The arm with the lowest mean validation loss."""
        return min(self.arms, key=lambda arm: statistics.fmean(arm.validation))

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
        """The lowest arm, if the interval of its difference from every other one leaves 0 out."""
        others = [self.behind(arm) for arm in self.arms if arm is not self.lowest]
        return self.lowest if others and all(other.low > 0 for other in others) else None

    @property
    def verdict(self) -> str:
        """In a sentence."""
        n_seeds = len(self.arms[0].results)
        if len(self.arms) < 2:
            return "one scheme alone: nothing to compare"
        if n_seeds < 3:
            return f"no winner is named from {n_seeds} seed{'s' * (n_seeds > 1)}: at least 3 are needed"
        if self.winner is not None:
            nearest = min((self.behind(arm) for arm in self.arms if arm is not self.lowest), key=lambda i: i.mean)
            return f"{self.winner.label} has the lowest loss, by {nearest} nats from the next, over {n_seeds} seeds"
        close = [arm.label for arm in self.arms if arm is not self.lowest and self.behind(arm).low <= 0]
        return (
            f"no winner: {self.lowest.label} has the lowest mean, but the intervals of its differences from "
            f"{', '.join(close)} hold 0 ({n_seeds} seeds)"
        )


def compare_schemes(study: Study, schemes: Sequence[str], rates: Sequence[float], seeds: int) -> Comparison:
    """Train every scheme with every seed at every rate.

    Args:
        study: its recipe says how long, and everything but the scheme.
        schemes: ``NAME`` or ``NAME:KEY=VALUE,...``; keys with a dot are of the recipe, others of ``init``.
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
        means = {rate: statistics.fmean(map(_loss, results)) for rate, results in by_rate.items()}
        best = min(means, key=lambda rate: means[rate])
        arms.append(Arm(label, best, means, by_rate[best]))
    return Comparison(tuple(arms))


def with_scheme(recipe: Recipe, label: str) -> Recipe:
    """The recipe with another scheme.

    Raises:
        UserError: it is not as ``NAME:KEY=VALUE,...``, or nothing like it can be made.
    """
    name, _, settings = label.partition(":")
    changes = [f"init={{type: {name}}}"]
    for setting in filter(None, settings.split(",")):
        if "=" not in setting:
            raise UserError(f"{label}: {setting!r} is not KEY=VALUE; write it as {name}:base_std=0.02,cut=2")
        changes.append(setting if "." in setting.partition("=")[0] else f"init.{setting}")
    return with_overrides(recipe, changes)


def count_spikes(losses: Sequence[float | None]) -> int:
    """Losses above the mean of the ``SPIKE_WINDOW`` before them by ``SPIKE`` standard deviations, or not finite."""
    count = 0
    for i in range(SPIKE_WINDOW, len(losses)):
        window = [loss for loss in losses[i - SPIKE_WINDOW : i] if loss is not None]
        loss = losses[i]
        count += loss is None or loss > statistics.fmean(window) + SPIKE * statistics.stdev(window)
    return count


def _loss(result: Result) -> float:
    return math.inf if result["validation"] is None else result["validation"]


COLUMNS = (
    "scheme",
    "rate",
    "validation loss",
    "behind the lowest",
    "training loss",
    "spikes",
    "largest gradient",
    "largest attention logit",
)


def comparison_rows(found: Comparison) -> list[tuple[str, ...]]:
    """A table's rows, in the order of ``COLUMNS``, from the lowest loss up."""
    arms = sorted(found.arms, key=lambda arm: statistics.fmean(arm.validation))
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
