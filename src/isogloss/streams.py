"""Standard output and error: any text can be written to them, none of it is obeyed, and none is lost at the end.

All that this package prints goes through here, or through the console of `isogloss.terminal`: text is data, whatever a
stream's encoding lacks is escaped instead of raised, and control characters reach no terminal.
"""

import atexit
import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout, suppress
from typing import Any, TextIO

_RAISING = ("strict", "surrogateescape", "surrogatepass")
# All control characters but tab and line feed, and a carriage return that does not end a line.
_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]|\r(?!\n)")


def accept_any_text(*streams: Any) -> None:
    r"""Let streams escape the characters that their encoding lacks: ``\u2192`` in ASCII, ``\udce9`` in UTF-8.

    An error handler that the user has chosen and that does not raise is kept.
    """
    for stream in streams:
        if getattr(stream, "errors", None) not in _RAISING:
            continue
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
        else:  # of the module codecs
            with suppress(AttributeError):
                stream.errors = "backslashreplace"


def is_unicode(stream: Any) -> bool:
    """Whether a stream's encoding has all characters."""
    return (getattr(stream, "encoding", None) or "utf").lower().startswith("utf")


def visible(text: str) -> str:
    r"""Replace control characters, which a terminal would obey, by escapes such as ``\x1b``; lines stay lines."""
    return _CONTROL.sub(lambda found: repr(found[0])[1:-1], text)


def say(text: str, end: str = "\n") -> None:
    """Print text for a person on standard output."""
    emit(visible(text), end)


def emit(text: str, end: str = "\n", stream: TextIO | None = None) -> None:
    """Print text as it is on standard output or a stream; in a terminal its control characters are made visible."""
    stream = stream or sys.stdout
    accept_any_text(stream)
    print(visible(text) if stream and stream.isatty() else text, end=end, file=stream, flush=True)


def say_error(text: str) -> None:
    """Print text for a person on standard error, if that can still be written."""
    accept_any_text(sys.stderr)
    with suppress(OSError):
        print(visible(text), file=sys.stderr, flush=True)


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
