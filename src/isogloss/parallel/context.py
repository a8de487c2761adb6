"""Context parallelism: ranks share each row by its positions; every query meets the keys and values of all of them.

A row is cut into 2n pieces, and of n ranks rank i takes pieces i and 2n-1-i: with a causal mask all then have the same
to do (Grattafiori et al. 2024, section 3.3.2). Masks are made from positions and documents, so any cut is right.
"""

from typing import Protocol, runtime_checkable

import torch
import torch.distributed as dist
from jaxtyping import Int
from torch import Tensor
from torch.distributed._functional_collectives import wait_tensor

from isogloss.config.base import UserError
from isogloss.mixers.attention import Attention
from isogloss.models.decoder import Decoder
from isogloss.models.protocol import Batch
from isogloss.parallel.mesh import Layout

try:
    from torch.distributed._functional_collectives import all_gather_single_autograd as _all_gather
except ImportError:  # its name before torch 2.13
    from torch.distributed._functional_collectives import all_gather_tensor_autograd as _all_gather


def share_rows(model: Decoder, group: dist.ProcessGroup) -> None:
    """Let a model's mixers see the positions that the other ranks of the context axis hold.

    Raises:
        UserError: a mixer cannot.
    """

    def gather(x: Tensor, dim: int) -> Tensor:
        # Not torch.distributed.nn's: on gloo its gradients are wrong where they are not contiguous, silently.
        return wait_tensor(_all_gather(x.contiguous(), dim, group))

    for index, block in enumerate(model.blocks()):
        if not isinstance(block.mixer, Attention):
            raise UserError(
                f"parallel.context: the mixer of layer {index} ({block.mixer.config.type}) cannot share a row between "
                "ranks; set parallel.context=1"
            )
        block.mixer.gather = gather


def positions_of(rank: int, n_ranks: int, seq_len: int) -> Int[Tensor, " t"]:
    """The positions that a rank of the context axis holds, rising."""
    size, rest = divmod(seq_len, 2 * n_ranks)
    assert rest == 0, "check_axes has refused this"
    pieces = (rank, 2 * n_ranks - 1 - rank)
    return torch.cat([torch.arange(piece * size, (piece + 1) * size) for piece in pieces])


def share_of(batch: Batch, layout: Layout | None) -> Batch:
    """What this rank reads of its rows: all of them where the context axis has one rank."""
    if layout is None or layout.axes.context == 1:
        return batch
    positions = positions_of(layout.context_rank, layout.axes.context, batch.tokens.shape[1])

    def mine(x: Tensor) -> Tensor:
        return x[:, positions]

    documents = None if batch.documents is None else mine(batch.documents)
    return Batch(mine(batch.tokens), mine(batch.targets), documents, positions)


@runtime_checkable
class SharedRows(Protocol):
    """Where ranks get their rows from (`isogloss.data.loader.Loader`)."""

    def batch(self, step: int, rank: int = 0, world_size: int = 1) -> Batch:
        """One of ``world_size`` equal shares of the batch of a step."""
        ...


class RankBatches:
    """This rank's share of every step's batch: some of its rows, or of each row some positions."""

    def __init__(self, loader: SharedRows, layout: Layout) -> None:
        self._loader, self._layout = loader, layout

    def batch(self, step: int) -> Batch:
        """The share of a step, from 0."""
        rows = self._loader.batch(step, self._layout.data_rank, self._layout.axes.data)
        return share_of(rows, self._layout)
