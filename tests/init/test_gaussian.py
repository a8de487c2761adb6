"""The quadratures agree with closed forms where there are some, and with sampling elsewhere."""

import math

import pytest
import torch
import torch.nn.functional as F

from isogloss.init.gaussian import Kernel, Participation, expected_log_sum, normal_logits

ONE = torch.tensor(1.0, dtype=torch.float64)


def test_silu_s_moments_are_those_of_the_literature() -> None:
    kernel = Kernel(F.silu, 1.0)
    assert float(kernel(ONE)) == pytest.approx(0.355776, abs=1e-5)
    assert float(kernel.slope(ONE)) == pytest.approx(0.379482, abs=1e-5)
    assert float(Kernel(F.silu, 0.2048)(ONE)) == pytest.approx(0.05794, abs=1e-4)


@pytest.mark.parametrize("r", [-0.7, 0.0, 0.3, 0.9, 1.0])
@pytest.mark.parametrize("q", [0.5, 2.0])
def test_relu_s_kernel_is_the_arc_cosine_one(q: float, r: float) -> None:
    """Cho and Saul 2009, orders 1 and 0."""
    theta = math.acos(r)
    kernel, at = Kernel(F.relu, q), torch.tensor(r, dtype=torch.float64)
    expected = q * (math.sin(theta) + (math.pi - theta) * math.cos(theta)) / (2 * math.pi)
    assert float(kernel(at)) == pytest.approx(expected, abs=2e-3 * q)


@pytest.mark.parametrize("r", [-0.5, 0.0, 0.4, 0.8])
def test_squared_relu_s_slope_is_the_arc_cosine_kernel(r: float) -> None:
    """Its derivative is 2 relu."""
    theta = math.acos(r)
    slope = Kernel(lambda x: F.relu(x).square(), 1.5).slope(torch.tensor(r, dtype=torch.float64))
    expected = 4 * 1.5 * (math.sin(theta) + (math.pi - theta) * math.cos(theta)) / (2 * math.pi)
    assert float(slope) == pytest.approx(expected, rel=1e-3)


@pytest.mark.parametrize("r", [-0.5, 0.3, 0.8])
def test_kernels_of_unequal_powers_agree_with_sampling(r: float) -> None:
    q = torch.tensor([0.04, 3.0], dtype=torch.float64)
    kernel = Kernel(F.silu, q)
    z = torch.randn(2, 400_000, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    a, b = q[0].sqrt() * z[0], q[1].sqrt() * (r * z[0] + math.sqrt(1 - r * r) * z[1])
    at = torch.full((2, 2), r, dtype=torch.float64)
    a.requires_grad_()
    b.requires_grad_()
    slopes = torch.autograd.grad((F.silu(a) + F.silu(b)).sum(), (a, b))
    assert float(kernel(at)[0, 1]) == pytest.approx(float((F.silu(a) * F.silu(b)).detach().mean()), abs=2e-3)
    assert float(kernel.slope(at)[0, 1]) == pytest.approx(float((slopes[0] * slopes[1]).mean()), abs=2e-3)


def attended(n: int, variance: float, rho: float, cap: float | None) -> list[float]:
    table = Participation(4096, max(variance, 1.0), cap)
    return [float(x) for x in table(*(torch.tensor(x, dtype=torch.float64) for x in (n, variance, rho)))]


@pytest.mark.parametrize("n", [1, 3, 100])
def test_without_variance_a_softmax_is_uniform(n: int) -> None:
    p2, own, common = attended(n, 0.0, 0.0, None)
    assert p2 == pytest.approx(1 / n, rel=1e-6)
    assert own == pytest.approx((1 - 1 / n) / n, rel=1e-4)  # interpolated over n
    assert common == 0


@pytest.mark.parametrize(
    ("n", "std", "rho", "cap"),
    [(n, std, 0.0, None) for n in (2, 7, 64) for std in (0.1, 1.0, 3.2, 8.0)]
    + [
        (7, 40.0, 0.0, None),
        (64, 40.0, 0.0, None),
        (64, 8.0, 0.5, None),
        (4096, 1.0, 0.0, None),
        (4096, 8.0, 0.0, None),
    ]
    + [(7, 3.0, 0.5, 2.0), (64, 3.0, 0.0, 2.0), (64, 8.0, 0.5, 10.0)],
)
def test_the_moments_of_a_softmax_agree_with_sampling(n: int, std: float, rho: float, cap: float | None) -> None:
    """From quiet logits to near one-hot; with p2^2 in the place of E (sum p^2)^2 `own` is half too small at 3.2."""
    generator, n_samples = torch.Generator().manual_seed(0), 20_000 if n < 1000 else 1500
    logits = math.sqrt(1 - rho) * torch.randn(n_samples, n, dtype=torch.float64, generator=generator)
    logits += math.sqrt(rho) * torch.randn(n_samples, 1, dtype=torch.float64, generator=generator)
    bent = torch.tanh(std * logits / cap) if cap else None
    p = (std * logits if cap is None or bent is None else cap * bent).softmax(-1)
    d = torch.ones_like(p) if bent is None else 1 - bent.square()
    p2 = p.square().sum(-1)
    own = (p.square() * d.square() * (1 - 2 * p + p2[:, None])).sum(-1)
    common = (p.square() * (d - (p * d).sum(-1, keepdim=True)).square()).sum(-1)
    for found, sampled in zip(attended(n, std**2, rho, cap), (p2, own, common), strict=True):
        error = 4 * float(sampled.std()) / math.sqrt(n_samples)
        # A share in the interpolation of the table; three to four times that where the shared part is tabulated too.
        interpolated = 0.015 if cap is None else 0.06
        assert found == pytest.approx(float(sampled.mean()), abs=error + interpolated * float(sampled.mean()) + 1e-9)


def loss(std: float, n: int, cap: float | None = None, own: tuple[float, float] | None = None) -> float:
    y, _, log_density = normal_logits(std**2)
    kinds = [(n, y if cap is None else cap * torch.tanh(y / cap), log_density)]
    if own is not None:
        z, _, density = normal_logits(1.0)
        kinds.append((1, own[0] + own[1] * z, density))
    return float(expected_log_sum(kinds))


def test_the_log_sum_of_one_is_its_mean() -> None:
    assert loss(3.0, 1) == pytest.approx(0.0, abs=1e-4)


def test_the_log_sum_of_quiet_ones_is_known() -> None:
    assert loss(0.5, 10**6) == pytest.approx(math.log(10**6) + 0.125, abs=1e-4)


@pytest.mark.parametrize("std", [1.0, 3.5, 3.9, 5.0, 6.0, 30.0])
@pytest.mark.parametrize(("cap", "own"), [(None, None), (4.0, None), (None, (12.0, 2.0))])
def test_log_sums_agree_with_sampling(std: float, cap: float | None, own: tuple[float, float] | None) -> None:
    """Through sqrt(2 ln n), 3.9 here, where neither ``ln n + s^2 / 2`` nor ``s E max`` holds."""
    n, generator = 2000, torch.Generator().manual_seed(0)
    y = std * torch.randn(2000, n, dtype=torch.float64, generator=generator)
    y = y if cap is None else cap * torch.tanh(y / cap)
    if own is not None:
        extra = own[0] + own[1] * torch.randn(2000, 1, dtype=torch.float64, generator=generator)
        y = torch.cat([y, extra], 1)
    sampled = y.logsumexp(1)
    error = 4 * float(sampled.std()) / math.sqrt(len(sampled))
    assert loss(std, n, cap, own) == pytest.approx(float(sampled.mean()), abs=error + 1e-3)
