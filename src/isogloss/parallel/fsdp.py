"""Weights split over ranks: PyTorch's FSDP2, in units: a large block or some small ones, the embedding, and the rest.

A unit's weights are gathered before they are used, and the next unit's while it computes (FSDP2's implicit prefetch).
The last one's are kept, for the backward pass needs them at once; the embedding's backward pass needs none.
Gradients are *summed* over ranks: the step has divided by the count of targets of all of them.
"""

import torch
from torch import nn
from torch.distributed.fsdp import (
    CPUOffloadPolicy,
    FSDPModule,
    MixedPrecisionPolicy,
    OffloadPolicy,
    fully_shard,
    register_fsdp_forward_method,
)

from isogloss.init.apply import local_part
from isogloss.models.decoder import Decoder
from isogloss.parallel.mesh import Layout


def count_units(n_blocks: int, n_weights: float, least: int) -> int:
    """Over how many units to spread blocks, of ``n_weights`` in all, evenly, so that each has ``least`` or more."""
    return max(1, min(n_blocks, int(n_weights // least)))


def shard_weights(model: Decoder, layout: Layout, precision: str) -> None:
    """Split a model on the meta device, in place.

    Args:
        model: its layers already split by tensor and compiled, where they are to be.
        layout: the ranks.
        precision: ``bf16`` or ``fp32``, of the products.
    """
    config, mesh = layout.config, layout.weights
    gathered = precision if config.gather == "auto" else config.gather
    reduced = torch.bfloat16 if config.reduce == "bf16" else torch.float32
    # Inputs are left as they are: the residual stream stays float32, the products cast for themselves.
    exact = MixedPrecisionPolicy(reduce_dtype=reduced, cast_forward_inputs=False)
    blocks = MixedPrecisionPolicy(
        param_dtype=torch.bfloat16 if gathered == "bf16" else None, reduce_dtype=reduced, cast_forward_inputs=False
    )
    offload = CPUOffloadPolicy(pin_memory=layout.device == "cuda") if config.offload else OffloadPolicy()
    reshard = config.reshard == "always"
    layers = model.blocks()
    n_units = count_units(len(layers), sum(map(_n_weights, layers)), config.unit)
    for unit in range(n_units):
        members: list[nn.Module] = list(layers[unit * len(layers) // n_units : (unit + 1) * len(layers) // n_units])
        again = reshard and unit < n_units - 1
        fully_shard(members, mesh=mesh, mp_policy=blocks, reshard_after_forward=again, offload_policy=offload)
    # Otherwise it is with the rest: a small one, and a tied one, which is needed from the first to the last.
    if model.head is not None and _n_weights(model.embedding) >= config.unit:
        embedding = fully_shard(
            model.embedding, mesh=mesh, mp_policy=exact, reshard_after_forward=reshard, offload_policy=offload
        )
        embedding.set_unshard_in_backward(False)
    fully_shard(model, mesh=mesh, mp_policy=exact, reshard_after_forward=False, offload_policy=offload)
    register_fsdp_forward_method(model, "loss")
    for module in model.modules():
        if isinstance(module, FSDPModule):
            module.set_gradient_divide_factor(1.0)
            module.set_force_sum_reduction_for_comms(True)


def _n_weights(module: nn.Module) -> int:
    """Of this tensor rank."""
    return sum(local_part(parameter)[0].numel() for parameter in module.parameters())


def reduce_gradients(model: nn.Module, now: bool) -> None:
    """Whether the next backward pass also reduces over ranks: only that of a step's last micro-batch has to."""
    assert isinstance(model, FSDPModule)
    model.set_requires_gradient_sync(now)


def let_go(model: nn.Module) -> None:
    """Split again the weights that a forward pass without a backward one has left whole.

    A parameter that is whole is another object, in the type it was gathered in: the optimizer's state would not be
    found by it, and a checkpoint would hold its rounded numbers.
    """
    for module in model.modules():
        if isinstance(module, FSDPModule):
            module.reshard()
