"""What one rank knows and all must act on, at the same step: one small reduction a step.

Each rank offers a number, and all get the largest: a signal that reached one rank, a clock that is ahead, a loss that
only one has seen rise. Without it a rank would stop to save while the others wait for it in the next step.
"""

import torch
import torch.distributed as dist


def agree(offered: int) -> int:
    """The largest of what the ranks offer, each 0 or above; in a process alone, what it offers."""
    if not many_ranks():
        return offered
    number = torch.tensor(offered)  # on the CPU: the process group has gloo beside NCCL
    dist.all_reduce(number, dist.ReduceOp.MAX)
    return int(number)


def many_ranks() -> bool:
    """Whether there is a process group of more than one."""
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1
