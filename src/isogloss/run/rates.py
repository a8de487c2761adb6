"""The learning rate of a run that goes on with another schedule or another number of steps: before and after."""

import numpy as np

from isogloss.recipe import Recipe

_MOST_COMPARED = 2000


def describe_rates(saved: Recipe, asked: Recipe, step: int) -> list[str]:
    """How the learning rate goes on after ``step``, in words, where the recipe's changes have to do with it.

    Args:
        saved: the recipe that the run has trained with.
        asked: the one it goes on with.
        step: the last one trained.
    """
    first, last = step + 1, asked.train.steps
    steps = np.unique(np.linspace(first, last, min(last - step, _MOST_COMPARED)).round().astype(int)).tolist()
    if first > last or all(_rate(saved, k) == _rate(asked, k) for k in steps):
        if first <= last and saved.optim.schedule != asked.optim.schedule:
            return ["the changed optim.schedule gives the steps that are left the rates they had: it changes nothing"]
        return []
    said = [
        f"the learning rate was {_rate(saved, step):.2e} at step {step} and is {_rate(asked, first):.2e} at step {first}"
        f"; as before it would be {_rate(saved, first):.2e}"
    ]
    was, now = saved.optim.schedule, asked.optim.schedule
    n_was, n_now = was.span(saved.train.steps), now.span(asked.train.steps)
    if n_was != n_now and n_was is not None and n_now is not None:
        said.append(
            f"the schedule is stretched from {n_was} to {n_now} steps; optim.schedule.steps={n_was} keeps it as it was"
            f", with {asked.optim.lr * now.multiplier(n_now, n_now):.2e}, its last rate, for the steps after {n_was}"
        )
    return said


def _rate(recipe: Recipe, step: int) -> float:
    return recipe.optim.lr * recipe.optim.schedule.multiplier(step, recipe.train.steps)
