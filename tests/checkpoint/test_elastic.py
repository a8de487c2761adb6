"""A run that is saved on two ranks goes on with one or four: the same batches, the same losses to rounding."""

from pathlib import Path

import pytest

import checkpoint_jobs as jobs
import ranks
from isogloss.train.metrics import read_metrics

TOLERANCE = 1e-5


def losses(recipe: Path, name: str) -> dict[int, tuple[float, float]]:
    """Step -> loss and norm of the gradient."""
    records = read_metrics(recipe.parent / f"runs/{name}/metrics.jsonl")
    return {r["step"]: (r["loss"], r["grad_norm"]) for r in records if r["kind"] == "train"}


def run(recipe: Path, n_ranks: int, steps: int, name: str, *overrides: str) -> dict[int, tuple[float, float]]:
    settings = [f"name={name}", f"train.steps={steps}", "optim.schedule.type=constant", *overrides]
    assert ranks.end(ranks.start(jobs.train_recipe, n_ranks, str(recipe), settings, launched=True)) == [0] * n_ranks
    return losses(recipe, name)


@pytest.mark.campaign(5, 6)
@pytest.mark.control(5, 6)
def test_saved_on_two_ranks_and_resumed_on_one_and_on_four(tiny: Path) -> None:
    whole = run(tiny, 1, 10, "whole")
    moved = run(tiny, 2, 4, "moved")
    moved = run(tiny, 1, 7, "moved")
    moved = run(tiny, 4, 10, "moved")
    assert list(moved) == list(range(1, 11))
    for step in whole:
        assert moved[step] == pytest.approx(whole[step], rel=TOLERANCE), step
    # The control: with another order of the rows the losses differ by far more.
    other = run(tiny, 2, 3, "other", "seed=4")
    assert abs(other[1][0] - whole[1][0]) > 100 * TOLERANCE
