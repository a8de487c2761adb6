"""Ranks for tests: processes forked from a server that has imported PyTorch once, for that is what costs time."""

import faulthandler
import itertools
import multiprocessing
import os
import signal
import socket
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from multiprocessing.process import BaseProcess

CONTEXT = multiprocessing.get_context("forkserver")
# Below those that the system gives to sockets that ask for none: nobody takes one between our look and the rank that
# listens there, nor those that follow it, where a job makes one group after the other. Each process has its own.
_PORTS = itertools.cycle(range(10_000 + os.getpid() % 200 * 100, 10_000 + os.getpid() % 200 * 100 + 100, 4))
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
    store = str(free_port()) if launched else tempfile.mktemp(prefix="ranks-")  # made by the first to come
    be = _be_launched if launched else _be_a_rank
    processes = [CONTEXT.Process(target=be, args=(job, rank, n_ranks, store, arguments)) for rank in range(n_ranks)]
    for process in processes:
        process.start()
    return processes


def run(job: Callable[..., None], n_ranks: int, *arguments: object) -> None:
    """Run a job on some ranks to its end; each must succeed."""
    processes = start(job, n_ranks, *arguments)
    assert end(processes) == [0] * n_ranks


def end(processes: list[BaseProcess], seconds: float = 300) -> list[int | None]:
    """Wait for ranks, and return their exit codes; those that take too long say where they are, and are killed."""
    deadline = time.monotonic() + seconds
    for process in processes:
        process.join(max(0.0, deadline - time.monotonic()))
    stuck = [process for process in processes if process.is_alive()]
    for process in stuck:
        assert process.pid is not None
        os.kill(process.pid, signal.SIGABRT)  # on which `faulthandler` prints what each thread does
    for process in stuck:
        process.join(10)
        process.kill()
        process.join()
    return [process.exitcode for process in processes]


def free_port() -> int:
    """A port, followed by three more, that nobody listens on."""
    for port in itertools.islice(_PORTS, 25):
        try:
            for number in range(port, port + 4):
                with socket.socket() as found:
                    found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as who listens there does
                    found.bind(("", number))
        except OSError:
            continue
        return port
    raise AssertionError("no free ports")


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
    faulthandler.enable()
    try:
        work()
    except BaseException:
        traceback.print_exc()
        sys.stderr.flush()
        os._exit(1)
    os._exit(0)  # gloo's threads may abort an ordinary exit
