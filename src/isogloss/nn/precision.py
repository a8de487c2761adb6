"""The type of the matrix products, and the device they run on."""

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import nn
from torch.distributed.tensor import DTensor


def autocast(device: torch.device, precision: str) -> AbstractContextManager[object]:
    """Products in bfloat16 where ``precision`` is ``bf16``; weights and sums stay float32."""
    return torch.autocast(device.type, torch.bfloat16) if precision == "bf16" else nullcontext()


def computing_device(model: nn.Module) -> torch.device:
    """Where a model computes: where its weights are, but for weights that wait in the CPU's memory."""
    weight = next(model.parameters())
    return torch.device(weight.device_mesh.device_type) if isinstance(weight, DTensor) else weight.device
