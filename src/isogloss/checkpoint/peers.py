"""The processes that save and load together: what one of them knows, or fails at, all of them know.

Messages are JSON in byte tensors over a gloo group of its own. PyTorch's ``gather_object`` would pickle them, and on
the training's group a background thread's messages would be taken for the training's.
"""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist

from isogloss.config.base import UserError


class Peers:
    """A group of processes; without one, this process alone.

    Args:
        group: gloo, of all ranks; ``None`` for a process on its own.
    """

    def __init__(self, group: dist.ProcessGroup | None = None) -> None:
        self._group = group
        self.rank = 0 if group is None else dist.get_rank(group)
        self.n_ranks = 1 if group is None else dist.get_world_size(group)

    def gather(self, value: Any) -> list[Any]:
        """What every rank gives, in order of rank, on every rank. Collective; values are JSON's."""
        if self._group is None:
            return [value]
        data = torch.frombuffer(bytearray(json.dumps(value).encode()), dtype=torch.uint8)
        lengths = [torch.zeros(1, dtype=torch.int64) for _ in range(self.n_ranks)]
        dist.all_gather(lengths, torch.tensor([len(data)]), group=self._group)
        longest = max(int(length) for length in lengths)
        padded = torch.zeros(longest, dtype=torch.uint8)
        padded[: len(data)] = data
        found = [torch.zeros(longest, dtype=torch.uint8) for _ in range(self.n_ranks)]
        dist.all_gather(found, padded, group=self._group)
        return [json.loads(text[: int(length)].numpy().tobytes()) for text, length in zip(found, lengths, strict=True)]

    def all(self, here: bool) -> bool:
        """Whether it is so on every rank. Collective."""
        if self._group is None:
            return here
        flag = torch.tensor([int(here)])
        dist.all_reduce(flag, dist.ReduceOp.MIN, group=self._group)
        return bool(flag)

    @contextmanager
    def together(self, kind: type[UserError]) -> Iterator[None]:
        """A stretch that succeeds on all ranks or fails on all of them. Collective.

        Raises:
            kind: what another rank failed at.
            Exception: what this one did, whatever it was.
        """
        failure: Exception | None = None
        try:
            yield
        except Exception as error:  # of any kind: the others would wait for this rank
            failure = error
        failures = self.gather(None if failure is None else str(failure) or type(failure).__name__)
        if failure is not None:
            raise failure
        for rank, text in enumerate(failures):
            if text is not None:
                raise kind(text if text.startswith("rank ") else f"rank {rank}: {text}")


ALONE = Peers()


def join_peers(patience: timedelta | None = None) -> Peers:
    """All ranks, with messages of their own; this process alone where there is no process group. Collective.

    Args:
        patience: how long one of them waits for the others in any exchange; PyTorch's own limit, half an hour, if not
            given.
    """
    if not (dist.is_available() and dist.is_initialized()):
        return ALONE
    group = dist.new_group(backend="gloo", timeout=patience)
    assert isinstance(group, dist.ProcessGroup)  # of all ranks, so of this one
    return Peers(group)
