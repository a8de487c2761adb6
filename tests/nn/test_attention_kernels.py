"""Every backend computes the same attention: that of a float64 reference, one query at a time."""

import itertools
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor

from isogloss.nn import attention as kernels
from isogloss.nn.attention import attend, create_mask

T = 16
CASES = list(itertools.product([None, 5], [False, True], [4, 2], [None, 3.0]))


def reference(q: Tensor, k: Tensor, v: Tensor, window, documents, softcap, scale) -> Tensor:
    q, k, v = q.double(), k.double(), v.double()
    out = torch.zeros_like(q)
    for b, h, t in itertools.product(range(q.shape[0]), range(q.shape[1]), range(q.shape[2])):
        g = h // (q.shape[1] // k.shape[1])
        seen = [s for s in range(t + 1) if (window is None or t - s < window)]
        seen = [s for s in seen if documents is None or documents[b, s] == documents[b, t]]
        logits = (k[b, g, seen] @ q[b, h, t]) * scale
        if softcap is not None:
            logits = softcap * torch.tanh(logits / softcap)
        out[b, h, t] = logits.softmax(0) @ v[b, g, seen]
    return out


def inputs(n_kv_heads: int, head_dim: int = 8):
    generator = torch.Generator().manual_seed(1)
    shapes = [(2, 4, T, head_dim), (2, n_kv_heads, T, head_dim), (2, n_kv_heads, T, head_dim)]
    q, k, v = (2 * torch.randn(shape, generator=generator) for shape in shapes)
    documents = torch.tensor([[0] * 3 + [1] * 7 + [2] * 6, [0] * 10 + [1] * 6])
    return q, k, v, documents


def check(backend, kernel, window, with_documents, n_kv_heads, softcap, head_dim=8):
    q, k, v, documents = inputs(n_kv_heads, head_dim)
    documents = documents if with_documents else None
    positions = torch.arange(T)
    mask = create_mask(backend, positions, positions, window, documents)
    y = kernel(q, k, v, mask, backend=backend, scale=0.4, cap=softcap)
    torch.testing.assert_close(y.double(), reference(q, k, v, window, documents, softcap, 0.4), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("window", "with_documents", "n_kv_heads", "softcap"), CASES)
def test_plain(window, with_documents, n_kv_heads, softcap):
    check("plain", attend, window, with_documents, n_kv_heads, softcap)


@pytest.mark.parametrize(
    ("window", "with_documents", "n_kv_heads"), list(itertools.product([None, 5], [False, True], [4, 2]))
)
def test_sdpa(window, with_documents, n_kv_heads):
    check("sdpa", attend, window, with_documents, n_kv_heads, None)


def compiled_plain():
    kernel = torch.compile(attend)
    for case in [(None, False, 4, None), (5, True, 2, 3.0)]:
        check("plain", kernel, *case)


def flex_without_gradients():
    with torch.no_grad():  # head_dim 16: the least that flex compiles for on CPU
        for case in [(None, False, 4, None), (5, True, 2, 3.0)]:
            check("flex", attend, *case, head_dim=16)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["compiled_plain", "flex_without_gradients"])
def test_compiled_kernels(name):
    """In a process of its own: the checks of shapes that run round every function in tests cannot be traced."""
    program = f"import {Path(__file__).stem} as kernels; kernels.{name}()"
    paths = os.pathsep.join([str(Path(__file__).parent), *sys.path])
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, env=os.environ | {"PYTHONPATH": paths}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("backend", ["plain", "sdpa"])
@pytest.mark.parametrize("window", [None, 5])
@pytest.mark.parametrize("n_queries", [1, 4, T])
def test_last_queries_alone_equal_the_whole(backend, window, n_queries):
    q, k, v, _ = inputs(2)
    keys = torch.arange(T)
    options = {"backend": backend, "scale": 0.4, "cap": None}
    whole = attend(q, k, v, create_mask(backend, keys, keys, window, None), **options)
    mask = create_mask(backend, keys[-n_queries:], keys, window, None)
    part = attend(q[:, :, -n_queries:], k, v, mask, **options)
    torch.testing.assert_close(part, whole[:, :, -n_queries:], rtol=1e-5, atol=1e-6)


def test_flex_stays_compiled_where_blocks_are_not_to_be(monkeypatch):
    """Validation runs compiled blocks as they are written; flex written out would keep the scores of all pairs."""
    stances = []

    def compiled(function):
        stances.append(torch._dynamo.eval_frame._stance.stance)
        return lambda q, k, v, **options: q

    monkeypatch.setattr(kernels, "_compiled", compiled)
    q, k, v, _ = inputs(2)
    with torch.no_grad(), torch.compiler.set_stance("force_eager"):
        attend(q, k, v, None, backend="flex", scale=1.0, cap=None)
    assert stances == ["default"]


@pytest.mark.parametrize(
    ("n", "device", "compiled"), [(2**12, "meta", 0), (2**12 + 1, "meta", 1), (2**12 + 1, "cpu", 0)]
)
def test_a_large_block_mask_is_compiled_where_there_is_a_gpu(monkeypatch, n, device, compiled):
    """Any device but the CPU stands for one."""
    found, made = [], kernels.create_block_mask(lambda b, h, q, k: q >= k, 1, None, 8, 8, "cpu")
    monkeypatch.setattr(kernels, "create_block_mask", lambda *rest: made)
    monkeypatch.setattr(kernels, "_compiled", lambda function: (found.append("compiled"), function)[1])
    positions = torch.arange(n, device=device)
    create_mask("flex", positions, positions, None, None)
    assert len(found) == compiled


@pytest.mark.parametrize("masked", [False, True])
def test_keys_that_sdpa_is_given_once_a_query_head_change_nothing(monkeypatch, masked):
    q, k, v, documents = inputs(2)
    mask = create_mask("sdpa", torch.arange(T), torch.arange(T), None, documents if masked else None)
    grouped = attend(q, k, v, mask, backend="sdpa", scale=0.4, cap=None)
    monkeypatch.setattr(kernels, "repeats_keys", lambda device, dtype, masked: True)
    repeated = attend(q, k, v, mask, backend="sdpa", scale=0.4, cap=None)
    torch.testing.assert_close(repeated, grouped, rtol=1e-6, atol=1e-6)


def test_a_gpu_is_given_grouped_keys_only_where_its_flash_kernel_runs():
    given = [kernels.repeats_keys(*case) for case in GROUPED]
    assert given == [False, False, True, True, True]


GROUPED = [
    ("cpu", torch.float32, True),
    ("cuda", torch.bfloat16, False),
    ("cuda", torch.bfloat16, True),
    ("cuda", torch.float32, False),
    ("cuda", torch.float32, True),
]
