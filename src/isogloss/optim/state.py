"""An optimizer's state as named tensors, and back: what a checkpoint holds of it.

Only per-parameter tensors are state. The learning rate is not: every step computes it from the schedule, so a resumed
run cannot take a stale one.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from isogloss.config.base import UserError
from isogloss.nn.roles import declared_tensors
from isogloss.optim.compact import MOMENTS


def optimizer_tensors(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """``{parameter name}/{state name}`` -> tensor, for every parameter that has been stepped."""
    parameters = list(declared_tensors(model))
    found = {id(parameter) for _, parameter in parameters}
    assert all(id(parameter) in found for parameter in optimizer.state), "a checkpoint would lack what has no name"
    return {
        f"{site.name}/{key}": value
        for site, parameter in parameters
        for key, value in sorted(optimizer.state.get(parameter, {}).items())  # as it was made, or as it was loaded
    }


def cast_moments(optimizer: torch.optim.Optimizer, dtype: torch.dtype) -> None:
    """Bring the running means into the type that the optimizer keeps them in: a run may change it when it goes on."""
    for state in optimizer.state.values():
        for part in MOMENTS & state.keys():
            state[part] = state[part].to(dtype)


def allot_optimizer_tensors(
    model: nn.Module, optimizer: torch.optim.Optimizer, shapes: Mapping[str, tuple[torch.dtype, Sequence[int]]]
) -> dict[str, Tensor]:
    """Make room in an optimizer for the state that a checkpoint holds; laid out and cut as the parameters are.

    Args:
        model: whose parameters the optimizer steps.
        optimizer: its state is replaced.
        shapes: name, as ``optimizer_tensors`` gives, -> type and shape.

    Returns:
        name -> tensor in the optimizer's state, to be filled.

    Raises:
        UserError: a name belongs to no parameter of the model, or does not fit its parameter.
    """
    parameters = {site.name: parameter for site, parameter in declared_tensors(model)}
    made: dict[str, Tensor] = {}
    for key, (dtype, shape) in shapes.items():
        name, _, part = key.rpartition("/")
        parameter = parameters.get(name)
        if parameter is None or (len(shape) > 0 and tuple(shape) != tuple(parameter.shape)):
            raise UserError(f"the optimizer state {key} {tuple(shape)} fits no parameter of this model")
        # "step" stays on the CPU unless the optimizer is fused on a device; it follows the parameter there.
        made[key] = (
            torch.zeros_like(parameter, dtype=dtype, requires_grad=False)
            if len(shape) > 0
            else torch.zeros((), dtype=dtype, device=parameter.device)
        )
        optimizer.state[parameter][part] = made[key]
    return made
