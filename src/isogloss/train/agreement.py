"""What one rank knows and all must act on, at the same step: one small reduction a step.

Each rank offers what it has found, and all get the union: a signal that reached one rank, a clock that is ahead, a loss
that only one has seen rise. Without it a rank would stop to save while the others wait for it in the next step.
"""

from typing import NamedTuple

import torch
import torch.distributed as dist


class Found(NamedTuple):
    """What a rank has found after a step.

    Args:
        asked: what asks it to stop, a signal's number or ``TIME_LIMIT``; 0 for nothing.
        late: whether it is time for a checkpoint.
        spiked: whether the loss has spiked.
    """

    asked: int
    late: bool
    spiked: bool


def agree(found: Found) -> Found:
    """What any of the ranks has found, the largest of what asks them to stop; in a process alone, what it has."""
    if not (dist.is_available() and dist.is_initialized()):
        return found
    numbers = torch.tensor(list(map(int, found)))  # on the CPU: the process group has gloo beside NCCL
    dist.all_reduce(numbers, dist.ReduceOp.MAX)
    asked, late, spiked = numbers.tolist()
    return Found(asked, bool(late), bool(spiked))
