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
CORNER = 64
"""The same for sharded parameters: rows and columns of a corner."""
CHUNK = 2**22


def sidak(n_tests: int, error: float = FAMILY_WISE_ERROR) -> float:
    """The two-sided threshold of z that ``n_tests`` true hypotheses together exceed with the probability ``error``."""
    return NormalDist().inv_cdf(1 - (1 - (1 - error) ** (1 / max(n_tests, 1))) / 2)


def row_hashes(local: Tensor) -> Tensor:
    """A 64-bit hash of each row of a matrix; none for a vector, or where columns are too few to tell rows apart."""
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
    """Among sketches of parameters of mean 0, in pairs, over the elements that both have; ``z = sqrt(n) r``.

    Args:
        sketches: vectors, with NaN for elements that a parameter does not have; short ones end in such.
        threshold: of z.
    """
    if not sketches:
        return
    names = list(sketches)
    x = torch.nn.utils.rnn.pad_sequence(
        [sketches[name].double() for name in names], batch_first=True, padding_value=math.nan
    )
    has = (~x.isnan()).double()
    x = x.nan_to_num(0.0)
    n, squares = has @ has.T, x.square() @ has.T
    r = (x @ x.T) / (squares * squares.T).sqrt().clamp_min(1e-300)
    z = (n.sqrt() * r).tril(-1)
    for i, j in (z.abs() > threshold).nonzero().tolist():
        yield Correlated(names[i], names[j], float(r[i, j]), float(z[i, j]))


def corner(local: Tensor, offset: tuple[int, ...]) -> Tensor:
    """The top left corner of a matrix, ``CORNER`` squared, flat; NaN where there is nothing, or another rank holds it.

    By row and column, as the generator counts: a key used twice shows between matrices of different widths. Of more
    dimensions the first matrix, of fewer a column.
    """
    found = torch.full((CORNER, CORNER), math.nan)
    while local.ndim > 2 and local.numel():
        if offset[0]:
            return found.flatten()
        local, offset = local[0], offset[1:]
    matrix = (local if local.ndim == 2 else local.reshape(-1, 1)).detach()
    top, left = (*offset, 0, 0)[:2]
    part = matrix[: max(0, CORNER - top), : max(0, CORNER - left)]
    if part.numel():
        found[top : top + part.shape[0], left : left + part.shape[1]] = part.float().cpu()
    return found.flatten()
