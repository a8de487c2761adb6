"""When one rank fails all of them fail, each in its own words; only the first is to be heard.

The first rank whose error reaches this place writes its number into the ranks' store, and lets the error go on to
whoever prints it. Ranks that come later wait, in silence, for the launcher to end them. An error that only says that
another rank has gone waits first: that rank's own error, or the launcher's word on how it died, says more.
"""

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager

import torch.distributed as dist
from torch.distributed.distributed_c10d import Store

from isogloss.exit_codes import DEFECT
from isogloss.parallel.env import OtherRankError, Ranks
from isogloss.streams import let_out
from isogloss.train.signals import OUTCOME

_DEFERENCE = 3.0
# `isogloss launch` kills within 5 s what has not ended by itself: a rank may have taken its SIGTERM, which came while
# it computed, for a request to save.
_LAUNCHERS = 8.0
_GRACE = 10.0


@contextmanager
def first_error(ranks: Ranks) -> Iterator[None]:
    """Within it, an error on a rank of many is raised if it is the first; else the process waits and ends, code 1."""
    try:
        yield
    except Exception as error:
        if ranks.store is None:
            raise
        if of_another(error):
            # A launcher that has seen a rank die ends this one meanwhile.
            time.sleep(_LAUNCHERS if OUTCOME in os.environ else _DEFERENCE)
        if not _first(ranks.store, ranks.rank):
            time.sleep(_GRACE)
            let_out()
            os._exit(DEFECT)
        error.add_note(f"(on rank {ranks.rank} of {ranks.world_size})")
        raise


def of_another(error: BaseException) -> bool:
    """Whether an error only says that another rank, or the connection to it, is gone."""
    words = ("gloo", "nccl", "connection closed", "connection reset", "broken pipe")
    if isinstance(error, OtherRankError | dist.DistError):
        return True
    text = str(error).lower()
    chained = error.__cause__ or error.__context__
    here = isinstance(error, RuntimeError) and any(word in text for word in words)
    return here or (chained is not None and of_another(chained))


def _first(store: Store, rank: int) -> bool:
    try:
        return store.compare_set("first error", "", str(rank)) == str(rank).encode()
    except RuntimeError:  # the store has gone with its host, who was first
        return False
