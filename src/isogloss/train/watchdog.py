"""Ends a rank that waits too long, and says which rank it waits for, in which phase of the run.

A collective that hangs says nothing of why: one rank has stopped, and all others wait for it. Each rank's thread writes
into the job's store, every second or so, what its rank is doing, for how long, and the line it executes: once for the
main thread, once for the one that writes checkpoints in the background. A rank whose phase has stood still for the
limit reads what all have written, twice. Where any rank has entered a phase or made headway within the limit
(`isogloss.headway`), it is slow, and waited for. Else the first rank to notice says who is behind: a rank that wrote
nothing between the two readings is stopped or gone; else those that have entered the fewest phases are.

Where ranks wait for what rank 0 does alone there is no limit: it must only go on giving signs of life.
"""

import json
import os
import threading
import time
from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from datetime import timedelta
from typing import Any

from torch.distributed.distributed_c10d import PrefixStore

from isogloss.exit_codes import HUNG
from isogloss.headway import headway
from isogloss.parallel.env import Ranks
from isogloss.streams import say_error
from isogloss.train.beats import Beat, describe, latest_headway, where
from isogloss.train.loop import Progress, StepInfo

COLD = 3
"""So many times the limit has what may compile: the first two phases of a shape, for a run's first step is eager."""
_COLD_PHASES = 2
MAIN, SAVER = 0, 1
"""The threads of a rank that others wait for: the one that trains, and the one that writes checkpoints."""


@dataclass
class _Lane:
    """One thread's way through the phases."""

    thread: int
    doing: str
    place: int = 0
    since: float = field(default_factory=time.monotonic)
    moved: float = field(default_factory=time.monotonic)
    made: int = 0
    limit: float | None = None
    inside: bool = False

    def enter(self, doing: str, limit: float | None) -> None:
        self.thread, self.doing, self.place = threading.get_ident(), doing, self.place + 1
        self.since = self.moved = time.monotonic()
        self.made, self.limit, self.inside = headway(self.thread), limit, True

    def look(self) -> float:
        """Seconds without headway."""
        if (made := headway(self.thread)) != self.made:
            self.made, self.moved = made, time.monotonic()
        return time.monotonic() - self.moved


class Watchdog:
    """One rank's: ``with Watchdog(...) as watchdog: ... with watchdog.phase("saving"): ...``. A process alone has none.

    Args:
        ranks: this process among the others.
        limit: seconds that ranks may wait for each other without any of them making headway.
        end: what ends the process.
    """

    def __init__(self, ranks: Ranks, limit: float, end: Callable[[int], Any] = os._exit) -> None:
        # A connection of the thread's own: the other may be waiting in the main thread.
        self._store = None if ranks.store is None else PrefixStore("watchdog", ranks.store.clone())  # pyright: ignore
        self._rank, self._world_size, self._limit, self._end = ranks.rank, ranks.world_size, limit, end
        self._interval = min(2.0, limit / 8)
        self._main, self._pulse = threading.get_ident(), 0
        self._lanes = [_Lane(self._main, "beginning"), _Lane(self._main, "at no checkpoint")]
        self._seen: dict[Hashable, int] = {}
        self._first, self._first_beat = -1, time.monotonic()  # the last pulse of rank 0, and when it was new
        self._patient_until = [0.0, 0.0]
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)

    def __enter__(self) -> "Watchdog":
        if self._store is not None:
            # The launcher's store may hang too: then it is gone for us.
            self._store.set_timeout(timedelta(seconds=max(self._limit, 1.0)))
            self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        """Watch no longer; after an error too, which others report."""
        self._over.set()
        if self._store is not None:
            self._thread.join(2 * self._interval)

    @contextmanager
    def phase(self, doing: str, shape: Hashable = None) -> Iterator[None]:
        """A stretch in which ranks wait for each other. Every rank enters it.

        Args:
            doing: for a person, after "has been": ``validating after step 7``.
            shape: of what is computed, where that may have to be compiled.
        """
        seen = _COLD_PHASES if shape is None else self._seen.get(shape, 0)
        self._seen[shape] = seen + 1
        with self._inside(doing, self._limit * (COLD if seen < _COLD_PHASES else 1)):
            yield

    @contextmanager
    def alone(self, doing: str) -> Iterator[None]:
        """A stretch in which all wait for rank 0, as long as it takes: it must only be alive. Every rank enters it."""
        self._first_beat = time.monotonic()
        with self._inside(doing, None):
            yield

    @contextmanager
    def _inside(self, doing: str, limit: float | None) -> Iterator[None]:
        lane = self._lanes[MAIN if threading.get_ident() == self._main else SAVER]
        lane.enter(doing, limit)
        try:
            yield
        finally:
            lane.inside, lane.doing, lane.since = False, f"at work after {doing}", time.monotonic()

    def over(
        self, steps: Iterator[StepInfo], progress: Progress, shape: Callable[[], Hashable] = lambda: None
    ) -> Iterator[StepInfo]:
        """The steps of the loop, each watched; ``shape`` says what the next one has in common with others alike."""
        while True:
            with self.phase(f"training step {progress.step + 1}", ("step", shape())):
                info = next(steps, None)
            if info is None:
                return
            yield info
            if info.last and progress.step == info.step:  # else it has gone back
                return

    def _watch(self) -> None:
        self._turn()  # at once the first time: a rank that stops right away has been heard of
        while not self._over.wait(self._interval):
            self._turn()

    def _turn(self) -> None:
        """What the thread does at each interval."""
        overdue = next((number for number, lane in enumerate(self._lanes) if self._is_overdue(lane)), None)
        try:
            self._write()
            if overdue is not None:
                self._look_around(overdue)
            self._listen_to_rank_0()
        except RuntimeError:  # the store has gone with the launcher: whoever started this ends it
            if overdue is not None:
                lane = self._lanes[overdue]
                self._say(f"{lane.doing} has stood still for {lane.look():.0f} s, and the store is gone")
                self._end(HUNG)

    def _is_overdue(self, lane: _Lane) -> bool:
        still = lane.look()  # of every lane, each time: it notes the headway
        return lane.inside and lane.limit is not None and still > lane.limit

    def _write(self) -> None:
        assert self._store is not None
        self._pulse += 1
        now = time.monotonic()
        beats = [
            Beat(
                self._rank,
                lane.doing,
                lane.place,
                round(now - lane.since, 1),
                self._still(lane),
                where(lane.thread),
                self._pulse,
            )
            for lane in self._lanes
        ]
        self._store.set(f"beat/{self._rank}", json.dumps([asdict(beat) for beat in beats]))

    def _still(self, lane: _Lane) -> float | None:
        if not lane.inside:
            return None
        # Rank 0 at work alone is taken to get on. Who waits for it is not: it may have missed that rank 0 is done.
        return 0.0 if lane.limit is None and self._rank == 0 else round(lane.look(), 1)

    def _look_around(self, number: int) -> None:
        """This rank's lane is overdue: is any rank at work, or do all stand still?"""
        lane = self._lanes[number]
        if time.monotonic() < self._patient_until[number]:
            return
        before, now = self._read_twice()
        if not lane.inside or lane.look() <= (limit := lane.limit or self._limit):
            return
        # The thread that trains may wait for the one that writes, but not the other way round.
        lanes = slice(number, None)
        if (moved := latest_headway(before[lanes], now[lanes])) is not None and moved < limit:
            self._patient_until[number] = time.monotonic() + (limit - moved)
            return
        beside = now[SAVER - number]
        self._bark(describe(before[number], now[number], lane.doing, limit, self._world_size, beside))

    def _listen_to_rank_0(self) -> None:
        """While it works alone it is not hurried; but a process that is stopped would be waited for for days."""
        lane = self._lanes[MAIN]
        if not lane.inside or lane.limit is not None or self._rank == 0:
            return
        found = self._read([0])[MAIN]
        if 0 in found and found[0].pulse != self._first:
            self._first, self._first_beat = found[0].pulse, time.monotonic()
        elif time.monotonic() - self._first_beat > self._limit:
            before, now = self._read_twice()
            back = 0 in now[MAIN] and now[MAIN][0].pulse != self._first
            if lane.inside and lane.limit is None and not back:
                self._bark(describe(before[MAIN], now[MAIN], lane.doing, self._limit, self._world_size))

    def _bark(self, text: str) -> None:
        assert self._store is not None
        reporter = self._store.compare_set("reporter", "", str(self._rank)).decode()
        if reporter == str(self._rank):
            self._say(text)
            self._store.set("reported", "1")
        else:  # the one who reports must not be ended in the middle of its sentence
            self._store.wait(["reported"], timedelta(seconds=6 * self._interval + 10))
        self._end(HUNG)

    def _read_twice(self) -> tuple[list[dict[int, Beat]], list[dict[int, Beat]]]:
        before = self._read(range(self._world_size))
        for _ in range(3):  # writing all the while: others may look at the same time, and take it for silence
            time.sleep(self._interval)
            self._write()
        return before, self._read(range(self._world_size))

    def _read(self, ranks: Sequence[int]) -> list[dict[int, Beat]]:
        """By thread, what each of some ranks has written last."""
        assert self._store is not None
        present = [rank for rank in ranks if self._store.check([f"beat/{rank}"])]
        written = {rank: json.loads(self._store.get(f"beat/{rank}")) for rank in present}
        return [{rank: Beat(**beats[number]) for rank, beats in written.items()} for number in (MAIN, SAVER)]

    def _say(self, text: str) -> None:
        say_error(f"isogloss: {text}")
