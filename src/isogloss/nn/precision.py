"""The type of the matrix products, and the device they run on."""

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import nn
from torch.distributed.tensor import DTensor

from isogloss.config.base import UserError

Precision = str | torch.dtype
"""Of the matrix products: ``bf16`` or ``fp32``, or PyTorch's name or type of one."""
_BF16 = {"bf16": True, "bfloat16": True, torch.bfloat16: True, "fp32": False, "float32": False, torch.float32: False}


def autocast(device: torch.device, precision: Precision) -> AbstractContextManager[object]:
    """Products in bfloat16 where ``precision`` is ``bf16``; weights and sums stay float32.

    Raises:
        UserError: it is neither ``bf16`` nor ``fp32``, nor PyTorch's type or name of one.
    """
    if precision not in _BF16:
        raise UserError(f"precision {precision}: must be fp32 or bf16")
    return torch.autocast(device.type, torch.bfloat16) if _BF16[precision] else nullcontext()


def find_device(device: str | torch.device) -> torch.device:
    """A device by its name, such as ``cpu`` or ``cuda:1``.

    Raises:
        UserError: there is no such device here.
    """
    here = "take cpu" + (" or cuda" if torch.cuda.is_available() else "")
    try:
        found = torch.device(device)
    except RuntimeError:
        raise UserError(f"{device}: no such device; {here}") from None
    if found.type == "cuda" and (found.index or 0) >= torch.cuda.device_count():
        raise UserError(f"{device}: no such device here; {here}")
    return found


def computing_device(model: nn.Module) -> torch.device:
    """Where a model computes: where its weights are, but for weights that wait in the CPU's memory."""
    weight = next(model.parameters())
    return torch.device(weight.device_mesh.device_type) if isinstance(weight, DTensor) else weight.device
