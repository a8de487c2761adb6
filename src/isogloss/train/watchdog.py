"""Ends a rank that waits too long, and says which rank it waits for.

A collective that hangs says nothing of why: one rank has stopped, and all others wait for it. Each rank's thread writes
into the job's store, every second or so, the step that its rank is in, for how long, and the line it executes. When
a step takes longer than the limit, the first rank to notice reads what all have written, twice: a rank that wrote
nothing between is stopped or gone; else those in the lowest step are behind.
"""

import json
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import timedelta
from typing import Any

from torch.distributed.distributed_c10d import PrefixStore

from isogloss.parallel.env import Ranks
from isogloss.train.loop import Progress, StepInfo

HUNG = 70
"""EX_SOFTWARE of sysexits.h: the exit code of a rank that waited in vain."""
_SHOWN = 16


@dataclass(frozen=True)
class Beat:
    """What a rank last wrote of itself.

    Args:
        rank: its number.
        step: the step it is in, from 1.
        seconds: for how long.
        where: the innermost line of ours or of PyTorch's that its main thread executes.
        pulse: how many times it has written.
    """

    rank: int
    step: int
    seconds: float
    where: str
    pulse: int

    def __str__(self) -> str:
        return f"rank {self.rank} is in step {self.step} for {self.seconds:.0f} s, at {self.where}"


class Watchdog:
    """One rank's: ``with Watchdog(...) as watchdog: ... with watchdog.step(n): ...``: nothing in a process alone.

    Args:
        ranks: this process among the others.
        limit: seconds that a step may take.
        end: what ends the process.
    """

    def __init__(self, ranks: Ranks, limit: float, end: Callable[[int], Any] = os._exit) -> None:
        # A connection of the thread's own: the other may be waiting in the main thread.
        self._store = None if ranks.store is None else PrefixStore("watchdog", ranks.store.clone())  # pyright: ignore
        self._rank, self._world_size, self._limit, self._end = ranks.rank, ranks.world_size, limit, end
        self._interval = min(2.0, limit / 8)
        self._main = threading.get_ident()
        self._step, self._since, self._in_step, self._pulse = 0, time.monotonic(), False, 0
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)

    def __enter__(self) -> "Watchdog":
        if self._store is not None:
            self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        """Watch no longer; after an error too, which others report."""
        self._over.set()
        if self._store is not None:
            self._thread.join(2 * self._interval)

    @contextmanager
    def step(self, number: int) -> Iterator[None]:
        """A step, which may not take longer than the limit."""
        self._step, self._since, self._in_step = number, time.monotonic(), True
        try:
            yield
        finally:
            self._in_step = False

    def over(self, steps: Iterator[StepInfo], progress: Progress) -> Iterator[StepInfo]:
        """The steps of the loop, each watched; what is done between them is not."""
        while True:
            with self.step(progress.step + 1):
                info = next(steps, None)
            if info is None:
                return
            yield info

    def _watch(self) -> None:
        while not self._over.wait(self._interval):
            try:
                self._write()
                if self._in_step and time.monotonic() - self._since > self._limit:
                    self._bark()
            except RuntimeError:  # the store has gone with the launcher: whoever started this ends it
                if self._in_step and time.monotonic() - self._since > self._limit:
                    self._say(f"step {self._step} takes longer than {self._limit:.0f} s, and the store is gone")
                    self._end(HUNG)

    def _write(self) -> None:
        assert self._store is not None
        self._pulse += 1
        seconds = time.monotonic() - self._since
        beat = Beat(self._rank, self._step, round(seconds, 1), _where(self._main), self._pulse)
        self._store.set(f"beat/{self._rank}", json.dumps(asdict(beat)))

    def _bark(self) -> None:
        assert self._store is not None
        reporter = self._store.compare_set("reporter", "", str(self._rank)).decode()
        if reporter == str(self._rank):
            self._say(self.report())
            self._store.set("reported", "1")
        else:  # the one who reports must not be ended in the middle of its sentence
            self._store.wait(["reported"], timedelta(seconds=6 * self._interval + 10))
        self._end(HUNG)

    def report(self) -> str:
        """Who is behind, and where each rank stands."""
        before = self._read()
        time.sleep(2.5 * self._interval)
        self._write()
        return describe(before, self._read(), self._limit, self._world_size)

    def _read(self) -> dict[int, Beat]:
        assert self._store is not None
        keys = [f"beat/{rank}" for rank in range(self._world_size)]
        present = [key for key in keys if self._store.check([key])]
        return {beat.rank: beat for key in present for beat in [Beat(**json.loads(self._store.get(key)))]}

    def _say(self, text: str) -> None:
        print(f"isogloss: {text}", file=sys.stderr, flush=True)


def describe(before: dict[int, Beat], now: dict[int, Beat], limit: float, world_size: int) -> str:
    """The report of a hang, from what ranks had written before and what they have written since."""
    silent = [rank for rank in range(world_size) if rank not in now or before.get(rank) == now[rank]]
    lowest = min((beat.step for beat in now.values()), default=0)
    behind = silent or [rank for rank, beat in now.items() if beat.step == lowest]
    step = max((beat.step for beat in now.values()), default=0)
    if len(behind) == world_size:
        why = "all ranks are in it"
    else:
        names = ", ".join(str(rank) for rank in behind[:_SHOWN])
        how = "gives no sign of life" if silent else f"is still in step {lowest}"
        why = f"rank {names} {how}"
    first = sorted(now.values(), key=lambda beat: (beat.rank not in behind, beat.rank))[:_SHOWN]
    lines = [f"  {beat}" for beat in first]
    if (more := len(now) - len(first)) > 0:
        lines.append(f"  and {more} more")
    return "\n".join([f"step {step} takes longer than {limit:.0f} s: {why}", *lines])


def _where(thread: int) -> str:
    frame = sys._current_frames().get(thread)
    if frame is None:
        return "its end"
    code = frame.f_code
    return f"{'/'.join(code.co_filename.rsplit('/', 3)[-3:])}:{frame.f_lineno} ({code.co_name})"
