"""The chunked loss equals PyTorch's cross-entropy over all logits at once, in value and gradients, in float64."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from isogloss.nn import loss
from isogloss.nn.loss import chunk_loss, linear_cross_entropy

IGNORED = -100
D = 6


def float64_kernel(logits, targets, ignored, softcap, z_loss):
    """``chunk_loss`` without its rounding to float32: what remains to be seen is its mathematics."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.Tensor, "float", torch.Tensor.double)
        return chunk_loss(logits, targets, ignored, softcap, z_loss)


def plain(hidden, weight, targets, softcap, z_loss):
    logits = hidden @ weight.T
    if softcap is not None:
        logits = softcap * torch.tanh(logits / softcap)
    nll = F.cross_entropy(logits, targets, ignore_index=IGNORED, reduction="sum")
    z = logits.logsumexp(-1)[targets != IGNORED].square().sum()
    return nll + z_loss * z, nll


def problem(n: int, v: int, ignored_share: float, seed: int):
    generator = torch.Generator().manual_seed(seed)
    hidden = torch.randn(n, D, generator=generator, dtype=torch.float64).requires_grad_()
    weight = torch.randn(v, D, generator=generator, dtype=torch.float64).requires_grad_()
    targets = torch.randint(0, v, (n,), generator=generator)
    targets[torch.rand(n, generator=generator) < ignored_share] = IGNORED
    return hidden, weight, targets


@given(
    n=st.integers(1, 20),
    v=st.integers(2, 9),
    rows=st.integers(1, 22),
    softcap=st.sampled_from([None, 0.5, 30.0]),
    z_loss=st.sampled_from([0.0, 0.1]),
    ignored_share=st.sampled_from([0.0, 0.5, 1.0]),
    seed=st.integers(0, 1000),
)
def test_value_and_gradients(n, v, rows, softcap, z_loss, ignored_share, seed):
    hidden, weight, targets = problem(n, v, ignored_share, seed)
    expected, expected_nll = plain(hidden, weight, targets, softcap, z_loss)
    expected_gradients = torch.autograd.grad(3 * expected, (hidden, weight))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loss, "LOGITS_PER_CHUNK", rows * v)
        total, nll = linear_cross_entropy(
            hidden, weight, targets, ignored=IGNORED, cap=softcap, z_loss=z_loss, kernel=float64_kernel
        )
        gradients = torch.autograd.grad(3 * total, (hidden, weight))
    # Sums and the weight's gradient are kept in float32.
    torch.testing.assert_close(total.double(), expected, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(nll.double(), expected_nll, rtol=1e-6, atol=1e-6)
    assert not nll.requires_grad
    torch.testing.assert_close(gradients[0], expected_gradients[0], rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(gradients[1], expected_gradients[1], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("rows", [1, 4, 5, 1000])
def test_float32_kernel(monkeypatch, rows):
    hidden, weight, targets = problem(13, 7, 0.3, seed=0)
    expected, _ = plain(hidden, weight, targets, 2.0, 0.01)
    expected_gradients = torch.autograd.grad(expected, (hidden, weight))
    monkeypatch.setattr(loss, "LOGITS_PER_CHUNK", rows * 7)
    h, w = (t.detach().float().requires_grad_() for t in (hidden, weight))
    total, _ = linear_cross_entropy(h, w, targets, ignored=IGNORED, cap=2.0, z_loss=0.01)
    torch.testing.assert_close(total.double(), expected, rtol=1e-5, atol=1e-5)
    for found, wanted in zip(torch.autograd.grad(total, (h, w)), expected_gradients, strict=True):
        torch.testing.assert_close(found.double(), wanted, rtol=1e-4, atol=1e-5)


def test_without_gradients_none_are_formed():
    hidden, weight, targets = problem(5, 7, 0.0, seed=0)
    with torch.no_grad():
        total, _ = linear_cross_entropy(hidden, weight, targets, ignored=IGNORED)
    assert not total.requires_grad


def test_autocast_multiplies_in_bfloat16():
    hidden, weight, targets = problem(64, 7, 0.0, seed=0)
    h, w = (t.detach().float().requires_grad_() for t in (hidden, weight))
    expected, _ = linear_cross_entropy(h.bfloat16().float(), w.bfloat16().float(), targets, ignored=IGNORED)
    with torch.autocast("cpu", torch.bfloat16):
        total, _ = linear_cross_entropy(h, w, targets, ignored=IGNORED)
    assert total.dtype == torch.float32
    torch.testing.assert_close(total, expected, rtol=5e-3, atol=0)
    total.backward()
    assert h.grad is not None
    assert w.grad is not None
    assert h.grad.dtype == w.grad.dtype == torch.float32
