"""The standard deviation of a tensor's numbers, and its sampling error.

The error of ``ln s`` over n elements of kurtosis k is ``sqrt((k - 1) / (4 n))``.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from isogloss.init.repetition import CHUNK


@dataclass(frozen=True)
class Spread:
    """Of one parameter's numbers: how many, their standard deviation, and the error of its logarithm."""

    n: int
    std: float
    error: float


@torch.no_grad()
def spread(tensor: Tensor) -> Spread:
    """The moments of a parameter's numbers."""
    flat = tensor.detach().reshape(-1)
    n = flat.numel()
    mean = sum(float(chunk.double().sum()) for chunk in flat.split(CHUNK)) / max(n, 1)
    m2 = m4 = 0.0
    for chunk in flat.split(CHUNK):
        x = (chunk.double() - mean).square()
        m2, m4 = m2 + float(x.sum()), m4 + float(x.square().sum())
    std = math.sqrt(m2 / n) if n else 0.0
    kurtosis = n * m4 / m2**2 if m2 > 0 else 3.0
    return Spread(n, std, math.sqrt(max(kurtosis - 1, 1e-6) / (4 * max(n, 1))))
