"""What ranks write of themselves for each other (`isogloss.train.watchdog`), and what can be told from all of it."""

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

_SHOWN = 16


@dataclass(frozen=True)
class Beat:
    """What a rank last wrote of one of its threads.

    Args:
        rank: its number.
        doing: the phase it is in, such as ``training step 7``, or what came before.
        place: how many phases it has entered; all ranks enter the same, in the same order.
        seconds: for how long, headway or not.
        still: for how long without headway; ``None`` between phases.
        where: the innermost line that the thread executes.
        pulse: how many times the rank has written.
    """

    rank: int
    doing: str
    place: int
    seconds: float
    still: float | None
    where: str
    pulse: int

    def __str__(self) -> str:
        return f"rank {self.rank} has been {self.doing} for {self.seconds:.0f} s, at {self.where}"

    def last_word(self) -> str:
        """Of a rank that writes no more: how long it has been silent nobody knows."""
        return f"rank {self.rank} was last {self.doing}, at {self.where}"


def latest_headway(before: Sequence[dict[int, Beat]], now: Sequence[dict[int, Beat]]) -> float | None:
    """Seconds since any rank, in any of its threads, has last made headway; those that write no more do not count."""
    alive = [
        beat.still
        for earlier, later in zip(before, now, strict=True)
        for rank, beat in later.items()
        if beat.still is not None and (rank not in earlier or earlier[rank].pulse != beat.pulse)
    ]
    return min(alive, default=None)


def describe(
    before: dict[int, Beat],
    now: dict[int, Beat],
    doing: str,
    limit: float,
    world_size: int,
    beside: Mapping[int, Beat] = MappingProxyType({}),
) -> str:
    """The report of a hang.

    Args:
        before: what ranks had written of the thread that waits.
        now: what they have written since.
        doing: the phase it waits in.
        limit: seconds that are up.
        world_size: how many ranks there are.
        beside: what they have written of their other thread.
    """
    silent = [
        rank
        for rank in range(world_size)
        if rank not in now or (rank in before and before[rank].pulse == now[rank].pulse)
    ]
    lowest = min((beat.place for beat in now.values()), default=0)
    behind = silent or [rank for rank, beat in now.items() if beat.place == lowest]
    if len(behind) == world_size:
        why = "all ranks are in it"
    else:
        names = ", ".join(str(rank) for rank in behind[:_SHOWN])
        how = "gives no sign of life" if silent else f"is still {now[behind[0]].doing}"
        why = f"rank {names} {how}"
    first = sorted(now.values(), key=lambda beat: (beat.rank not in behind, beat.rank))[:_SHOWN]
    busy = [beside[beat.rank] for beat in first if beat.rank in beside and beside[beat.rank].still is not None]
    lines = [f"  {beat.last_word() if beat.rank in silent else beat}" for beat in (*first, *busy)]
    if (more := len(now) - len(first)) > 0:
        lines.append(f"  and {more} more")
    return "\n".join([f"{doing} has stood still for {limit:.0f} s: {why}", *lines])


def where(thread: int) -> str:
    """The innermost line that a thread of this process executes."""
    frame = sys._current_frames().get(thread)
    if frame is None:
        return "its end"
    code = frame.f_code
    return f"{'/'.join(code.co_filename.rsplit('/', 3)[-3:])}:{frame.f_lineno} ({code.co_name})"
