"""The soft cap of logits: ``c tanh(x / c)``, within +- c and near x where x is small (Gemma 2, section 2)."""

import torch
from torch import Tensor


def softcap(x: Tensor, cap: float) -> Tensor:
    """Bound ``x`` smoothly to +- ``cap``."""
    return cap * torch.tanh(x / cap)
