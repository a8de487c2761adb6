"""Ranks for tests: processes forked from a server that has imported PyTorch once, for that is what costs time."""

import multiprocessing
import os
import socket
import sys
import tempfile
import traceback
from collections.abc import Callable
from multiprocessing.process import BaseProcess

CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(
    [
        "isogloss.run.train",
        "isogloss.cli",
        "matplotlib.backends.backend_agg",
        "torch.distributed.fsdp",
        "torch.distributed.tensor",
        "torch._dynamo",
        "pytest",
    ]
)


def start(job: Callable[..., None], n_ranks: int, *arguments: object, launched: bool = False) -> list[BaseProcess]:
    """Start ``job(rank, n_ranks, *arguments)`` on some ranks of a gloo group; the job is a function of a module.

    If ``launched``, the ranks find a launcher's variables instead, and make the group themselves.
    """
    store = str(_free_port()) if launched else tempfile.mktemp(prefix="ranks-")  # made by the first to come
    be = _be_launched if launched else _be_a_rank
    processes = [CONTEXT.Process(target=be, args=(job, rank, n_ranks, store, arguments)) for rank in range(n_ranks)]
    for process in processes:
        process.start()
    return processes


def run(job: Callable[..., None], n_ranks: int, *arguments: object) -> None:
    """Run a job on some ranks to its end; each must succeed."""
    processes = start(job, n_ranks, *arguments)
    assert end(processes) == [0] * n_ranks


def end(processes: list[BaseProcess], seconds: float = 120) -> list[int | None]:
    """Wait for ranks, killing those that take too long, and return their exit codes."""
    for process in processes:
        process.join(seconds)
    for process in processes:
        if process.is_alive():
            process.kill()
            process.join()
    return [process.exitcode for process in processes]


def _free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


def _be_launched(job: Callable[..., None], rank: int, n_ranks: int, port: str, arguments: tuple) -> None:
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(n_ranks)}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    _do(lambda: job(rank, n_ranks, *arguments))


def _be_a_rank(job: Callable[..., None], rank: int, n_ranks: int, store: str, arguments: tuple) -> None:
    import torch.distributed as dist

    def work() -> None:
        dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=n_ranks)
        job(rank, n_ranks, *arguments)
        dist.barrier()
        dist.destroy_process_group()

    _do(work)


def _do(work: Callable[[], None]) -> None:
    import torch

    torch.set_num_threads(1)
    try:
        work()
    except BaseException:
        traceback.print_exc()
        sys.stderr.flush()
        os._exit(1)
    os._exit(0)  # gloo's threads may abort an ordinary exit
