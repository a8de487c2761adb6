"""A model's weights as named tensors, and back, strictly."""

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn

from isogloss.config.base import UserError
from isogloss.config.problems import did_you_mean
from isogloss.nn.roles import declared_tensors


def model_tensors(model: nn.Module) -> dict[str, Tensor]:
    """Canonical name -> parameter or buffer, tied ones once."""
    return {site.name: tensor for site, tensor in declared_tensors(model)}


def find_nonfinite(tensors: Iterable[tuple[str, Tensor]]) -> dict[str, int]:
    """Name -> how many of its numbers are not finite, of the tensors that have such."""
    counts: dict[str, int] = {}
    for name, tensor in tensors:
        if tensor.is_floating_point():
            wide = tensor if tensor.dtype.itemsize > 1 else tensor.float()  # PyTorch does not judge 8-bit floats
            if n := tensor.numel() - int(torch.isfinite(wide).sum()):
                counts[name] = counts.get(name, 0) + n
    return counts


def nonfinite_in_words(counts: Mapping[str, int]) -> str:
    """Which tensors, the first ten of them, and how many of their numbers."""
    shown = [f"{name} ({n:,})" for name, n in list(counts.items())[:10]]
    more = f" and {len(counts) - 10:,} more" if len(counts) > 10 else ""
    return f"numbers that are not finite in {', '.join(shown)}{more}"


def check_finite(model: nn.Module, remedy: str) -> None:
    """Refuse a model whose weights are not finite: nothing that it computes means anything.

    Raises:
        UserError: naming them, and the remedy.
    """
    if counts := find_nonfinite(model_tensors(model).items()):
        raise UserError(f"the weights hold {nonfinite_in_words(counts)}: the run has diverged; {remedy}")


@torch.no_grad()
def load_weights(model: nn.Module, tensors: dict[str, Tensor]) -> None:
    """Copy named tensors into a model, in place.

    Raises:
        UserError: a name is missing or unexpected, or a shape differs; all of them are listed and nothing is loaded.
    """
    own = model_tensors(model)
    problems = [f"{name} is missing" for name in own if name not in tensors]
    for name, tensor in tensors.items():
        if name not in own:
            hint = did_you_mean(name, own) if len(problems) < 10 else ""  # looks through all names
            problems.append(f"{name} is unexpected{hint}")
        elif own[name].shape != tensor.shape:
            problems.append(f"{name} has shape {tuple(tensor.shape)}, the model's is {tuple(own[name].shape)}")
    if problems:
        more = f"; and {len(problems) - 10} more" if len(problems) > 10 else ""
        raise UserError("the weights do not fit this model: " + "; ".join(problems[:10]) + more)
    for name, tensor in tensors.items():
        own[name].copy_(tensor)
