"""What this process has printed, let out before it ends: `os._exit` and an abort do not."""

import os
import sys
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
