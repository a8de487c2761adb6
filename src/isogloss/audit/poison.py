"""Poison: a model whose every number is NaN, so that what its own initialisation leaves out can be seen.

Weights of a model built on the meta device hold whatever the allocator gives after ``to_empty``: mostly zeros,
sometimes good-looking numbers of a former tensor. NaN is neither.
"""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn


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


def survivors(model: nn.Module, written: frozenset[str]) -> Iterator[tuple[str, int, int, bool]]:
    """What still holds poison: name, elements that do, all elements, whether it is a buffer.

    Args:
        model: after its own initialisation.
        written: names that anything was written to, which decides for integers and booleans.
    """
    buffers = {name for name, _ in model.named_buffers()}
    for name, tensor in (*model.named_parameters(), *model.named_buffers()):
        if tensor.is_floating_point() or tensor.is_complex():
            n = int(torch.isnan(tensor).sum())
        else:
            n = 0 if name in written else tensor.numel()
        if n:
            yield name, n, tensor.numel(), name in buffers
