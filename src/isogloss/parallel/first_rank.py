"""What rank 0 does or finds, and the others take from it; in a process that is alone, just done.

Through the ranks' store where the others may wait for long, by a collective call where all are there anyway.
"""

import pickle
from collections.abc import Callable
from typing import TypeVar, cast

import torch.distributed as dist

from isogloss.parallel.env import PATIENCE, OtherRankError, Ranks

T = TypeVar("T")


def rank_0_first(ranks: Ranks, name: str, action: Callable[[], T]) -> T:
    """Let rank 0 do what the others then find done, however long it takes; each returns its own result.

    Args:
        ranks: this process.
        name: of the action, unique within the run.
        action: what to do; idempotent.

    Raises:
        OtherRankError: on the other ranks, if rank 0 has failed; its own error says why.
    """
    if ranks.store is None:
        return action()
    key = f"isogloss/{name}"
    if not ranks.first:
        ranks.store.wait([key], PATIENCE)
        if ranks.store.get(key) != b"done":
            raise OtherRankError(f"rank 0 failed ({name}); its message says why")
        return action()
    said = "failed"
    try:
        result = action()
        said = "done"
    finally:
        ranks.store.set(key, said)
    return result


def told_by_rank_0(ranks: Ranks, name: str, found: T | None) -> T:
    """What rank 0 has found, on every rank: the others make it of what they are told, and do not look for themselves.

    They go on together, or not at all. A collective call.

    Args:
        ranks: this process.
        name: of the action, unique within the run.
        found: something that can be pickled; rank 0's counts.

    Raises:
        OtherRankError: another rank has failed in making it.
    """
    if ranks.store is None:
        return cast(T, found)
    data = from_rank_0(pickle.dumps(found) if ranks.first else b"")
    words = [f"isogloss/{name}/{rank}" for rank in range(ranks.world_size)]
    said = "failed"
    try:
        result = cast(T, found if ranks.first else pickle.loads(data))
        said = "done"
    finally:
        ranks.store.set(words[ranks.rank], said)
    ranks.store.wait(words, PATIENCE)
    for rank, word in enumerate(ranks.store.multi_get(words)):
        if word != b"done":
            raise OtherRankError(f"rank {rank} failed ({name}); its message says why")
    return result


def from_rank_0(value: T) -> T:
    """What rank 0 says, on every rank; the value itself for a process that is alone. A collective call."""
    if not dist.is_initialized():
        return value
    said = [value]
    dist.broadcast_object_list(said, src=0)
    return said[0]
