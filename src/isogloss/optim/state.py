"""An optimizer's state as named tensors, and back: what a checkpoint holds of it.

Only per-parameter tensors are state. The learning rate is not: every step computes it from the schedule, so a resumed
run cannot take a stale one.
"""

import torch
from torch import Tensor, nn

from isogloss.nn.roles import declared_tensors


def optimizer_tensors(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """``{parameter name}/{state name}`` -> tensor, for every parameter that has been stepped."""
    return {
        f"{site.name}/{key}": value
        for site, parameter in declared_tensors(model)
        for key, value in optimizer.state.get(parameter, {}).items()
    }


def load_optimizer_tensors(model: nn.Module, optimizer: torch.optim.Optimizer, tensors: dict[str, Tensor]) -> None:
    """Put back what ``optimizer_tensors`` gave.

    Raises:
        ValueError: a tensor belongs to no parameter of the model, or does not fit its parameter.
    """
    parameters = {site.name: parameter for site, parameter in declared_tensors(model)}
    for key, tensor in tensors.items():
        name, _, part = key.rpartition("/")
        parameter = parameters.get(name)
        if parameter is None or (tensor.ndim > 0 and tensor.shape != parameter.shape):
            raise ValueError(f"the optimizer state {key} {tuple(tensor.shape)} fits no parameter of this model")
        # "step" stays on the CPU unless the optimizer is fused on a device; it follows the parameter there.
        optimizer.state[parameter][part] = tensor.to(parameter.device, copy=True)
