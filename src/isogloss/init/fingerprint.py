"""Fingerprints of weights: one SHA-256 a parameter, the same however the parameter is sharded.

A hash of bytes in their order cannot be put together from shards: a shard of columns holds a piece of every row. So the
SHA-256 is taken of shape, dtype and two sums over the elements' bits *v*, each element under keys of its place,

    sum_rc  a_r b_c v_rc   mod 2^64,

with odd pseudorandom keys that differ between the two sums (more dimensions, more factors). Each rank sums over what it
holds, and the sums add up. One changed element always changes the hash. Other differences that were not made for it
(permuted rows, another seed, last bits here and there) are missed with a chance near 2^-128, and below 2^-40 in the
worst case, a block in which nothing but all signs differs: sums modulo a power of two see little of the highest bits.
It is no defence against forgery: the keys are known and the sums are linear.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from math import prod

import torch
from jaxtyping import Int
from torch import Tensor, nn

from isogloss.headway import advance
from isogloss.init.apply import from_all_ranks, local_part
from isogloss.init.rng import finalise, stream_key
from isogloss.nn.roles import declared_tensors

# Elements at a time: temporaries of 4 MiB. Smaller ones suffer where threads have to wait for busy cores.
BLOCK = 2**18
_INTEGERS = {1: torch.int8, 2: torch.int16, 4: torch.int32}


class ReplicasDifferError(ValueError):
    """Ranks that should hold the same numbers do not."""


@dataclass(frozen=True)
class _Part:
    """What one rank knows of a parameter: of all of it, and of its part."""

    shape: tuple[int, ...]
    dtype: str
    offset: tuple[int, ...]
    n: int
    sums: tuple[int, ...]


@torch.no_grad()
def fingerprint(model: nn.Module) -> dict[str, str]:
    """Canonical name -> SHA-256 (hex) of each parameter and buffer of a model, sharded, replicated or whole.

    No rank needs more than its part and a block. In a process group it is a collective call: each rank sends some
    hundred bytes a parameter, and all get the same.

    Raises:
        ReplicasDifferError: ranks that hold the same part of a parameter hold different numbers.
    """
    mine = {site.name: _part(tensor) for site, tensor in declared_tensors(model)}
    parts: dict[str, dict[tuple[int, ...], _Part]] = {}
    for theirs in from_all_ranks(mine):
        for name, part in theirs.items():
            known = parts.setdefault(name, {})
            if known.setdefault((*part.offset, part.n), part) != part:
                raise ReplicasDifferError(
                    f"{name}: ranks that hold the same part (at {part.offset}) hold different numbers"
                )
    return {name: _digest(list(places.values())) for name, places in parts.items()}


def total_fingerprint(hashes: Mapping[str, str]) -> str:
    """One SHA-256 (hex) of all names and their hashes, in the order of the names."""
    return hashlib.sha256("".join(f"{name} {hashes[name]}\n" for name in sorted(hashes)).encode()).hexdigest()


def _part(tensor: Tensor) -> _Part:
    local, offset = local_part(tensor)
    sums = tuple(_sums(local.detach(), offset).tolist())
    return _Part(tuple(tensor.shape), str(tensor.dtype).removeprefix("torch."), offset, local.numel(), sums)


def _sums(local: Tensor, offset: tuple[int, ...]) -> Int[Tensor, "2"]:
    while local.ndim < 2:
        local, offset = local[None], (0, *offset)
    # Wider types as several numbers of 32 bits: of the highest of 64, a sum modulo 2^64 sees next to nothing.
    width = max(1, local.element_size() // 4)
    bits = local.flatten(0, -2).contiguous().view(_INTEGERS[min(4, local.element_size())])
    offset = (*offset[:-1], offset[-1] * width)
    sums = torch.zeros(2, dtype=torch.int64, device=bits.device)
    n_columns = max(1, min(bits.shape[1], BLOCK))  # a rank may hold nothing
    n_rows = max(1, BLOCK // n_columns)
    for j in range(0, bits.shape[1], n_columns):
        columns = torch.arange(j, min(j + n_columns, bits.shape[1]), device=bits.device)
        column_keys = _keys(local.ndim - 1, columns + offset[-1])
        for i in range(0, bits.shape[0], n_rows):
            block = bits[i : i + n_rows, j : j + n_columns].long()
            rows = torch.unravel_index(torch.arange(i, i + len(block), device=bits.device), local.shape[:-1])
            row_keys = torch.stack([_keys(dim, row + offset[dim]) for dim, row in enumerate(rows)]).prod(0)
            for k in range(2):
                sums[k] += (row_keys[k] * (block * column_keys[k]).sum(1)).sum()
            advance()
    return sums


def _keys(dim: int, places: Int[Tensor, " n"]) -> Int[Tensor, "2 n"]:
    """Odd keys of places along a dimension."""
    keys = stream_key(dim, "fingerprint")
    return torch.stack([finalise(places + key, torch.empty_like(places)) for key in keys]) | 1


def _digest(parts: list[_Part]) -> str:
    shape, dtype = parts[0].shape, parts[0].dtype
    assert sum(part.n for part in parts) == prod(shape), f"{sum(part.n for part in parts)} elements of {shape} seen"
    sums = [sum(part.sums[k] for part in parts) % 2**64 for k in range(2)]
    return hashlib.sha256(f"{list(shape)} {dtype} {sums}".encode()).hexdigest()
