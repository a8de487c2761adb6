"""Numbers that occur twice: equal rows, and parameters that are correlated.

A reused key or seed, ``manual_seed`` in a constructor, one draw for every shard: all leave standard deviations as they
should be, and are seen only here.
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from statistics import NormalDist

import torch
from torch import Tensor

FAMILY_WISE_ERROR = 1e-3
SKETCH = 4096
"""Elements of each parameter whose correlation with the others' is taken."""
CHUNK = 2**22


def sidak(n_tests: int, error: float = FAMILY_WISE_ERROR) -> float:
    """The two-sided threshold of z that ``n_tests`` true hypotheses together exceed with the probability ``error``."""
    return NormalDist().inv_cdf(1 - (1 - (1 - error) ** (1 / max(n_tests, 1))) / 2)


def row_hashes(local: Tensor) -> Tensor:
    """A 64-bit hash of each row of a matrix; none for what has too few columns to be told apart."""
    if local.ndim < 2 or local.numel() == 0 or local.shape[-1] < 4:
        return torch.empty(0, dtype=torch.int64)
    rows = local.detach().flatten(0, -2)
    generator = torch.Generator().manual_seed(0)
    factors = torch.randint(-(2**63), 2**63 - 1, (rows.shape[1],), generator=generator).to(rows.device)
    hashes = [
        (part.float().contiguous().view(torch.int32).long() * factors).sum(1)
        for part in rows.split(max(1, CHUNK // rows.shape[1]))
    ]
    return torch.cat(hashes).cpu()


def n_repeated(hashes: Tensor) -> int:
    """How many rows are repetitions of others."""
    return len(hashes) - len(hashes.unique())


@dataclass(frozen=True)
class Correlated:
    """Two parameters whose beginnings are more alike than chance allows: the later, the earlier, r and its z."""

    parameter: str
    other: str
    r: float
    z: float


def correlated_pairs(sketches: Mapping[str, Tensor], threshold: float) -> Iterator[Correlated]:
    """Among the beginnings of parameters of mean 0, in pairs, over as many elements as both have; ``z = sqrt(n) r``."""
    for length in {len(sketch) for sketch in sketches.values()}:
        names = [name for name, sketch in sketches.items() if len(sketch) >= length]
        x = torch.nan_to_num(torch.stack([sketches[name][:length] for name in names]).double())
        x = x / x.norm(dim=1, keepdim=True).clamp_min(1e-300)
        z = (x @ x.T).tril(-1) * math.sqrt(length)
        for i, j in (z.abs() > threshold).nonzero().tolist():
            a, b, found = names[j], names[i], float(z[i, j])
            if min(len(sketches[a]), len(sketches[b])) == length:
                yield Correlated(b, a, found / math.sqrt(length), found)
