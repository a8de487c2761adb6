"""Which rank this process is, and the process group: from torchrun's or SLURM's variables, or none at all.

A process that no launcher has started is alone: ``torch.distributed`` is not initialised for it. gloo on CPUs; NCCL
on GPUs, beside gloo for what is on the CPU.
"""

import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta

import torch
import torch.distributed as dist
from torch.distributed.distributed_c10d import PrefixStore, Store

from isogloss.config.base import UserError
from isogloss.exit_codes import HUNG
from isogloss.streams import let_out
from isogloss.workers import end_with_parent

TIMEOUT = timedelta(minutes=10)
"""How long a collective call waits for the other ranks."""
PATIENCE = timedelta(days=7)
"""How long ranks wait where the watchdog alone decides: for what rank 0 does alone, such as preparing a corpus, and for
each other's files of a checkpoint."""

LAUNCHER = "ISOGLOSS_LAUNCHER"
"""The variable in which ``isogloss launch local`` tells its ranks the number of its process."""


@dataclass(frozen=True)
class Ranks:
    """This process among the others of the run.

    Args:
        rank: its number, from 0.
        local_rank: its number on its machine, and that of its GPU.
        world_size: how many there are.
        store: what they rendezvous through; ``None`` for a process that is alone.
    """

    rank: int
    local_rank: int
    world_size: int
    store: Store | None = field(default=None, compare=False, repr=False)

    @property
    def first(self) -> bool:
        """Whether this is the rank that writes and shows."""
        return self.rank == 0


ALONE = Ranks(0, 0, 1)


def find_ranks(environment: Mapping[str, str] = os.environ) -> Ranks:
    """Who this process is, by torchrun's variables, else by those of a SLURM step (``srun``), else alone.

    Raises:
        UserError: a variable that goes with the others is missing, no number, or out of range.
    """
    for names in (
        ("RANK", "LOCAL_RANK", "WORLD_SIZE"),
        # Not SLURM_NTASKS: a batch script has it too, and is one process.
        ("SLURM_PROCID", "SLURM_LOCALID", "SLURM_STEP_NUM_TASKS"),
    ):
        if names[0] in environment and names[2] in environment:
            try:
                rank, local_rank, world_size = (int(environment[name]) for name in names)
                if local_rank < 0 or not 0 <= rank < world_size:
                    raise ValueError
            except (KeyError, ValueError):
                said = ", ".join(f"{name}={environment.get(name, '')!r}" for name in names)
                raise UserError(f"{said}: these are not a launcher's numbers; unset them") from None
            return Ranks(rank, local_rank, world_size)
    return ALONE


def find_gpu(ranks: Ranks, n_gpus: int, environment: Mapping[str, str] = os.environ) -> torch.device:
    """The GPU of this rank: that of its number on its machine, or the only one that SLURM lets it see.

    Args:
        ranks: this process.
        n_gpus: how many GPUs it sees.
        environment: of the process.

    Raises:
        UserError: there are not as many GPUs as ranks here.
    """
    index = ranks.local_rank
    if n_gpus == 1 and "RANK" not in environment:  # started by srun, which can bind each rank to its own
        index = 0
    if index >= n_gpus:
        raise UserError(
            f"rank {ranks.rank} is number {index} on its machine, counted from 0, where PyTorch sees {n_gpus} GPUs; "
            "start one rank for each, or train on CPUs with train.device=cpu"
        )
    return torch.device("cuda", index)


def started_again(environment: Mapping[str, str] = os.environ) -> bool:
    """Whether torchrun, or ``isogloss launch local``, has started these ranks again after one had failed."""
    return environment.get("TORCHELASTIC_RESTART_COUNT", "0") != "0"


class OtherRankError(UserError):
    """Another rank has failed, and tells why."""


class MissingRankError(UserError):
    """Some ranks have not come; started again, all may."""

    exit_code = HUNG
    """That of `isogloss.train.watchdog`: a rank that waited in vain."""


@contextmanager
def process_group(device: str, timeout: timedelta = TIMEOUT, arrival: timedelta = TIMEOUT) -> Iterator[Ranks]:
    """The process group of the run while it lasts; nothing for a process that is alone.

    At a clean end the ranks wait for each other and leave together. After an error the group is left as it is: to
    tear it down would wait for ranks that hang. The launcher ends them.

    Args:
        device: ``cpu`` or ``cuda``.
        timeout: how long a collective call waits for the other ranks.
        arrival: how long this rank waits for the others to start.

    Raises:
        MissingRankError: they have not.
    """
    ranks = find_ranks()
    if "TORCHELASTIC_RUN_ID" in os.environ:
        launcher = os.environ.get(LAUNCHER, "")
        end_with_parent(int(launcher) if launcher.isdecimal() else None)  # torchrun's workers would train on as orphans
    if ranks.world_size == 1:
        yield ranks
        return
    bound = find_gpu(ranks, torch.cuda.device_count()) if device == "cuda" else None
    if bound is not None:
        torch.cuda.set_device(bound)
    store = _rendezvous(ranks, arrival)
    store.set_timeout(timeout)
    dist.init_process_group(
        "cpu:gloo,cuda:nccl" if device == "cuda" else "gloo",
        store=store,
        rank=ranks.rank,
        world_size=ranks.world_size,
        timeout=timeout,
        device_id=bound,
    )
    ranks = Ranks(ranks.rank, ranks.local_rank, ranks.world_size, store)
    yield ranks
    wait_for_all(ranks)
    dist.destroy_process_group()
    let_out()


def wait_for_all(ranks: Ranks) -> None:
    """Go on when all ranks have come here. A collective call."""
    if ranks.store is not None:
        dist.barrier()


def _rendezvous(ranks: Ranks, timeout: timedelta) -> Store:
    """The ranks' store, anew for each attempt of an elastic launch.

    torchrun keeps one store over its restarts: without the prefix, workers would read the addresses of the former
    attempt's.
    """
    environment = os.environ
    host, port = environment.get("MASTER_ADDR"), environment.get("MASTER_PORT")
    if host is None and "SLURM_STEP_NODELIST" in environment:
        host = first_host(environment["SLURM_STEP_NODELIST"])
        # Between 15000 and 24999, the same for all of a job.
        port = port or str(15_000 + int(environment.get("SLURM_JOB_ID", "0")) % 10_000)
    if host is None or port is None:
        raise UserError(
            f"this is rank {ranks.rank} of {ranks.world_size}, but MASTER_ADDR and MASTER_PORT do not say where rank 0 "
            "is; launch with torchrun or srun, or unset RANK and WORLD_SIZE"
        )
    hosted = environment.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
    tcp = dist.TCPStore  # pyright: ignore[reportPrivateImportUsage]
    try:
        store = tcp(host, int(port), ranks.world_size, ranks.first and not hosted, timeout)
    except (dist.DistStoreError, dist.DistNetworkError) as error:
        waited, why = timeout.total_seconds(), str(error).partition("\n")[0]
        raise MissingRankError(
            f"rank {ranks.rank} of {ranks.world_size} has waited {waited:.0f} s (parallel.timeout) for the others at "
            f"{host}:{port}: {why}. See whether all ranks have been started, and reach that address"
        ) from error
    return PrefixStore(f"attempt{environment.get('TORCHELASTIC_RESTART_COUNT', '0')}", store)


def first_host(nodes: str) -> str:
    """The first host of SLURM's list, such as ``node[003-007,9],other``."""
    head = re.match(r"([^\[,]+)(?:\[([^\],-]+)[^\]]*\]([^,]*))?", nodes)
    if head is None:
        raise UserError(f"SLURM_STEP_NODELIST is {nodes!r}: it names no host; set MASTER_ADDR")
    return "".join(part or "" for part in head.groups())
