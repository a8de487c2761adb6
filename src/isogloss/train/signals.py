"""Ctrl-C, SIGTERM and a closed terminal end a run between two steps, after a checkpoint; a second signal at once."""

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType


class Interrupted(BaseException):
    """A run was asked to end, and has saved what it had. ``exit_code`` is the shell's: 128 plus the signal."""

    def __init__(self, signal_number: int) -> None:
        super().__init__(signal.Signals(signal_number).name)
        self.exit_code = 128 + signal_number


class StopRequest:
    """Which signal has asked for the end, if any."""

    signal_number: int | None = None


@contextmanager
def stop_requests() -> Iterator[StopRequest]:
    """Within it, the first signal is only noted; the former handlers are put back at the end."""
    request = StopRequest()
    # A terminal that is closed sends SIGHUP; Windows has none.
    signals = (signal.SIGINT, signal.SIGTERM, *([signal.SIGHUP] if hasattr(signal, "SIGHUP") else []))
    former = {number: signal.getsignal(number) for number in signals}
    # What is ignored stays so: nohup runs on after a logout.
    signals = tuple(number for number in signals if former[number] not in (signal.SIG_IGN, None))

    def note(number: int, frame: FrameType | None) -> None:
        request.signal_number = number
        with suppress(OSError):  # no printing here: the signal may have come in the middle of a print
            os.write(2, b"\nstopping after this step, to save; once more ends at once\n")
        for other in signals:
            signal.signal(other, former[other])

    for number in signals:
        signal.signal(number, note)
    try:
        yield request
    finally:
        for number in signals:
            signal.signal(number, former[number])
