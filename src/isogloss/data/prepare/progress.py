"""How far it is: lines now and then, or whatever shows a bar."""

import time
from collections.abc import Callable
from typing import Protocol, runtime_checkable

PROGRESS_SECONDS = 10


@runtime_checkable
class Watch(Protocol):
    """Follows the stages of preparing, one after the other."""

    def begin(self, stage: str, n_bytes: int, done: int) -> None:
        """A stage of ``n_bytes``, of which some are done already."""
        ...

    def advance(self, n_bytes: int) -> None:
        """So much more is done."""
        ...

    def end(self) -> None:
        """The stage is over, or given up."""
        ...


class Lines:
    """A line every ten seconds: how much, how fast, how long it will take."""

    def __init__(self, say: Callable[[str], None]):
        self._say = say

    def begin(self, stage: str, n_bytes: int, done: int) -> None:
        """Start the clock."""
        self._stage, self._total, self._before, self._done = stage, n_bytes, done, done
        self._start = self._said = time.monotonic()
        if done:
            self._say(f"{stage}: {megabytes(done)} of {megabytes(n_bytes)} MB were done before")

    def advance(self, n_bytes: int) -> None:
        """Say something, unless it is too soon."""
        self._done += n_bytes
        now = time.monotonic()
        if now - self._said >= PROGRESS_SECONDS and self._done > self._before:
            self._said = now
            rate = (self._done - self._before) / (now - self._start)
            left = max(0, self._total - self._done) / rate
            self._say(
                f"{self._stage}: {megabytes(self._done)} of {megabytes(self._total)} MB, "
                f"{rate / 1e6:.1f} MB/s, {left:,.0f} s left"
            )

    def end(self) -> None:
        """Nothing to take away."""


def megabytes(n_bytes: int) -> str:
    """In millions of bytes."""
    return f"{n_bytes / 1e6:,.0f}"
