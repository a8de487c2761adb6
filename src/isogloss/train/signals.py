"""What asks a run to end between two steps, after a checkpoint: signals, and a limit of time.

SIGINT, SIGHUP, SIGTERM    someone wants it ended; a second one ends it at once
SIGUSR1, SIGUSR2           a scheduler says that time is nearly up; more of them change nothing
train.max_minutes          the run's own limit

A run that a scheduler or its own limit ended has more to do: it exits with ``REQUEUE``, "start me again", and so does a
rank of many on SIGTERM, which is how machines are taken back. The other signals give the shell's 128 plus their number.
"""

import os
import signal
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Any

from isogloss.exit_codes import REQUEUE, SIGNALLED

TIME_LIMIT = 255
"""Stands for the limit of time where signals' numbers stand for signals; above all of them."""
OUTCOME = "ISOGLOSS_OUTCOME"
"""The variable that names the file in which a rank leaves its exit code for ``isogloss launch``."""
ECHO = 0.5
"""Seconds within which a second signal is the first one again: a launcher passes on what its children also got."""


class Interrupted(BaseException):
    """A run was asked to end, and has saved what it had.

    Args:
        asked: a signal's number, or ``TIME_LIMIT``.
        many: whether this is one rank of several.
    """

    def __init__(self, asked: int, many: bool = False) -> None:
        super().__init__("train.max_minutes" if asked == TIME_LIMIT else signal.Signals(asked).name)
        again = asked in (TIME_LIMIT, *USER) or (many and asked == signal.SIGTERM)
        self.exit_code = REQUEUE if again else SIGNALLED + asked


# Windows has neither SIGHUP, which a terminal that is closed sends, nor the two for users.
ENDING = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name))
USER = tuple(getattr(signal, name) for name in ("SIGUSR1", "SIGUSR2") if hasattr(signal, name))
HEARD = (*ENDING, *USER)


class StopRequest:
    """What has asked for the end, if anything.

    Args:
        until: when the limit of time is reached, by ``time.monotonic``; ``None`` without one.
    """

    def __init__(self, until: float | None = None) -> None:
        self.signal_number: int | None = None
        self._until = until

    @property
    def asked(self) -> int:
        """A signal's number, ``TIME_LIMIT``, or 0."""
        if self.signal_number is not None:
            return self.signal_number
        return TIME_LIMIT if self._until is not None and time.monotonic() >= self._until else 0


@contextmanager
def leave_at_once(many: bool = False) -> Iterator[None]:
    """Within it, signals end the process at once, with the code that a run has: before its first step, after its last.

    There is nothing to save then that is not on the disk, but a scheduler is still to start the run again. SIGINT stays
    Python's, for whoever calls this from a notebook.

    Args:
        many: whether this is one rank of several; SIGTERM asks it for another start.
    """
    heard = leave_from_now_on(many, (signal.SIG_DFL,))
    try:
        yield
    finally:
        for number in heard:
            signal.signal(number, signal.SIG_DFL)


def leave_from_now_on(many: bool, instead_of: Sequence[Any]) -> Sequence[int]:
    """Let signals end the process at once, with the code they end a run with; which do so now.

    Args:
        many: whether this is one rank of several, or launches them.
        instead_of: the handlers that give way; a signal that another hears, or that is ignored, is left alone.
    """
    heard = [number for number in HEARD if signal.getsignal(number) in instead_of]
    for number in heard:
        signal.signal(number, lambda number, frame: _leave(number, many))
    return heard


def leave_word(code: int) -> bool:
    """Write an exit code into the file of ``OUTCOME``; whether there is one, and it has it."""
    if (outcome := os.environ.get(OUTCOME)) is None:
        return False
    try:
        handle = os.open(outcome, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
        # A whole line: ranks that write at once over each other leave the one's code or the other's.
        os.write(handle, f"{code}\n".encode())
        os.close(handle)
    except OSError:
        return False
    return True


def _leave(number: int, many: bool) -> None:
    """End the process; what waits for several ranks may only see that the others were killed then, but has the word.

    SIGTERM leaves none: it also ends those whose neighbour has failed, and a word would speak for a failed run.
    """
    code = Interrupted(number, many).exit_code
    if number != signal.SIGTERM:
        leave_word(code)
    os._exit(code)


@contextmanager
def stop_requests(until: float | None = None, loud: bool = True) -> Iterator[StopRequest]:
    """Within it, the first signal is only noted; the former handlers are put back at the end.

    Args:
        until: as of ``StopRequest``.
        loud: say so when a signal comes; one rank of many is enough.
    """
    request = StopRequest(until)
    former = {number: signal.getsignal(number) for number in HEARD}
    # What is ignored stays so: nohup runs on after a logout.
    heard = tuple(number for number in former if former[number] not in (signal.SIG_IGN, None))
    since = 0.0

    def note(number: int, frame: FrameType | None) -> None:
        nonlocal since
        if request.signal_number is not None:
            if number in ENDING and time.monotonic() - since > ECHO:
                for other in heard:
                    signal.signal(other, former[other])
                os.kill(os.getpid(), number)
            return
        request.signal_number, since = number, time.monotonic()
        if loud:
            with suppress(OSError):  # no printing here: the signal may have come in the middle of a print
                os.write(2, b"\nstopping after this step, to save; once more ends at once\n")

    for number in heard:
        signal.signal(number, note)
    try:
        yield request
    finally:
        for number in heard:
            signal.signal(number, former[number])
