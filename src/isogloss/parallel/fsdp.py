"""Weights split over ranks: PyTorch's FSDP2, in units: a large block or some small ones, the embedding, and the rest.

What products round to bf16 is gathered in bf16, which changes no bit. The gains of a block's norms are with the rest,
in float32: no product rounds them, and near 1 the numbers of bf16 are further apart than many steps of a gain take it.

A unit's weights are gathered before they are used, and the next unit's while it computes (FSDP2's implicit prefetch).
The last one's are kept, for the backward pass needs them at once; the embedding's backward pass needs none.
Gradients are *summed* over ranks: the step has divided by the count of targets of all of them.
"""

import itertools
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

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

from isogloss.models.decoder import Decoder
from isogloss.nn.roles import READERS, WRITERS, declared_by
from isogloss.parallel.mesh import Layout

ROUNDED = READERS | WRITERS
"""Roles of what products round to their own type; what else is in a block is gathered with the rest, in float32."""


@dataclass(frozen=True)
class Units:
    """Which weights are gathered at once; what is in no unit named here is with the rest.

    Args:
        blocks: runs of blocks, by their numbers.
        embedding: whether it is a unit of its own.
    """

    blocks: tuple[range, ...]
    embedding: bool


def find_units(blocks: Sequence[float], embedding: float | None, least: int) -> Units:
    """Spread blocks evenly over units of ``least`` weights or more on average; a large embedding has one of its own.

    Args:
        blocks: weights of each, as a tensor rank gathers them.
        embedding: its weights; ``None`` for a tied one, which is needed from the first to the last.
        least: weights of a unit; blocks that have fewer in all are one.
    """
    n_units = max(1, min(len(blocks), int(sum(blocks) // least)))
    edges = [unit * len(blocks) // n_units for unit in range(n_units + 1)]
    runs = tuple(range(first, end) for first, end in itertools.pairwise(edges))
    return Units(runs, embedding is not None and embedding >= least)


def shard_weights(model: Decoder, layout: Layout, precision: str) -> None:
    """Split a model on the meta device, in place.

    Args:
        model: its layers already split by tensor and compiled, where they are to be.
        layout: the ranks.
        precision: ``bf16`` or ``fp32``, of the products.
    """
    config, mesh = layout.config, layout.weights
    reduced = torch.bfloat16 if config.reduce == "bf16" else torch.float32
    # Inputs are left as they are: the residual stream stays float32, the products cast for themselves.
    exact = MixedPrecisionPolicy(reduce_dtype=reduced, cast_forward_inputs=False)
    blocks = MixedPrecisionPolicy(
        param_dtype=torch.bfloat16 if precision == "bf16" else None, reduce_dtype=reduced, cast_forward_inputs=False
    )
    offload = CPUOffloadPolicy(pin_memory=layout.device == "cuda") if config.offload else OffloadPolicy()
    reshard = config.reshard == "always"
    layers = model.blocks()
    # By whole sizes, so that all tensor ranks, and `isogloss.run.estimate`, find the same units.
    n_tensor = layout.axes.tensor
    embedding = None if model.head is None else _n_weights(model.embedding) / n_tensor
    units = find_units([_n_weights(layer) / n_tensor for layer in layers], embedding, config.unit)
    unrounded = [module for layer in layers for module in layer.modules() if _is_unrounded(module)]
    with_rest = {parameter for module in unrounded for parameter in module.parameters(recurse=False)}
    for unit in units.blocks:
        members: list[nn.Module] = list(layers[unit.start : unit.stop])
        again = reshard and unit.stop < len(layers)
        fully_shard(
            members,
            mesh=mesh,
            mp_policy=blocks,
            reshard_after_forward=again,
            offload_policy=offload,
            ignored_params=with_rest,
        )
    if units.embedding:
        alone = fully_shard(
            model.embedding, mesh=mesh, mp_policy=exact, reshard_after_forward=reshard, offload_policy=offload
        )
        alone.set_unshard_in_backward(False)
    with _holding(model, unrounded):
        fully_shard(model, mesh=mesh, mp_policy=exact, reshard_after_forward=False, offload_policy=offload)
    register_fsdp_forward_method(model, "loss")
    for module in model.modules():
        if isinstance(module, FSDPModule):
            module.set_gradient_divide_factor(1.0)
            module.set_force_sum_reduction_for_comms(True)


def _is_unrounded(module: nn.Module) -> bool:
    return any(said.role not in ROUNDED for said in declared_by(module).values())


@contextmanager
def _holding(model: nn.Module, modules: list[nn.Module]) -> Iterator[None]:
    """Let a model have modules of its blocks as its own: FSDP2 does not look for them in what is split already."""
    model.add_module("held", nn.ModuleList(modules))
    yield
    del model.held


def _n_weights(module: nn.Module) -> int:
    """Of all tensor ranks."""
    return sum(parameter.numel() for parameter in module.parameters())


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
