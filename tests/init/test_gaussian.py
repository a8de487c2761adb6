"""The quadratures agree with closed forms where there are some, and with sampling elsewhere."""

import math

import pytest
import torch
import torch.nn.functional as F

from isogloss.init.gaussian import Kernel, Participation, expected_maximum

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


def test_without_variance_a_softmax_is_uniform() -> None:
    n = torch.tensor([1.0, 3.0, 100.0], dtype=torch.float64)
    p2, p3 = Participation(100, 1.0)(n, torch.zeros(3, dtype=torch.float64))
    torch.testing.assert_close(p2, 1 / n)
    torch.testing.assert_close(p3, 1 / n**2)


@pytest.mark.parametrize("n", [2, 7, 64])
@pytest.mark.parametrize("variance", [0.3, 1.0, 3.0])
def test_participation_agrees_with_sampling(n: int, variance: float) -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(40_000, n, dtype=torch.float64, generator=generator) * math.sqrt(variance)
    p = logits.softmax(-1)
    found = Participation(128, 4.0)(
        torch.tensor([n], dtype=torch.float64), torch.tensor([variance], dtype=torch.float64)
    )
    for value, power in zip(found, (2, 3), strict=True):
        sampled = (p**power).sum(-1)
        error = 5 * float(sampled.std()) / math.sqrt(len(sampled)) / float(sampled.mean())
        assert float(value) == pytest.approx(float(sampled.mean()), rel=error + 0.005)


def test_the_expected_maximum_of_two_and_three_normals() -> None:
    assert expected_maximum(2) == pytest.approx(1 / math.sqrt(math.pi))
    assert expected_maximum(3) == pytest.approx(1.5 / math.sqrt(math.pi))
