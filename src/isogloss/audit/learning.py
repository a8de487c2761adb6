"""Zeros that can never change. I19.

A matrix of zeros is sound where its gradient is not zero, as that of a zero matrix that writes to the stream, or will
not be: once the writer has changed, so will the readers. Where two factors of a product are zero, neither changes. So a
few steps are taken along the sign of the gradient of a loss on random targets.
"""

import re
from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn
from torch.nn import functional

from isogloss.audit.findings import LAYER, Finding, Severity
from isogloss.audit.foreign import foreign

N_STEPS = 4
"""More than the factors of a branch that are zero at the start and change one after the other."""
SIZE = 1e-2
"""Of a step."""


def zero_matrices(model: nn.Module) -> dict[str, nn.Parameter]:
    """Matrices that are trained and begin as zeros."""
    named = ((name, p) for name, p in model.named_parameters() if p.ndim > 1 and p.requires_grad and p.numel())
    return {name: p for name, p in named if not bool(p.detach().any())}


def cannot_learn(model: nn.Module, call: Callable[[], Tensor]) -> Iterator[Finding]:
    """Zero matrices whose gradient is zero for good; those of experts only if all of a layer's are.

    Args:
        model: its weights are changed.
        call: runs it on tokens and returns the logits.
    """
    zero = zero_matrices(model)
    if not zero:
        return
    reached: set[str] = set()
    changed: set[str] = set()
    for _ in range(N_STEPS):
        for name, gradient in _gradients(model, call):
            reached.add(name)
            if bool((gradient != 0).any()):
                changed.add(name)
    groups: dict[str, list[str]] = {}
    for name in zero.keys() & reached:
        groups.setdefault(_one_layer(name), []).append(name)
    for names in groups.values():
        if not changed & set(names):
            for name in sorted(names):
                yield Finding(
                    "I19",
                    Severity.ERROR,
                    name,
                    f"all zero, and so is its gradient, after {N_STEPS} steps too: it cannot learn",
                    "zeros in one factor of a product at most, as in what is added to the stream",
                    "initialise what it multiplies, or what multiplies it, at random",
                )


def _gradients(model: nn.Module, call: Callable[[], Tensor]) -> Iterator[tuple[str, Tensor]]:
    """The gradient of every parameter that has one; then a step is taken."""
    model.zero_grad(set_to_none=True)
    with torch.enable_grad(), foreign("with gradients"):
        logits = call().float().flatten(0, -2)
        generator = torch.Generator().manual_seed(0)
        targets = torch.randint(logits.shape[-1], (len(logits),), generator=generator)
        functional.cross_entropy(logits, targets).backward()
    for name, parameter in model.named_parameters():
        if parameter.grad is not None:
            yield name, parameter.grad
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.grad is not None:
                parameter -= SIZE * parameter.grad.nan_to_num(0.0).sign()
    model.zero_grad(set_to_none=True)


def _one_layer(name: str) -> str:
    """The name with all numbers but the layer's replaced: equal for the experts of one layer."""
    first = LAYER.search(name)
    cut = first.end() if first else 0
    return name[:cut] + re.sub(r"(?<=\.)\d+(?=\.|$)", "*", name[cut:])
