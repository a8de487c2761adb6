"""What an audit needs to know of a model that is not ours: how it is built, initialised and run."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from isogloss.audit.findings import layer_of


@dataclass
class Built:
    """A model as it comes, and the optimizers that came with it."""

    model: nn.Module
    optimizers: list[torch.optim.Optimizer] = field(default_factory=list)


@runtime_checkable
class Target(Protocol):
    """Something that builds models of any depth."""

    @property
    def name(self) -> str:
        """As the user wrote it."""
        ...

    def build(self, n_layers: int | None = None) -> Built:
        """The model, of another depth where one is given; raises UserError where that fails."""
        ...

    def n_layers(self, model: nn.Module) -> int | None:
        """How many layers a model of it has, if it can be built with another number; ``None`` if not."""
        ...

    @property
    def ties_last(self) -> bool:
        """Whether its initialisation ties weights after filling them, so that memory is not shared before."""
        ...

    def own_init(self, model: nn.Module) -> Callable[[], Any] | None:
        """What initialises all of the model; ``None`` where only its constructor does."""
        ...

    def logits(self, model: nn.Module, tokens: Tensor) -> Any:
        """What the model makes of tokens."""
        ...

    def n_tokens(self, model: nn.Module) -> int | None:
        """How many different tokens it can read; ``None`` if none."""
        ...


def count_layers(names: Iterable[str]) -> int:
    """How many layer numbers occur in the names of parameters."""
    return max(1, len({layer for name in names if (layer := layer_of(name)) is not None}))
