"""A model's weights as named tensors, and back, strictly."""

import torch
from torch import Tensor, nn

from isogloss.config.base import UserError
from isogloss.config.problems import did_you_mean
from isogloss.nn.roles import declared_tensors


def model_tensors(model: nn.Module) -> dict[str, Tensor]:
    """Canonical name -> parameter or buffer, tied ones once."""
    return {site.name: tensor for site, tensor in declared_tensors(model)}


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
            problems.append(f"{name} is unexpected{did_you_mean(name, own)}")
        elif own[name].shape != tensor.shape:
            problems.append(f"{name} has shape {tuple(tensor.shape)}, the model's is {tuple(own[name].shape)}")
    if problems:
        more = f"; and {len(problems) - 10} more" if len(problems) > 10 else ""
        raise UserError("the weights do not fit this model: " + "; ".join(problems[:10]) + more)
    for name, tensor in tensors.items():
        own[name].copy_(tensor)
