"""The whole of a model that is split over ranks, where one process is to work with it."""

import logging

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from isogloss.headway import advance
from isogloss.nn.roles import declared_tensors


@torch.no_grad()
def whole_tensors(model: nn.Module, keep: bool) -> dict[str, Tensor]:
    """Canonical name -> the whole of each parameter and buffer, in the CPU's memory. A collective call.

    Args:
        model: split or not.
        keep: whether this rank wants them; the others get nothing, and need memory for one parameter at a time.
    """
    # PyTorch warns that two gathers, one for each axis, are slower than one.
    logging.getLogger("torch.distributed.tensor._redistribute").setLevel(logging.ERROR)
    found = {}
    for site, tensor in declared_tensors(model):
        whole = tensor.full_tensor() if isinstance(tensor, DTensor) else tensor
        if keep:
            found[site.name] = whole.detach().cpu()
        advance()
    return found
