"""Roles: what each parameter reads from and writes to, declared beside the parameter.

The initial scale, the learning rate, weight decay, the optimizer, the sharding and the audit of a parameter all follow
from its role. A *reader* reads the normed residual stream, a *writer* adds to it. Only writers are scaled by depth: a
scheme that divides the standard deviation of a reader by sqrt(2 n_layers) starves attention and the gates (Meta Lingua,
issue 39).
"""

from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum

from torch import Tensor, nn

# What wrappers of PyTorch (compile, DDP, FSDP1, activation checkpointing) put into a name.
_WRAPPERS = ("_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module", "module")


class Role(StrEnum):
    """What a parameter does in the model."""

    EMBEDDING = "embedding"
    POSITION = "position"
    QUERY = "query"
    KEY = "key"
    VALUE = "value"
    ATTENTION_OUT = "attention_out"
    FFN_GATE = "ffn_gate"
    FFN_UP = "ffn_up"
    FFN_DOWN = "ffn_down"
    ROUTER = "router"
    HEAD = "head"
    NORM_GAIN = "norm_gain"
    BIAS = "bias"
    CONV = "conv"
    RECURRENT_IN = "recurrent_in"
    RECURRENT_GATE = "recurrent_gate"
    RECURRENT_OUT = "recurrent_out"
    DECAY = "decay"
    STEP_SIZE = "step_size"
    SKIP = "skip"
    SCALAR = "scalar"


READERS = frozenset(
    {Role.QUERY, Role.KEY, Role.VALUE, Role.FFN_GATE, Role.FFN_UP, Role.ROUTER, Role.RECURRENT_IN, Role.HEAD}
)
WRITERS = frozenset({Role.ATTENTION_OUT, Role.FFN_DOWN, Role.RECURRENT_OUT})


@dataclass(frozen=True)
class Declared:
    """What a module says of one of its parameters or buffers.

    Args:
        role: what it does.
        fan_in: how many inputs are summed into one output (1 for a lookup or a gain).
        fan_out: how many outputs one input reaches.
    """

    role: Role
    fan_in: int
    fan_out: int


@dataclass(frozen=True)
class Site:
    """One declared parameter in its place in a model.

    Args:
        name: the canonical name, free of wrappers.
        role: what it does.
        shape: the logical (unsharded) shape.
        fan_in: inputs summed into one output.
        fan_out: outputs that one input reaches.
        layer: the global index of its layer, from 0; ``None`` outside the layers.
        n_layers: how many layers the model has.
    """

    name: str
    role: Role
    shape: tuple[int, ...]
    fan_in: int
    fan_out: int
    layer: int | None
    n_layers: int


class UndeclaredParameterError(TypeError):
    """A module holds a parameter or a buffer without a role."""


def declare(module: nn.Module, **declared: Declared) -> None:
    """Declare the roles of parameters and buffers that ``module`` itself holds, by attribute name."""
    module.__dict__.setdefault("declared_roles", {}).update(declared)


def declared_by(module: nn.Module) -> dict[str, Declared]:
    """What ``module`` itself has declared, by attribute name."""
    return module.__dict__.get("declared_roles", {})


def declare_layer(module: nn.Module, index: int, n_layers: int) -> None:
    """Say that ``module`` is layer ``index`` (from 0) of ``n_layers``; everything inside it belongs to that layer."""
    module.__dict__["declared_layer"] = (index, n_layers)


def canonical_name(name: str) -> str:
    """A parameter's name without what wrappers put into it: equal under compile, DDP, FSDP and recomputation."""
    return ".".join(part for part in name.split(".") if part not in _WRAPPERS)


def declared_tensors(model: nn.Module) -> Iterator[tuple[Site, Tensor]]:
    """Every parameter and buffer of a model with its site, each tied tensor once, in the order of definition.

    Raises:
        UndeclaredParameterError: a parameter or buffer has no role.
    """
    n_layers = max((layer[1] for m in model.modules() if (layer := m.__dict__.get("declared_layer"))), default=0)
    seen: set[int] = set()

    def walk(module: nn.Module, prefix: str, layer: int | None) -> Iterator[tuple[Site, Tensor]]:
        layer = module.__dict__.get("declared_layer", (layer,))[0]
        roles = declared_by(module)
        own = list(module.named_parameters(recurse=False)) + list(module.named_buffers(recurse=False))
        for attribute, tensor in own:
            name = canonical_name(prefix + attribute)
            if attribute not in roles:
                raise UndeclaredParameterError(
                    f"{name}: {type(module).__name__} declares no role for {attribute!r}; "
                    f"call declare(self, {attribute}=Declared(role, fan_in, fan_out)) beside it"
                )
            if id(tensor) in seen:
                continue
            seen.add(id(tensor))
            said = roles[attribute]
            yield Site(name, said.role, tuple(tensor.shape), said.fan_in, said.fan_out, layer, n_layers), tensor
        for child_name, child in module.named_children():
            yield from walk(child, f"{prefix}{child_name}.", layer)

    return walk(model, "", None)
