"""Carrying out a plan: every parameter filled once, in place, from its own stream, sharded or not."""

import math
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.distributed.tensor._utils import compute_local_shape_and_global_offset

from isogloss.headway import advance
from isogloss.init.plan import Entry
from isogloss.init.rng import Uniforms, stream_key
from isogloss.init.rules import Constant, Normal, Uniform
from isogloss.nn.roles import declared_tensors

# Elements drawn at a time: temporaries of 16 MiB whatever the parameter's size.
BLOCK = 2**20
T = TypeVar("T")


@torch.no_grad()
def initialise(model: nn.Module, plan: dict[str, Entry], seed: int) -> None:
    """Fill every parameter and buffer of a materialised model; shards receive their part of the whole's weights.

    Equal for every order, wrapping, world size and sharding, bit for bit on the same kind of device.
    """
    for site, tensor in declared_tensors(model):
        fill(tensor, plan[site.name], seed)


@torch.no_grad()
def fill(tensor: Tensor, entry: Entry, seed: int) -> None:
    """Fill one parameter by its rule."""
    tensor, offset = local_part(tensor)
    match entry.rule:
        case Constant(value=value):
            tensor.fill_(value)
        case Normal() | Uniform() as rule:
            _fill_random(tensor, rule, seed, entry.site.name, offset)


def local_part(tensor: Tensor) -> tuple[Tensor, tuple[int, ...]]:
    """What this rank holds of a tensor, and where in the whole it begins: all of it and zeros, if it is not sharded."""
    if not isinstance(tensor, DTensor):
        return tensor, (0,) * tensor.ndim
    shape, offset = compute_local_shape_and_global_offset(tensor.shape, tensor.device_mesh, tensor.placements)
    local = tensor.to_local()
    assert tuple(local.shape) == tuple(shape), f"unexpected local shape {tuple(local.shape)}, not {tuple(shape)}"
    return local, tuple(offset)


def from_all_ranks(mine: T) -> list[T]:
    """What every rank of the process group says; without a group, only this one: ``[mine]``."""
    if not (dist.is_available() and dist.is_initialized()):
        return [mine]
    said: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(said, mine)
    return said


def _fill_random(tensor: Tensor, rule: Normal | Uniform, seed: int, name: str, offset: tuple[int, ...]) -> None:
    if tensor.ndim > 2:
        # Leading indices (experts, convolution taps) have streams of their own: stacked equals unstacked.
        for index, part in enumerate(tensor):
            _fill_random(part, rule, seed, f"{name}[{offset[0] + index}]", offset[1:])
        return
    matrix = tensor if tensor.ndim == 2 else tensor[:, None]
    top, left = (*offset, 0)[:2]
    key = stream_key(seed, name)
    uniforms = Uniforms(min(BLOCK, matrix.numel()), matrix.device)
    n_columns = max(1, min(matrix.shape[1], BLOCK))  # a rank may hold nothing
    n_rows = max(1, BLOCK // n_columns)
    for i in range(0, matrix.shape[0], n_rows):
        for j in range(0, matrix.shape[1], n_columns):
            block = matrix[i : i + n_rows, j : j + n_columns]
            rows, columns = (top + i, top + i + block.shape[0]), (left + j, left + j + block.shape[1])
            block.copy_(_quantile(rule, uniforms.block(key, rows, columns)))
            advance()


def _quantile(rule: Normal | Uniform, u: Tensor) -> Tensor:
    """By the inverse distribution function of u in (-1, 1), which is used up.

    No rejection, so every element depends on its own place alone. For a normal cut at +-c the inverse is
    ``sqrt(2) erfinv(u erf(c / sqrt(2)))``.
    """
    if isinstance(rule, Uniform):
        return u.mul_(rule.bound)
    if rule.cut is not None:
        u.mul_(math.erf(rule.cut / math.sqrt(2)))
    return u.erfinv_().mul_(math.sqrt(2) * rule.drawn_std)
