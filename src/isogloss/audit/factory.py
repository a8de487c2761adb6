"""A function that returns a model, named ``package.module:function``."""

import importlib
import inspect
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from isogloss.audit.built import Built
from isogloss.audit.foreign import foreign
from isogloss.config.base import UserError

DEPTHS = ("n_layers", "n_layer", "num_layers", "num_hidden_layers", "depth", "n_blocks", "num_blocks", "layers")
OWN_INIT = ("init_weights", "initialize_weights")
"""Not ``reset_parameters``: by PyTorch's convention it fills the parameters of its own module, not of those within."""


@dataclass(frozen=True)
class Factory:
    """``package.module:function`` and the keywords it is called with.

    It returns a module, or a module and one or more optimizers.
    """

    name: str
    function: Callable[..., Any]
    arguments: Mapping[str, Any]

    def build(self, n_layers: int | None = None) -> Built:
        """Call it, with another depth where one is given.

        Raises:
            UserError: it fails, or returns something else.
        """
        arguments = dict(self.arguments)
        if n_layers is not None:
            assert self.depth_key is not None
            arguments[self.depth_key] = n_layers
        with foreign(f"{self.name} failed"):
            made = self.function(**arguments)
        model, *optimizers = made if isinstance(made, tuple) and made else (made,)
        optimizers = [o for group in optimizers for o in (group if isinstance(group, list | tuple) else [group])]
        if not isinstance(model, nn.Module) or not all(isinstance(o, torch.optim.Optimizer) for o in optimizers):
            raise UserError(
                f"{self.name} returned {_described(made)}; an audit needs a torch.nn.Module, or a tuple of one and its "
                "optimizers"
            )
        return Built(model, optimizers)

    @property
    def depth_key(self) -> str | None:
        """The keyword that sets the number of layers, if it has one of a usual name."""
        parameters = inspect.signature(self.function).parameters
        return next((key for key in DEPTHS if key in parameters), None)

    def n_layers(self, model: nn.Module) -> int | None:
        """How many layers a model of it has, where that can be changed; ``None`` where it cannot."""
        if self.depth_key is None:
            return None
        default = inspect.signature(self.function).parameters[self.depth_key].default
        given = self.arguments.get(self.depth_key, default)
        return given if isinstance(given, int) else None

    @property
    def ties_last(self) -> bool:
        """A module ties in its constructor."""
        return False

    def own_init(self, model: nn.Module) -> Callable[[], Any] | None:
        """The method of the model that initialises all of it; ``None`` where only its constructor does."""
        for name in OWN_INIT:
            method = getattr(model, name, None)
            if callable(method) and not _required(method):
                return method
        return None

    def logits(self, model: nn.Module, tokens: Tensor) -> Any:
        """What the model makes of tokens."""
        return model(tokens)

    def n_tokens(self, model: nn.Module) -> int | None:
        """How many different tokens it can read; ``None`` if it has no embedding."""
        return min((m.num_embeddings for m in model.modules() if isinstance(m, nn.Embedding)), default=None)


def find_function(module_name: str, function_name: str) -> Callable[..., Any]:
    """The function, in an installed module or one in the working folder.

    Raises:
        UserError: there is none, or its module cannot be imported.
    """
    if (here := str(Path.cwd())) not in sys.path:
        sys.path.insert(0, here)
    with foreign(f"{module_name} cannot be imported"):
        module = importlib.import_module(module_name)
    found: Any = module
    for part in function_name.split("."):
        found = getattr(found, part, None)
    if not callable(found):
        near = [n for n, v in vars(module).items() if inspect.isfunction(v) and v.__module__ == module.__name__]
        listed = f"; it has {', '.join(near[:5])}" if near else ""
        raise UserError(f"{module_name} has no function {function_name}{listed}")
    return found


def _required(method: Callable[..., Any]) -> bool:
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    parameters = inspect.signature(method).parameters.values()
    return any(p.default is inspect.Parameter.empty and p.kind in kinds for p in parameters)


def _described(made: Any) -> str:
    if isinstance(made, tuple):
        return f"a tuple of {', '.join(type(x).__name__ for x in made)}"
    return f"a {type(made).__name__}"
