"""Learning rates before and after a resume with another schedule or number of steps."""

import numpy as np

from isogloss.recipe import Recipe

_MOST_COMPARED = 2000


def describe_rates(saved: Recipe, asked: Recipe, step: int) -> list[str]:
    """How the learning rate goes on after ``step``, in words, where the recipe's changes have to do with it.

    Args:
        saved: the recipe that the run has trained with.
        asked: the recipe to resume with.
        step: the last one trained.
    """
    first, last = step + 1, asked.train.steps
    before, after = (recipe.in_steps().optim.schedule for recipe in (saved, asked))  # warm-ups, too, may be shares
    n_before, n_after = before.span(saved.train.steps), after.span(asked.train.steps)

    def was(k: int) -> float:  # the number of steps has no part in some schedules: they go on as they are
        return saved.optim.lr * before.multiplier(k, saved.train.steps if n_before else last)

    def will_be(k: int) -> float:
        return asked.optim.lr * after.multiplier(k, last)

    steps = np.linspace(first, last, min(max(last - step, 0), _MOST_COMPARED)).round().astype(int).tolist()
    if all(was(k) == will_be(k) for k in steps):
        if steps and before != after and saved.train.steps == asked.train.steps:
            return ["the changed optim.schedule gives the steps that are left the rates they had: it changes nothing"]
        return []
    said = [
        f"the learning rate was {was(step):.2e} at step {step} and is {will_be(first):.2e} at step {first}; "
        f"as before it would be {was(first):.2e}"
    ]
    if n_before is not None and n_after is not None and n_before != n_after:
        said.append(
            f"the schedule is stretched from {n_before} to {n_after} steps; optim.schedule.steps={n_before} keeps it "
            f"as it was, with its last rate of {asked.optim.lr * after.multiplier(n_after, n_after):.2e} after step "
            f"{n_before}"
        )
    return said
