"""Worker processes that prepare a corpus: few tasks under way at a time (`isogloss.workers`)."""

import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from itertools import islice
from typing import TypeVar

from isogloss.config.base import UserError
from isogloss.workers import create_pool

Task = TypeVar("Task")
Result = TypeVar("Result")


def count_cores() -> int:
    """Those that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class Workers:
    """Some processes, or with ``n`` = 0 this one alone.

    Args:
        n: how many.
        pool: they, or None.
    """

    def __init__(self, n: int, pool: ProcessPoolExecutor | None):
        self.n = n
        self._pool = pool

    def run(self, function: Callable[[Task], Result], tasks: Iterable[Task]) -> Iterator[tuple[Task, Result]]:
        """What a function of a module gives for each task, as they end.

        Raises:
            UserError: a process was killed; else whatever the function raises.
        """
        if self._pool is None:
            for task in tasks:
                yield task, function(task)
            return
        waiting = iter(tasks)
        running: dict[Future[Result], Task] = {}
        try:
            while True:
                # One more than there are processes, so that none waits for this one.
                for task in islice(waiting, self.n + 1 - len(running)):
                    running[self._pool.submit(function, task)] = task
                if not running:
                    return
                for future in wait(running, return_when=FIRST_COMPLETED).done:
                    yield running.pop(future), future.result()
        except BrokenProcessPool:
            raise UserError(
                "a process that prepares the text was killed, perhaps for want of memory; use fewer workers. "
                "What is done is kept: the same command goes on"
            ) from None


@contextmanager
def start_workers(n: int) -> Iterator[Workers]:
    """Processes for as long as the block lasts; they start with the first task, and are killed if it fails."""
    if n == 0:
        yield Workers(0, None)
        return
    pool = create_pool(n, _begin)
    try:
        yield Workers(n, pool)
    except BaseException:
        for process in list((pool._processes or {}).values()):
            process.kill()
        raise
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _begin() -> None:
    # A worker has one core: the threads of Rust's libraries would only get in each other's way.
    os.environ["RAYON_NUM_THREADS"] = "1"
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
