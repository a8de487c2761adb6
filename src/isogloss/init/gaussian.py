"""Expectations over Gaussians that the prediction of signals needs, by quadrature; no sampling.

``E f(sqrt(q) a) f(sqrt(q) b)`` for correlated a and b (Mehler's formula, with Hermite coefficients), and the
participation of a softmax over n independent normal logits.
"""

import math
from collections.abc import Callable, Sequence
from functools import cache
from typing import NamedTuple

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
    """``K_st = E f(sqrt(q_s) a) f(sqrt(q_t) b)`` and ``E f'(sqrt(q_s) a) f'(sqrt(q_t) b)``, a and b of correlation r.

    ``K_st = sum_k c_k(q_s) c_k(q_t) r^k`` with ``c_k(q) = E[f(sqrt(q) z) He_k(z)] / sqrt(k!)`` (Mehler 1866), and the
    derivatives' kernel is ``(dK / dr) / sqrt(q_s q_t)`` (Price's theorem). What the coefficients kept leave out is put
    into the last one, so that K(1) is exact for equal q.

    Args:
        f: the activation.
        q: the variance of its input: one, or one for each position.
    """

    def __init__(self, f: Activation, q: float | Float[Tensor, "*B T"]) -> None:
        self._q = torch.as_tensor(q, dtype=torch.float64).clamp_min(1e-30)
        values = f(self._q.sqrt()[..., None] * Z)
        coefficients = []
        he, former = torch.ones_like(Z), torch.zeros_like(Z)  # normalised Hermite polynomials
        for k in range(N_HERMITE):
            coefficients.append((W * values * he).sum(-1))
            he, former = (Z * he - math.sqrt(k) * former) / math.sqrt(k + 1), he
        left_out = (W * values.square()).sum(-1) - torch.stack(coefficients[:-1]).square().sum(0)
        coefficients[-1] = left_out.clamp_min(1e-300).sqrt()
        self._coefficients = coefficients

    def __call__(self, r: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        """K(r)."""
        return _polynomial([_pairs(c) for c in self._coefficients], r)

    def slope(self, r: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        """``E f' f'``."""
        terms = [k * _pairs(c) for k, c in enumerate(self._coefficients)]
        return _polynomial(terms[1:], r) / _pairs(self._q.sqrt())


def _pairs(c: Tensor) -> Tensor:
    """Products over all pairs of positions; the square of a lone number."""
    return c[..., :, None] * c[..., None, :] if c.ndim else c.square()


def _polynomial(coefficients: Sequence[Tensor], r: Tensor) -> Tensor:
    total = torch.zeros_like(r)
    for coefficient in reversed(coefficients):
        total = total * r + coefficient
    return total


class Attended(NamedTuple):
    """What a softmax p over keys does in the mean; slopes d are those of the logits' soft cap, 1 without one.

    Args:
        p2: ``E sum_j p_j^2``: how much of one key's own reaches the output.
        own: ``E sum_j p_j^2 d_j^2 (1 - 2 p_j + sum_k p_k^2)``: what the gradient passes to a key's own part.
        common: ``E sum_j p_j^2 (d_j - D)^2``, D the mean of d under p: to what keys share; 0 without a cap.
    """

    p2: Tensor
    own: Tensor
    common: Tensor


class Participation:
    """The moments of a softmax over n normal logits of variance s^2 and common correlation rho.

    Exact: with ``1 / S^2 = int lam e^(-lam S) dlam`` for ``S = sum_j e^z_j``,
    ``E sum p^2 = n int lam E[e^(2z - lam e^z)] E[e^(-lam e^z)]^(n-1) dlam``; for p^3, ``lam^2 / 2`` and ``e^(3z)``;
    for p^4, ``lam^3 / 6`` and ``e^(4z)``; and ``E (sum p^2)^2 = E sum p^4 + n (n-1) int (lam^3 / 6)
    E[e^(2z - lam e^z)]^2 E[e^(-lam e^z)]^(n-2) dlam``. What logits share moves all alike and drops out, unless they
    are capped: then its values are averaged over. Tabulated, since all vary slowly, and interpolated.

    Args:
        n_max: the longest row of keys.
        variance: the largest s^2 that will be asked for.
        cap: the bound of the logits' soft cap.
    """

    def __init__(self, n_max: int, variance: float, cap: float | None = None) -> None:
        grid = torch.tensor(np.unique(np.round(np.geomspace(1, max(n_max, 2), 40))))
        n_variances, n_shares = (33, 2) if cap is None else (13, 4)
        self._cap, variance = cap, min(variance, LOUDEST**2)
        self._log_n = grid.log()
        self._variances = torch.linspace(0.0, 1.0, n_variances, dtype=torch.float64).square() * max(variance, 1e-12)
        self._shares = torch.linspace(0.0, 1.0, n_shares, dtype=torch.float64)
        if cap is None:
            table = torch.stack([_attended(grid, *normal_logits(float(s2))) for s2 in self._variances])
            table = table[None].expand(n_shares, -1, -1, -1)
        else:
            table = torch.stack(
                [
                    torch.stack([_capped(grid, float(s2), float(share), cap) for s2 in self._variances])
                    for share in self._shares
                ]
            )
        # Times n: 1 where the logits do not vary, and smooth.
        self._table = table * grid

    def __call__(
        self, n: Float[Tensor, "*shape"], variance: Float[Tensor, "*shape"], rho: Float[Tensor, "*shape"]
    ) -> Attended:
        """For each query with ``n`` keys, whose logits have this variance and correlation."""
        if self._cap is None:
            variance = variance * (1 - rho)
        quieter = (LOUDEST / variance.sqrt().clamp_min(1e-30)).clamp_max(1.0)
        x, i = _place(self._log_n, n.log())
        y, j = _place(self._variances, variance)
        w, k = _place(self._shares, rho)
        t = self._table.movedim(2, 0)

        def along_n(k: Tensor, j: Tensor) -> Tensor:
            return (1 - x) * t[:, k, j, i] + x * t[:, k, j, i + 1]

        def along_variance(k: Tensor) -> Tensor:
            return (1 - y) * along_n(k, j) + y * along_n(k, j + 1)

        found = along_variance(k) if self._cap is None else (1 - w) * along_variance(k) + w * along_variance(k + 1)
        p2, own, common = found / n
        return Attended(1 - (1 - p2) * quieter, own * quieter, common * quieter)


def _place(grid: Tensor, at: Tensor) -> tuple[Tensor, Tensor]:
    """The share of the way to the next grid point, and the grid point before."""
    at = at.clamp(float(grid[0]), float(grid[-1]))
    index = (torch.searchsorted(grid, at, right=True) - 1).clamp(0, len(grid) - 2)
    return (at - grid[index]) / (grid[index + 1] - grid[index]), index


WIDEST, STEP, MAX_STEPS = 8.0, 0.4, 1500
"""Normals are integrated over +- WIDEST; steps in logarithms of at most STEP, within which e^-e^x is smooth."""
LOUDEST = 24.0
"""The std of logits up to which moments are tabulated. Beyond, two keys compete as rarely as their logits are near each
other: what is short of one-hot goes as 1/s."""


def normal_logits(variance: float) -> tuple[Tensor, Tensor, Tensor]:
    """Values of a normal on a grid, their slopes by it (1), and the logarithms of their probabilities."""
    z = torch.linspace(-WIDEST, WIDEST, _steps(2 * WIDEST * math.sqrt(variance), 161), dtype=torch.float64)
    return math.sqrt(variance) * z, torch.ones_like(z), (-z.square() / 2).log_softmax(0)


def _steps(span: float, at_least: int) -> int:
    return max(at_least, math.ceil(min(span / STEP, MAX_STEPS)))


def _capped(n: Tensor, variance: float, share: float, cap: float) -> Float[Tensor, "3 N"]:
    """The mean over what the logits share, by quadrature."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(7 if share else 1)
    own, slopes, log_density = normal_logits(variance * (1 - share))
    total = torch.zeros(3, len(n), dtype=torch.float64)
    for node, weight in zip(nodes, weights / weights.sum(), strict=True):
        bent = torch.tanh((own + math.sqrt(variance * share) * float(node)) / cap)
        total += float(weight) * _attended(n, cap * bent, slopes - bent.square(), log_density)
    return total


def _attended(n: Tensor, logits: Tensor, slopes: Tensor, log_density: Tensor) -> Float[Tensor, "3 N"]:
    """The three moments for each number of keys, by quadrature over lam; in logarithms: e^z may span decades."""
    low = -float(logits.max()) - math.log(float(n.max())) - 6
    high = -float(logits.min()) + 5
    log_lam = torch.linspace(low, high, _steps(high - low, 160), dtype=torch.float64)
    step = float(log_lam[1] - log_lam[0])
    decay = -torch.exp(log_lam[:, None] + logits) + log_density
    rest = decay.logsumexp(1)
    log_slopes = slopes.clamp_min(1e-300).log()

    @cache
    def alone(power: int, slope_power: int) -> Tensor:
        """``log lam^power E[d^slope_power e^(power z - lam e^z)]``."""
        return (decay + power * logits + slope_power * log_slopes).logsumexp(1) + power * log_lam

    def moment(*keys: tuple[int, int]) -> Tensor:
        """``E sum prod p_i^power d_i^slope_power`` over distinct keys i, of powers and slope powers given."""
        ways = torch.ones_like(n)
        for index in range(len(keys)):
            ways = ways * (n - index)
        others = rest[:, None] * (n - len(keys)).clamp_min(0)
        value = (torch.stack([alone(*key) for key in keys]).sum(0)[:, None] + others).exp().sum(0)
        return ways * step / math.factorial(sum(power for power, _ in keys) - 1) * value

    steep, cubed, squared = moment((2, 2)), moment((3, 2)), moment((4, 2)) + moment((2, 2), (2, 0))
    own = steep - 2 * cubed + squared
    common = torch.zeros_like(own)
    if bool((slopes != 1).any()):
        mixed = cubed + moment((2, 1), (1, 1))
        common = steep - 2 * mixed + squared + 2 * moment((3, 1), (1, 1)) + moment((2, 0), (1, 1), (1, 1))
    return torch.stack([moment((2, 0)), own.clamp_min(0), common.clamp_min(0)])


def expected_log_sum(kinds: Sequence[tuple[int, Tensor, Tensor]]) -> Float[Tensor, "..."]:
    """``E ln S``, S the sum of ``e^y`` over independent y, for any spread of them.

    Exact: ``ln S = int (e^-lam - e^(-lam S)) dlam / lam``, and ``E e^(-lam S)`` is the product of those of the terms.

    Args:
        kinds: how many y are of a kind, their values on a grid, along the last axis, and the logarithms of the
            probabilities of these.
    """
    highest, lowest = max(float(y.max()) for _, y, _ in kinds), min(float(y.min()) for _, y, _ in kinds)
    low = min(0.0, -highest - math.log(sum(count for count, _, _ in kinds))) - 14
    high = 5.0 - lowest
    log_lam = torch.linspace(low, high, _steps(high - low, 160), dtype=torch.float64)
    log_laplace = torch.zeros((), dtype=torch.float64)
    for count, y, log_density in kinds:
        decay = log_density - torch.exp(log_lam[:, None] + y[..., None, :])
        log_laplace = log_laplace + count * decay.logsumexp(-1)
    # The integral of e^-lam dlam / lam from e^low on is -low less Euler's constant, up to e^low.
    return -low - np.euler_gamma - torch.trapezoid(log_laplace.exp(), log_lam)
