"""The loss of a head that is split by vocabulary: each rank sees the logits of its own ids only, and none is gathered.

``lse = m + log sum_r sum_v exp(l_v - m)`` over ranks r and their ids v, m the largest logit of all; the target's logit
comes from the one rank that has it. Two numbers a position and its maximum go between ranks (Shoeybi et al. 2019,
section 3).
"""

import torch
import torch.distributed as dist
from jaxtyping import Float, Int
from torch import Tensor
from torch.distributed._functional_collectives import all_reduce

from isogloss.nn.softcap import softcap


class VocabularyLoss:
    """``chunk_loss`` (`isogloss.nn.loss`) over the ranks of a group, which hold equal parts of the vocabulary in order.

    Args:
        group: the ranks of the tensor axis.
        vocab_size: V, of all of them.
    """

    def __init__(self, group: dist.ProcessGroup, vocab_size: int) -> None:
        self._group = group
        # As torch.chunk does: all but the last have the same, which may leave the last ones less or nothing.
        self._first = min(vocab_size, dist.get_rank(group) * -(-vocab_size // group.size()))

    def __call__(
        self, logits: Float[Tensor, "n v"], targets: Int[Tensor, " n"], ignored: int, cap: float | None, z_loss: float
    ) -> tuple[Float[Tensor, ""], Float[Tensor, ""], Float[Tensor, "n v"]]:
        """The negative log-likelihood and the z-loss, equal on all ranks; their sum's gradient by these logits."""
        logits = logits.float()
        n, n_ids = logits.shape
        capped = logits if cap is None else softcap(logits, cap)
        largest = capped.amax(1) if n_ids else capped.new_full((n,), float("-inf"))
        largest = all_reduce(largest, "max", self._group)
        counts = targets != ignored
        places = torch.where(counts, targets, 0) - self._first
        columns = torch.arange(n_ids, device=logits.device)
        here = columns == places[:, None]
        sums = torch.stack([(capped - largest[:, None]).exp().sum(1), torch.where(here, capped, 0.0).sum(1)])
        exponentials, of_target = all_reduce(sums, "sum", self._group).unbind()
        log_sum = largest + exponentials.log()
        nll = torch.where(counts, log_sum - of_target, 0.0).sum()
        z = torch.where(counts, z_loss * log_sum.square(), 0.0).sum()
        log_sum = log_sum[:, None]
        gradient = (capped - log_sum).exp() * (1 + 2 * z_loss * log_sum) - here.float()
        if cap is not None:
            gradient = gradient * (1 - (capped / cap).square())
        return nll, z, torch.where(counts[:, None], gradient, 0.0)
