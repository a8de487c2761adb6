"""Attention kernels: ``softmax(mask(cap(q k^T scale))) v`` by several backends that agree, and the masks they take.

- ``sdpa``: PyTorch's fused kernel, causal or with a dense mask. The general choice.
- ``plain``: the equation written out. Fused by ``torch.compile`` it trains faster than ``sdpa`` on CPU at short rows,
  where the backward kernel of that is weak; the only dense one that can cap logits.
- ``flex``: PyTorch's FlexAttention, which skips masked blocks. Its backward needs a GPU (torch 2.13).

The soft cap is ``c tanh(s / c)`` (Gemma 2, section 2).
"""

from collections.abc import Callable
from functools import cache
from typing import Any, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask, create_block_mask, flex_attention

from isogloss.nn.softcap import softcap

Backend = Literal["sdpa", "plain", "flex"]
Mask = Tensor | BlockMask | None

WRITTEN_OUT_UP_TO = 2**24
"""Pairs of positions of a batch, above which the making of a block mask is compiled on a GPU: written out it holds the
dense mask, several times over. Not below: of a row within one block inductor makes no kernel (torch 2.13)."""


def dense_mask(
    query_positions: Int[Tensor, " T"],
    key_positions: Int[Tensor, " S"],
    window: int | None,
    documents: Int[Tensor, "B T"] | None,
    key_documents: Int[Tensor, "B S"] | None = None,
) -> Bool[Tensor, "b 1 T S"]:
    """True where a query may look: at or before itself, within the window, within its document.

    ``documents`` are the queries', and the keys' too if ``key_documents`` are not given.
    """
    distance = query_positions[:, None] - key_positions[None, :]
    allowed = distance >= 0
    if window is not None:
        allowed = allowed & (distance < window)
    allowed = allowed[None, None]
    if documents is not None:
        key_documents = documents if key_documents is None else key_documents
        allowed = allowed & (documents[:, None, :, None] == key_documents[:, None, None, :])
    return allowed


def block_mask(
    query_positions: Int[Tensor, " T"],
    key_positions: Int[Tensor, " S"],
    window: int | None,
    documents: Int[Tensor, "B T"] | None,
    key_documents: Int[Tensor, "B S"] | None = None,
) -> BlockMask:
    """``dense_mask`` as the sparse blocks that FlexAttention takes."""
    of_keys = documents if key_documents is None else key_documents

    def allowed(b: Tensor, h: Tensor, q: Tensor, k: Tensor) -> Tensor:
        distance = query_positions[q] - key_positions[k]
        here = distance >= 0
        if window is not None:
            here = here & (distance < window)
        if documents is not None and of_keys is not None:
            here = here & (documents[b, q] == of_keys[b, k])
        return here

    rows = 1 if documents is None else documents.shape[0]
    n_queries, n_keys, device = query_positions.shape[0], key_positions.shape[0], query_positions.device
    if device.type == "cpu" or rows * n_queries * n_keys <= WRITTEN_OUT_UP_TO:
        return create_block_mask(allowed, rows, None, n_queries, n_keys, device)
    with torch.compiler.set_stance("default"):
        return _compiled(create_block_mask)(allowed, rows, None, n_queries, n_keys, device)


def create_mask(
    backend: Backend,
    query_positions: Int[Tensor, " T"],
    key_positions: Int[Tensor, " S"],
    window: int | None,
    documents: Int[Tensor, "B T"] | None,
    key_documents: Int[Tensor, "B S"] | None = None,
) -> Mask:
    """The mask that a backend takes; ``None`` where causality is all, or where one query reads every key."""
    if backend == "flex":
        return block_mask(query_positions, key_positions, window, documents, key_documents)
    n_queries, n_keys = query_positions.shape[0], key_positions.shape[0]
    plainly_causal = window is None and documents is None and n_queries in (1, n_keys)
    if backend == "sdpa" and plainly_causal:
        return None
    return dense_mask(query_positions, key_positions, window, documents, key_documents)


def attend(
    q: Float[Tensor, "B H T C"],
    k: Float[Tensor, "B G S C"],
    v: Float[Tensor, "B G S C"],
    mask: Any,
    *,
    backend: Backend,
    scale: float,
    cap: float | None,
) -> Float[Tensor, "B H T C"]:
    """Causal attention of grouped queries; ``mask`` is what ``create_mask`` gave for the same backend.

    Args:
        q: queries of H heads.
        k: keys of G heads, G dividing H; query head h reads key head h // (H / G).
        v: values of G heads.
        mask: from ``create_mask``.
        backend: which kernel.
        scale: what logits are multiplied by, usually 1 / sqrt(C).
        cap: the bound of the soft cap, or ``None``; not offered by ``sdpa``.
    """
    grouped = k.shape[1] != q.shape[1]
    if backend == "flex":
        options = {"score_mod": _capped(cap), "block_mask": mask, "scale": scale, "enable_gqa": grouped}
        on_cpu = q.device.type == "cpu"
        if torch.compiler.is_compiling() or (on_cpu and torch.is_grad_enabled()):
            return flex_attention(q, k, v, **options)
        # Compiled even where blocks are not to be (`isogloss.models.inference`): unfused it keeps all scores.
        with torch.compiler.set_stance("default"):
            return _compiled(flex_attention)(q, k, v, **options)
    if backend == "sdpa":
        assert cap is None, "the config refuses a soft cap under sdpa"
        causal = mask is None and q.shape[2] > 1
        if grouped and repeats_keys(q.device.type, q.dtype, mask is not None):
            k, v, grouped = *_repeated(q, k, v), False
        return F.scaled_dot_product_attention(q, k, v, mask, is_causal=causal, scale=scale, enable_gqa=grouped)
    if grouped:
        k, v = _repeated(q, k, v)
    logits = (q @ k.transpose(-2, -1)).float() * scale
    if cap is not None:
        logits = softcap(logits, cap)
    weights = logits.masked_fill(~mask, float("-inf")).softmax(-1)
    return weights.type_as(v) @ v


def repeats_keys(device: str, dtype: torch.dtype, masked: bool) -> bool:
    """Whether ``sdpa`` must be given grouped keys once for each query head.

    On a GPU only the flash kernel takes them as they are (PyTorch's documentation of it), and that knows neither masks
    nor float32: all scores would be kept instead.
    """
    return device == "cuda" and (masked or dtype == torch.float32)


def _repeated(q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    repeats = q.shape[1] // k.shape[1]
    return k.repeat_interleave(repeats, 1), v.repeat_interleave(repeats, 1)


def _capped(cap: float | None) -> Any:
    if cap is None:
        return None
    return lambda score, b, h, q, k: softcap(score, cap)


@cache
def _compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    return torch.compile(function)
