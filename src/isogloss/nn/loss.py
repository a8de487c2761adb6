"""Cross-entropy of a linear head, summed over targets, without all the logits at once.

``loss = sum_n [lse(l_n) - l_n,y(n)] + z sum_n lse(l_n)^2`` with ``l = cap(h W^T)`` in float32; the second sum is the
z-loss (PaLM, section 5). Rows are taken in chunks; each chunk's gradient is formed while its logits are at hand, so at
most ``LOGITS_PER_CHUNK`` (more on a GPU) of the B*T*V logits exist at a time, and none is computed twice.
"""

from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.distributed.tensor import DTensor

from isogloss.nn.softcap import softcap

LOGITS_PER_CHUNK, LOGITS_PER_CHUNK_ON_GPU = 2**22, 2**26
"""16 and 256 MiB in float32. Each chunk reads all of the head and adds to all of its gradient, so a GPU would wait for
its memory where a chunk has few rows: of 128,256 ids they give 32 and 523."""


def chunk_loss(
    logits: Float[Tensor, "n V"], targets: Int[Tensor, " n"], ignored: int, cap: float | None, z_loss: float
) -> tuple[Float[Tensor, ""], Float[Tensor, ""], Float[Tensor, "n V"]]:
    """The negative log-likelihood, the z-loss, and the gradient of their sum with respect to ``logits``."""
    logits = logits.float()
    capped = logits if cap is None else softcap(logits, cap)
    log_sum = torch.logsumexp(capped, dim=-1, keepdim=True)
    counts = (targets != ignored)[:, None]
    safe = torch.where(counts[:, 0], targets, 0)[:, None]
    nll = torch.where(counts, log_sum - capped.gather(1, safe), 0.0).sum()
    z = torch.where(counts, z_loss * log_sum.square(), 0.0).sum()
    columns = torch.arange(logits.shape[1], device=logits.device)
    gradient = (capped - log_sum).exp() * (1 + 2 * z_loss * log_sum) - (columns == safe).float()
    if cap is not None:
        gradient = gradient * (1 - (capped / cap).square())
    return nll, z, torch.where(counts, gradient, 0.0)


class _LinearCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        targets: Tensor,
        options: tuple[int, float | None, float, torch.dtype, bool, Callable[..., Any], int],
    ) -> tuple[Tensor, Tensor]:
        ignored, cap, z_loss, dtype, needs_gradient, kernel, rows = options
        w = weight.to(dtype)
        total = hidden.new_zeros((), dtype=torch.float32)
        nll_total = torch.zeros_like(total)
        d_hidden = torch.empty_like(hidden) if needs_gradient else None
        d_weight = torch.zeros_like(weight, dtype=torch.float32) if needs_gradient else None
        for start in range(0, len(hidden), rows):
            h = hidden[start : start + rows].to(dtype)
            nll, z, d_logits = kernel(h @ w.T, targets[start : start + rows], ignored, cap, z_loss)
            nll_total += nll
            total += nll + z
            if d_hidden is not None and d_weight is not None:
                d_logits = d_logits.to(dtype)
                d_hidden[start : start + rows] = d_logits @ w
                d_weight += d_logits.T @ h
        if needs_gradient:
            ctx.save_for_backward(d_hidden, d_weight.to(weight.dtype) if d_weight is not None else None)
        ctx.mark_non_differentiable(nll_total)
        return total, nll_total

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Any) -> tuple[Tensor, Tensor, None, None]:
        d_hidden, d_weight = ctx.saved_tensors
        return d_hidden * grad_outputs[0], d_weight * grad_outputs[0], None, None


def rows_per_chunk(n_columns: int, device: str) -> int:
    """How many rows of logits exist at a time, on a device (``cpu``, ``cuda``)."""
    return max(1, (LOGITS_PER_CHUNK if device == "cpu" else LOGITS_PER_CHUNK_ON_GPU) // n_columns)


def linear_cross_entropy(
    hidden: Float[Tensor, "n D"],
    weight: Float[Tensor, "V D"],
    targets: Int[Tensor, " n"],
    *,
    ignored: int,
    cap: float | None = None,
    z_loss: float = 0.0,
    kernel: Callable[..., Any] = chunk_loss,
    rows: int | None = None,
) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
    """Sums in nats over the targets that are not ``ignored``: the loss to minimise, and its likelihood part (detached).

    The products run in the autocast type where autocast is on; everything after them in float32.

    Args:
        hidden: what the head reads.
        weight: the head's weight. Of one that is split by vocabulary this rank takes its rows; the kernel then has to
            see to the sums over ranks, and the gradient of ``hidden`` is this rank's part.
        targets: ids in [0, V), or ``ignored``.
        ignored: the target that does not count.
        cap: the bound of the logits' soft cap.
        z_loss: the coefficient of the z-loss.
        kernel: ``chunk_loss``, or a compiled form of it.
        rows: in a chunk; ``rows_per_chunk`` if not given.
    """
    n_columns = len(weight)
    if isinstance(weight, DTensor):
        n_columns = -(-n_columns // weight.device_mesh.size())  # of the largest part: ranks take equal chunks
        weight = weight.to_local()
    device = hidden.device.type
    rows = rows or rows_per_chunk(n_columns, device)
    dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else weight.dtype
    needs_gradient = torch.is_grad_enabled() and (hidden.requires_grad or weight.requires_grad)
    with torch.autocast(device, enabled=False):
        options = (ignored, cap, z_loss, dtype, needs_gradient, kernel, rows)
        return _LinearCrossEntropy.apply(hidden, weight, targets, options)
