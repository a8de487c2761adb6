"""Expectations over Gaussians that the prediction of signals needs, by quadrature; no sampling.

``E f(sqrt(q) a) f(sqrt(q) b)`` for correlated a and b (Mehler's formula, with Hermite coefficients), and the
participation of a softmax over n independent normal logits.
"""

import math
from collections.abc import Callable
from functools import cache

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

N_HERMITE = 48
_NODES, _WEIGHTS = np.polynomial.hermite_e.hermegauss(160)
Z = torch.tensor(_NODES)
W = torch.tensor(_WEIGHTS / _WEIGHTS.sum())

Activation = Callable[[Tensor], Tensor]


class Kernel:
    """``K(r) = E f(sqrt(q) a) f(sqrt(q) b)`` and ``E f'(sqrt(q) a) f'(sqrt(q) b)``, a and b of correlation r.

    ``K(r) = sum_k c_k^2 r^k`` with ``c_k = E[f(sqrt(q) z) He_k(z)] / sqrt(k!)`` (Mehler 1866), and the derivatives'
    kernel is ``K'(r) / q`` (Price's theorem). What the coefficients kept leave out is put into the last one, so that
    K(1) is exact.

    Args:
        f: the activation.
        q: the variance of its input.
    """

    def __init__(self, f: Activation, q: float) -> None:
        values = f(math.sqrt(q) * Z)
        coefficients = []
        he, former = torch.ones_like(Z), torch.zeros_like(Z)  # normalised Hermite polynomials
        for k in range(N_HERMITE):
            coefficients.append(float((W * values * he).sum()))
            he, former = (Z * he - math.sqrt(k) * former) / math.sqrt(k + 1), he
        squares = torch.tensor(coefficients, dtype=torch.float64).square()
        squares[-1] += (W * values.square()).sum() - squares.sum()
        self._squares = squares.clamp_min(0.0)
        self._q = q

    def __call__(self, r: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        """K(r)."""
        return _polynomial(self._squares, r)

    def slope(self, r: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        """``E f' f'``."""
        k = torch.arange(1, len(self._squares), dtype=torch.float64)
        return _polynomial(k * self._squares[1:], r) / self._q


def _polynomial(coefficients: Tensor, r: Tensor) -> Tensor:
    total = torch.zeros_like(r)
    for coefficient in reversed(coefficients.tolist()):
        total = total * r + coefficient
    return total


class Participation:
    """``E sum_j p_j^2`` and ``E sum_j p_j^3`` of a softmax over n independent normal logits of variance s^2.

    Exact: with ``1 / S^2 = int lam e^(-lam S) dlam``,
    ``E sum p^2 = n int lam E[e^(2z - lam e^z)] E[e^(-lam e^z)]^(n-1) dlam``; for p^3, ``lam^2 / 2`` and ``e^(3z)``.
    Tabulated over n and s^2, since it varies slowly in both, and interpolated.

    Args:
        n_max: the longest row of keys.
        variance: the largest s^2 that will be asked for.
    """

    def __init__(self, n_max: int, variance: float) -> None:
        grid = np.unique(np.round(np.geomspace(1, max(n_max, 2), 40)))
        self._log_n = torch.tensor(np.log(grid))
        self._variances = torch.linspace(0.0, 1.0, 33, dtype=torch.float64).square() * max(variance, 1e-12)
        table = torch.stack([_participation(torch.tensor(grid), float(s2)) for s2 in self._variances])
        # Times n^(k-1): 1 where the logits do not vary, and smooth.
        n = torch.tensor(grid)
        self._table = table * torch.stack([n, n.square()])

    def __call__(self, n: Float[Tensor, "*shape"], variance: Float[Tensor, "*shape"]) -> tuple[Tensor, Tensor]:
        """p2 and p3 for each query with ``n`` keys and logits of ``variance``."""
        x, i = _place(self._log_n, n.log())
        y, j = _place(self._variances, variance)
        t = self._table
        below = [(1 - x) * t[j, k, i] + x * t[j, k, i + 1] for k in (0, 1)]
        above = [(1 - x) * t[j + 1, k, i] + x * t[j + 1, k, i + 1] for k in (0, 1)]
        p2, p3 = ((1 - y) * low + y * high for low, high in zip(below, above, strict=True))
        return p2 / n, p3 / n.square()


def _place(grid: Tensor, at: Tensor) -> tuple[Tensor, Tensor]:
    """The share of the way to the next grid point, and the grid point before."""
    at = at.clamp(float(grid[0]), float(grid[-1]))
    index = (torch.searchsorted(grid, at, right=True) - 1).clamp(0, len(grid) - 2)
    return (at - grid[index]) / (grid[index + 1] - grid[index]), index


def _participation(n: Tensor, variance: float) -> Float[Tensor, "2 N"]:
    if variance < 1e-9:
        return torch.stack([1 / n, 1 / n.square()])
    s = math.sqrt(variance)
    z = torch.linspace(-8, 8, 241, dtype=torch.float64)
    log_density = (-z.square() / 2).log_softmax(0)
    # lam on a log grid wide enough for e^z from the smallest single logit to the largest sum.
    log_lam = torch.linspace(-9 * s - math.log(float(n.max())) - 6, 9 * s + 5, 360, dtype=torch.float64)
    step = float(log_lam[1] - log_lam[0])
    # In logarithms: with s of 60, e^z spans a thousand decades.
    decay = -torch.exp(log_lam[:, None] + s * z[None, :]) + log_density
    others = decay.logsumexp(1)[:, None] * (n[None, :] - 1)
    found = []
    for power, factor in ((2, 1.0), (3, 0.5)):
        own = (decay + power * s * z[None, :]).logsumexp(1) + power * log_lam  # one lam more: dlam = lam dlog(lam)
        found.append(factor * n * step * (own[:, None] + others).exp().sum(0))
    return torch.stack(found)


@cache
def expected_maximum(n: int) -> float:
    """E max of n standard normals, by quadrature: ``int z n phi(z) Phi(z)^(n-1) dz``."""
    z = torch.linspace(-8, 12, 20_001, dtype=torch.float64)
    density = n * torch.exp(-z.square() / 2) / math.sqrt(2 * math.pi) * torch.exp((n - 1) * torch.special.log_ndtr(z))
    return float((z * density).sum() * (z[1] - z[0]))
