"""Copied numbers anywhere among a model's parameters, from a sample of short runs whose size does not grow with it.

A run is ``RUN`` elements in a row or a column. It is sampled where its middle two are nearly equal in magnitude, and of
those by its hash: a copy is sampled where the original is, wherever it stands. The hash is taken of the magnitudes over
the run's own root mean square, on a logarithmic grid, from whichever end gives the larger hash. So it is the same for
copies that are shifted, transposed, reversed, scaled or of other signs, in any precision. All runs of all parameters
meet in one table; runs over the border of a shard are left out.

Two runs of independent elements agree with a probability near 2^-45; three between the same two parameters are a copy.
"""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

RUN = 10
N_RUNS = 2**18
"""Sampled of a whole model, about."""
DENSEST = 1 / 32
"""Sampled of a small model's elements, at most."""
LEAST = 3
"""Runs in common that are no coincidence."""
BLOCK = 2**16  # of a processor's cache
# Of neighbours that are equal to a share of w, a normal distribution has 2 w / pi. Narrower shares than this would
# depend on the rounding of low precision.
_NARROWEST = 1 / 32
_GRID = 16  # steps an octave
_FLOOR = 2.0**-12


@dataclass(frozen=True)
class Runs:
    """The sampled runs of a local shard: their hashes, and the flat places of their first middle elements."""

    hashes: Int[Tensor, " n"]
    places: Int[Tensor, " n"]


@dataclass(frozen=True)
class CopiedRuns:
    """Numbers of a parameter that stand in an earlier one, or earlier in the same one.

    Args:
        name: of the parameter.
        other: the parameter that has them too.
        n_common: how many of its sampled runs stand there.
        n_runs: how many were sampled.
        place, other_place: indices of one common run.
    """

    name: str
    other: str
    n_common: int
    n_runs: int
    place: tuple[int, ...]
    other_place: tuple[int, ...]


def run_density(n_elements: int) -> float:
    """The share of a model's elements at which a run is sampled, in each direction."""
    return min(DENSEST, N_RUNS / max(n_elements, 1) / 2)


def sample_runs(local: Tensor, density: float) -> Runs:
    """Sample runs along the last dimension and across it; in memory for ``BLOCK`` elements and the runs."""
    flat = local.detach().reshape(-1)
    width = local.shape[-1] if local.ndim else 1
    near = max(_NARROWEST, density * math.pi / 2)
    limit = int(min(1.0, density * math.pi / 2 / near) * 2.0**62)
    hashes, places = [], []
    for stride in sorted({1, width} if flat.numel() else ()):
        ahead, behind = RUN // 2, RUN // 2 - 1
        first, end = behind * stride, flat.numel() - ahead * stride
        for start in range(first, end, BLOCK):
            stop = min(start + BLOCK, end)
            ratio = flat[start:stop].float() / flat[start + stride : stop + stride].float()
            middle = (ratio.abs_().sub_(1).abs_() < near).nonzero()[:, 0] + start  # never where both are 0
            steps = torch.arange(-behind, ahead + 1, device=flat.device) * stride
            found = _hashes(flat[middle[:, None] + steps].float())
            kept = found >> 1 < limit
            hashes.append(found[kept].cpu())
            places.append(middle[kept].cpu())
    empty = torch.empty(0, dtype=torch.int64)
    return Runs(torch.cat([empty, *hashes]), torch.cat([empty, *places]).to(_index_dtype(flat.numel())))


def find_copies(runs: Mapping[str, Sequence[tuple[Runs, tuple[int, ...], tuple[int, ...]]]]) -> list[CopiedRuns]:
    """Copies between and within parameters.

    Args:
        runs: by parameter, in the order in which the earlier one counts as the original; of each shard its runs, its
            offset and its shape.

    Returns:
        At most one for each parameter, with the one that it has most in common with.
    """
    names = list(runs)
    shards = [(index, *shard) for index, name in enumerate(names) for shard in runs[name]]
    if not shards:
        return []
    hashes = torch.cat([found.hashes for _, found, _, _ in shards])
    sizes = torch.tensor([len(found.hashes) for _, found, _, _ in shards])
    shard_of = torch.arange(len(shards)).repeat_interleave(sizes)
    place_in = torch.cat([found.places.long() for _, found, _, _ in shards])
    _, group = hashes.unique(return_inverse=True)
    order = group.argsort(stable=True)
    group = group[order]
    begins = torch.cat([torch.ones(1, dtype=torch.bool), group[1:] != group[:-1]])[: len(group)]
    originals = order[begins][group]
    common: Counter[tuple[int, int]] = Counter()
    example: dict[tuple[int, int], tuple[int, int]] = {}
    repeated = ~begins
    for copy, original in zip(order[repeated].tolist(), originals[repeated].tolist(), strict=True):
        pair = (shards[int(shard_of[copy])][0], shards[int(shard_of[original])][0])
        common[pair] += 1
        example.setdefault(pair, (copy, original))

    def where(run: int) -> tuple[int, ...]:
        _, _, offset, shape = shards[int(shard_of[run])]
        local = torch.unravel_index(place_in[run], shape) if shape else ()
        return tuple(o + int(i) for o, i in zip(offset, local, strict=True))

    n_runs: Counter[int] = Counter()
    for (index, *_), size in zip(shards, sizes.tolist(), strict=True):
        n_runs[index] += size
    best: dict[int, CopiedRuns] = {}
    for (index, other), n in common.most_common():
        if n >= LEAST and index not in best:
            copy, original = example[index, other]
            best[index] = CopiedRuns(names[index], names[other], n, n_runs[index], where(copy), where(original))
    return [best[index] for index in sorted(best)]


def _hashes(runs: Float[Tensor, "n run"]) -> Int[Tensor, " n"]:
    """Of 63 bits, the same for a run, its reverse, its multiples, and other signs."""
    size = runs.nan_to_num(0.0, 0.0, 0.0).abs()
    size = size / size.square().mean(1, keepdim=True).sqrt().clamp_min(torch.finfo(torch.float32).tiny)
    grid = (size.clamp_min(_FLOOR).log2() * _GRID).floor().long()
    generator = torch.Generator().manual_seed(0)
    factors = torch.randint(-(2**63), 2**63 - 1, (RUN,), generator=generator).to(runs.device)
    mask = 2**63 - 1
    return torch.maximum((grid * factors).sum(1) & mask, (grid * factors.flip(0)).sum(1) & mask)


def _index_dtype(n: int) -> torch.dtype:
    return torch.int32 if n < 2**31 else torch.int64
