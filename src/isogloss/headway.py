"""Long work says that it gets on, so that whoever waits for it can tell slow from stuck.

A thread that writes a checkpoint piece by piece, or fills one weight after the other, calls ``advance`` after each; the
watchdog of a run compares ``headway`` of that thread with what it last was. Nobody needs to listen.
"""

import threading

_made: dict[int, int] = {}


def advance() -> None:
    """This thread has done a piece of its work."""
    thread = threading.get_ident()
    _made[thread] = _made.get(thread, 0) + 1


def headway(thread: int) -> int:
    """How many pieces a thread, by its identity, has done."""
    return _made.get(thread, 0)
