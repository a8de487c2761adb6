"""Poison: a model whose every number is NaN, so that what its own initialisation leaves out can be seen.

Weights of a model built on the meta device hold whatever the allocator gives after ``to_empty``: mostly zeros,
sometimes good-looking numbers of a former tensor. NaN is neither. An initialisation may allocate memory itself, by
``to_empty`` first of all: this is NaN as well.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import deterministic


def materialise(model: nn.Module, keep_ties: bool) -> None:
    """Give every meta tensor memory on the CPU; unlike after ``to_empty``, what was tied can stay tied."""
    memory: dict[int, Tensor] = {}

    def real(tensor: Tensor) -> Tensor:
        if not tensor.is_meta:
            return tensor
        if keep_ties and id(tensor) in memory:
            return memory[id(tensor)]
        empty = torch.empty_like(tensor, device="cpu")
        memory[id(tensor)] = nn.Parameter(empty, tensor.requires_grad) if isinstance(tensor, nn.Parameter) else empty
        return memory[id(tensor)]

    for module in model.modules():
        kinds: list[dict[str, Any]] = [module.__dict__["_parameters"], module.__dict__["_buffers"]]
        for tensors in kinds:
            for name, tensor in tensors.items():
                if tensor is not None:
                    tensors[name] = real(tensor)


@torch.no_grad()
def poison(model: nn.Module) -> None:
    """Fill every parameter and buffer, persistent or not, with NaN; integers with their least, booleans with True."""
    for tensor in (*model.parameters(), *model.buffers()):
        if tensor.is_floating_point() or tensor.is_complex():
            tensor.fill_(float("nan"))
        elif tensor.dtype == torch.bool:
            tensor.fill_(True)
        else:
            tensor.fill_(torch.iinfo(tensor.dtype).min)


@torch.no_grad()
def wash(model: nn.Module) -> None:
    """Zeros for poison, and for other numbers of parameters that are not finite, so that the model can be run."""
    for tensor in (*model.parameters(), *model.buffers()):
        if tensor.is_floating_point() or tensor.is_complex():
            odd = ~torch.isfinite(tensor) if isinstance(tensor, nn.Parameter) else torch.isnan(tensor)
            tensor.masked_fill_(odd, 0.0)
        elif tensor.dtype != torch.bool and tensor.numel():
            limits = torch.iinfo(tensor.dtype)
            if tensor.dtype in (torch.int32, torch.int64) and (
                tensor.min() == limits.min or tensor.max() == limits.max
            ):
                tensor.zero_()


@contextmanager
def uninitialised_is_nan() -> Iterator[None]:
    """``torch.empty``, ``empty_like`` and ``to_empty`` give NaN, or the largest integer."""
    former = (torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled())
    fills: Any = deterministic  # its setting is a property of the module, which type checkers do not see
    filling = fills.fill_uninitialized_memory
    torch.use_deterministic_algorithms(True, warn_only=True)
    fills.fill_uninitialized_memory = True
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(former[0], warn_only=former[1])
        fills.fill_uninitialized_memory = filling
