"""The norm of a gradient whose parts are anywhere: plain, split, or held by several ranks.

``|g|^2 = sum_ranks sum_parts |part|^2 / (ranks that hold the same part)``: one sum over all ranks, and every rank gets
the same bits.
"""

from collections.abc import Iterable, Sequence

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from isogloss.init.apply import local_part


@torch.no_grad()
def gradient_norm(parameters: Iterable[nn.Parameter]) -> Tensor:
    """The global norm of all gradients there are; NaN or infinite on every rank if it is on one."""
    gradients = [p.grad for p in parameters if p.grad is not None]
    if not any(isinstance(gradient, DTensor) for gradient in gradients):
        return nn.utils.get_total_norm(gradients)
    parts: dict[float, list[Tensor]] = {}
    for gradient in gradients:
        parts.setdefault(_copies(gradient), []).append(local_part(gradient)[0])
    total = sum(nn.utils.get_total_norm(held).double().square() / copies for copies, held in parts.items())
    assert isinstance(total, Tensor)
    dist.all_reduce(total)
    return total.sqrt().float()


@torch.no_grad()
def clip_gradients(parameters: Sequence[nn.Parameter], clip: float, norm: Tensor) -> None:
    """Scale all gradients so that their global norm, which is ``norm``, is at most ``clip``; ranks need not talk."""
    if not any(isinstance(p.grad, DTensor) for p in parameters):
        nn.utils.clip_grads_with_norm_(parameters, clip, norm)
        return
    # As PyTorch does it: no branch, so no wait for a GPU.
    factor = (clip / (norm + 1e-6)).clamp(max=1.0)
    held = [local_part(p.grad)[0] for p in parameters if p.grad is not None]
    torch._foreach_mul_(held, factor)  # pyright: ignore[reportPrivateImportUsage]


def _copies(gradient: Tensor) -> float:
    """How many ranks hold this rank's part."""
    n_ranks = dist.get_world_size()
    if not isinstance(gradient, DTensor):
        return float(n_ranks)
    assert not any(placement.is_partial() for placement in gradient.placements), "a gradient that is not reduced"
    parts = 1
    for axis, placement in enumerate(gradient.placements):
        parts *= gradient.device_mesh.size(axis) if not placement.is_replicate() else 1
    return n_ranks / parts
