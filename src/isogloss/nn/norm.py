"""Root-mean-square normalisation: ``y = g * x / sqrt(mean(x^2) + eps)`` (Zhang and Sennrich 2019, equation 4)."""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from isogloss.nn.roles import Declared, Role, declare


class RMSNorm(nn.Module):
    """Normalises the last axis, of size ``d``, and multiplies it by a learned gain."""

    def __init__(self, d: int, eps: float) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.empty(d))
        declare(self, weight=Declared(Role.NORM_GAIN, fan_in=1, fan_out=1))

    def forward(self, x: Float[Tensor, "... d"]) -> Float[Tensor, "... d"]:
        """Normalise in float32 and return the input's type."""
        return F.rms_norm(x.float(), self.weight.shape, self.weight.float(), self.eps).type_as(x)
