"""The initialisation plan of a recipe: its rows, and the signals it will give."""

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch

from isogloss.build import PlannedModel, plan_model
from isogloss.init.predict import predict_signals
from isogloss.init.rules import Normal
from isogloss.init.signals import Signals
from isogloss.init.start import start_warnings
from isogloss.nn.multipliers import Multipliers
from isogloss.optim.groups import parameter_groups
from isogloss.recipe import Recipe, load_recipe

N_TOKENS = 128
"""Of the row of random tokens that signals are predicted for; a real batch has repetitions, see `init verify`."""


@dataclass(frozen=True)
class RecipePlan:
    """One row a parameter, and what they will give.

    Args:
        recipe: with a vocabulary.
        rows: of its parameters.
        multipliers: of its forward pass.
        signals: as predicted for random tokens.
        n_vocab: of its model.
    """

    recipe: Recipe
    rows: list[dict[str, Any]]
    multipliers: Multipliers
    signals: Signals
    n_vocab: int
    warnings: tuple[str, ...] = ()
    """Where the start is not what a start should be."""


def plan_recipe(name: str, overrides: Sequence[str] = ()) -> RecipePlan:
    """Plan on the meta device: no weights are made, and no text is read.

    Where the recipe leaves the vocabulary to the tokenizer, it is taken to be the size asked of the tokenizer.
    """
    recipe = load_recipe(name, overrides).with_planned_vocabulary()
    planned, n_vocab = plan_model(recipe.model, recipe.init), recipe.model.vocab_size
    assert n_vocab is not None
    n_tokens = min(recipe.data.seq_len, N_TOKENS)
    tokens = torch.randint(n_vocab, (1, n_tokens), generator=torch.Generator().manual_seed(0))
    with _one_thread():
        signals = predict_signals(recipe.model, planned.model.multipliers, planned.plan, tokens)
    warnings = start_warnings(signals, recipe.model, recipe.init, planned.plan)
    return RecipePlan(recipe, _rows(planned), planned.model.multipliers, signals, n_vocab, warnings)


def _rows(planned: PlannedModel) -> list[dict[str, Any]]:
    """Entries with the number of their group of the optimizer; the factor of what does not decay is 0."""
    groups = parameter_groups(planned.model, planned.plan)
    of = {name: (number, decayed) for number, ((decayed, _), names) in enumerate(groups.items()) for name in names}
    rows = []
    for name, entry in planned.plan.items():
        row, rule = entry.row(), entry.rule
        number, decayed = of.get(name, (None, False))  # a buffer is in none
        rows.append(
            row
            | {"group": number, "weight_decay": row["weight_decay"] if decayed else 0.0}
            | {"compensated": isinstance(rule, Normal) and rule.compensated and rule.cut is not None}
            | {"bound": rule.bound if math.isfinite(rule.bound) else None}
        )
    return rows


@contextmanager
def _one_thread() -> Iterator[None]:
    """For matrices of N_TOKENS squared, over which threads wait for each other several times as long as they work."""
    former = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(former)
