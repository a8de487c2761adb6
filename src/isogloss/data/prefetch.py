"""Batches made ahead by a thread, so that a step need not wait for its data.

What is read is decided by the step alone, so nothing depends on how far ahead the thread is.
"""

import queue
import threading
from types import TracebackType
from typing import Protocol, runtime_checkable

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
        last_step: the step before which making ahead ends; ``None``: never.
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
        self._batches, self._depth, self._last_step = batches, depth, last_step
        self._pinned = pinned
        self._thread: threading.Thread | None = None
        self._next = -1

    def batch(self, step: int) -> Batch:
        """The batch of a step.

        Raises:
            UserError: as the loader's ``batch``; any other error that it met, too.
        """
        if self._thread is None or step != self._next or step == self._last_step:
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
        arguments = (step, self._queue, self._stop)
        self._thread = threading.Thread(target=self._make, args=arguments, name="prefetch", daemon=True)
        self._thread.start()

    def _make(self, step: int, made: "queue.Queue[Batch | BaseException]", stop: threading.Event) -> None:
        begun = step
        while not stop.is_set() and (step == begun or self._last_step is None or step < self._last_step):
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
