"""What this process has printed, let out before it ends: `os._exit` and an abort do not."""

import atexit
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from typing import TextIO


def let_out() -> None:
    """Flush standard output and error; where that cannot be, forget what was to be written."""
    for stream in (sys.stdout, sys.stderr):
        try:
            print(end="", file=stream, flush=True)  # unlike the stream's own, does nothing where it is closed
        except OSError:  # a full disk, or nobody reads: else it is tried again as the interpreter ends, with 120
            lead_nowhere(stream)


def lead_nowhere(stream: TextIO) -> None:
    """Let what is still written to a stream, by whomever, go nowhere."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


@contextmanager
def only_ours() -> Iterator[TextIO]:
    """Standard output for what is written to the stream given; all else that is printed goes to standard error.

    So a report stays apart from the prints of foreign code, of libraries in C, of child processes, and of what runs as
    the interpreter ends.
    """
    former = sys.stdout
    former.flush()
    try:
        number = former.fileno()
    except OSError:  # a stream in memory, as a notebook's
        with redirect_stdout(sys.stderr):
            yield former
        return
    kept = {n: os.dup(n) for n in (number, 1)}
    with open(os.dup(number), "w", encoding=former.encoding, errors=former.errors) as ours:  # noqa: PTH123 (a number)
        for n in kept:
            os.dup2(sys.stderr.fileno(), n)
        sys.stdout = sys.stderr
        try:
            yield ours
            ours.flush()
        finally:
            sys.stdout = former
            for n, copy in kept.items():
                os.dup2(copy, n)
                os.close(copy)
            atexit.register(_follow_errors)  # after what was registered meanwhile, and so called before it


def _follow_errors() -> None:
    """Lead standard output to standard error."""
    let_out()
    os.dup2(2, 1)
    sys.stdout = sys.stderr
