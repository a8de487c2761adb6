"""A model with its own initial weights, and the record of how they came about.

Built on the meta device; given memory that holds NaN; initialised by the model's own method, with every write recorded.
A model that only its constructor initialises is constructed where uninitialised memory is NaN.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from isogloss.audit.built import Built, Target
from isogloss.audit.findings import Finding
from isogloss.audit.foreign import foreign
from isogloss.audit.poison import materialise, poison, uninitialised_is_nan
from isogloss.audit.weights import decayed_vectors, optimizer_groups
from isogloss.audit.writes import Write, WriteRecorder
from isogloss.config.base import UserError


@dataclass(frozen=True)
class Initialised:
    """A model with its own initial weights, and how they came about.

    Args:
        built: the model.
        writes: to each parameter and buffer.
        groups: findings on the optimizers' groups.
        decayed: norms and biases that an optimizer's weight decay shrinks.
        by_constructor: it has no method that initialises it.
    """

    built: Built
    writes: dict[str, list[Write]]
    groups: list[Finding]
    decayed: list[str]
    by_constructor: bool


def initialise(target: Target, n_layers: int | None, max_bytes: int) -> Initialised:
    """Build and initialise a target; a second depth is drawn from other numbers.

    Raises:
        UserError: it cannot be built or initialised, or is too large.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0 if n_layers is None else 1)
        on_meta = _build_on_meta(target, n_layers)
        if on_meta is not None:
            _check_size(target, on_meta.model, max_bytes)
            if (run := target.own_init(on_meta.model)) is not None:
                return _poisoned(target, on_meta, run)
        with WriteRecorder() as recorder, uninitialised_is_nan():
            built = target.build(n_layers)
        groups = list(optimizer_groups(built))
        return Initialised(built, recorder.of(built.model), groups, decayed_vectors(built), by_constructor=True)


def _build_on_meta(target: Target, n_layers: int | None) -> Built | None:
    """``None`` where the code needs numbers while it builds."""
    try:
        with torch.device("meta"):
            built = target.build(n_layers)
    except UserError:
        return None  # constructed for real next, which says what is wrong if anything is
    return built


def _poisoned(target: Target, built: Built, run: Callable[[], Any]) -> Initialised:
    groups, decayed = list(optimizer_groups(built)), decayed_vectors(built)
    materialise(built.model, keep_ties=not target.ties_last)
    poison(built.model)
    recorder = WriteRecorder((*built.model.parameters(), *built.model.buffers()))
    with foreign(f"{target.name}: its own init failed"), recorder, torch.no_grad(), uninitialised_is_nan():
        run()
    return Initialised(built, recorder.of(built.model), groups, decayed, by_constructor=False)


def _check_size(target: Target, model: nn.Module, max_bytes: int) -> None:
    size = sum(
        t.numel() * t.element_size() for t in {id(t): t for t in (*model.parameters(), *model.buffers())}.values()
    )
    if size > max_bytes:
        raise UserError(
            f"{target.name} has {size / 2**30:.1f} GiB of weights; the audit holds all of them, up to "
            f"{max_bytes / 2**30:g} GiB. Make it smaller (the depth, the vocabulary and the width are settings, such "
            "as num_hidden_layers=4 vocab_size=4096), or raise --max-gib"
        )
