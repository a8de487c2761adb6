"""Batches made ahead by a thread, so that a step need not wait for its data.

What is read is decided by the step alone, so nothing depends on how far ahead the thread is.
"""

import queue
import threading
from types import TracebackType
from typing import Protocol, runtime_checkable

import torch

from isogloss.models.protocol import Batch

_WAIT = 0.1
"""Seconds after which the thread, waiting for room, looks whether it is to end."""


@runtime_checkable
class Batches(Protocol):
    """What has a batch for every step (`isogloss.data.loader.Loader`, or one rank's share of it)."""

    def batch(self, step: int) -> Batch:
        """The batch of a step, from 0."""
        ...


class Prefetcher:
    """Batches, step after step, some of them made ahead.

    Asked for another step than the next one, it begins anew from there. An error in the thread is raised by ``batch``,
    at its step. It ends with its ``with`` block, or by ``close``.

    Args:
        batches: what makes them; not to be used by others meanwhile if it reads sequentially.
        depth: how many may wait.
        last_step: the step before which making ahead ends; ``None``: never. It may be set anew, later ones are made
            when they are asked for.
        pinned: put them into page-locked memory, from which a GPU copies while it computes.
    """

    def __init__(
        self,
        batches: Batches,
        depth: int = 2,
        last_step: int | None = None,
        pinned: bool = False,
    ) -> None:
        assert depth >= 1
        self._batches, self._depth, self._pinned = batches, depth, pinned
        self.last_step = last_step
        self._thread: threading.Thread | None = None
        self._next = -1
        self._end: int | None = None
        """The step before which the thread ends; ``None``: never."""

    def batch(self, step: int) -> Batch:
        """The batch of a step.

        Raises:
            UserError: as the loader's ``batch``; any other error that it met, too.
        """
        if self._thread is None or step != self._next or (self._end is not None and step >= self._end):
            self.close()
            self._begin(step)
        made = self._queue.get()
        self._next = step + 1
        if isinstance(made, BaseException):
            self.close()
            raise made
        return made

    def close(self) -> None:
        """End the thread; the next ``batch`` would begin a new one."""
        if self._thread is not None:
            self._stop.set()
            self._thread.join()
            self._thread = None

    def __enter__(self) -> "Prefetcher":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End the thread."""
        self.close()

    def _begin(self, step: int) -> None:
        self._queue: queue.Queue[Batch | BaseException] = queue.Queue(self._depth)
        self._stop = threading.Event()
        self._end = None if self.last_step is None else max(self.last_step, step + 1)
        # A thread begins on GPU 0, whatever the rank's own is: pinning would take memory of that one.
        gpu = torch.cuda.current_device() if self._pinned else None
        arguments = (step, self._end, self._queue, self._stop, gpu)
        self._thread = threading.Thread(target=self._make, args=arguments, name="prefetch", daemon=True)
        self._thread.start()

    def _make(
        self,
        step: int,
        end: int | None,
        made: "queue.Queue[Batch | BaseException]",
        stop: threading.Event,
        gpu: int | None,
    ) -> None:
        if gpu is not None:
            torch.cuda.set_device(gpu)
        while not stop.is_set() and (end is None or step < end):
            try:
                item: Batch | BaseException = self._batches.batch(step)
                if self._pinned:
                    item = item.pinned()
            except Exception as error:
                item = error
            while not stop.is_set():
                try:
                    made.put(item, timeout=_WAIT)
                    break
                except queue.Full:
                    continue
            if isinstance(item, Exception):
                return
            step += 1
