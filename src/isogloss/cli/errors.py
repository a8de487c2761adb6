"""Which errors the user can mend, what to tell of them, and how the process ends."""

import errno
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NoReturn

from isogloss.streams import let_out, say_error


def explain(error: Exception) -> str | None:
    """What to tell of an error that the user can mend; ``None`` for a defect of ours."""
    from isogloss.config.base import UserError
    from isogloss.durable import DISK_FULL

    if isinstance(error, UserError):
        return str(error)
    if isinstance(error, OSError) and error.errno in DISK_FULL:
        full, where = DISK_FULL[error.errno], error.filename or "while writing"
        return f"{full} ({where}). Free some space and run the same command again"
    unusable = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EEXIST, errno.EISDIR, errno.ENAMETOOLONG)
    if isinstance(error, OSError) and error.errno in unusable:
        return f"{error.filename}: {error.strerror}. Change its permissions, or choose another place"
    if isinstance(error, OSError) and error.filename and error.errno in (errno.EIO, errno.ESTALE, errno.EBUSY):
        return f"{error.filename}: {error.strerror}. Its file system failed; see to it, and run the same command again"
    # PyTorch's, by name and text: it may not have been imported, and on a CPU it raises a bare RuntimeError.
    out_of_memory = isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError"
    if out_of_memory or "can't allocate memory" in str(error):
        first_line = str(error).partition("\n")[0]
        return f"out of memory; lower train.micro_batch_size, data.seq_len or the model's size. ({first_line})"
    return None


@contextmanager
def defects_end_with(code: int) -> Iterator[None]:
    """Give defects of ours another exit code than 1; what the user can mend keeps its own."""
    try:
        yield
    except Exception as error:
        if explain(error) is None:
            vars(error)["exit_code"] = code
        raise


def complain(message: str) -> None:
    """Say what is wrong, if that can still be written anywhere."""
    say_error(f"isogloss: {message}")


def one_of_many() -> bool:
    """Whether this process is a rank of several, and has got so far as to know."""
    env = sys.modules.get("isogloss.parallel.env")
    if env is None:
        return False
    try:
        return env.find_ranks().world_size > 1
    except env.UserError:  # variables that make no sense: it has been told, and has met no other
        return False


def leave(code: int) -> NoReturn:
    """End the process with a code.

    A rank of many ends at once: what PyTorch tears down may wait for other ranks, and aborts now and then.
    """
    let_out()
    if one_of_many():
        os._exit(code)
    ignore_requests()
    sys.exit(code)


def ignore_requests() -> None:
    """Ignore the signals that would ask a run to end: it has ended, and Python, as it is torn down, would not answer.

    The system would, by killing the process with a code that says that the run has failed.
    """
    signals = sys.modules.get("isogloss.train.signals")  # not imported where nothing has been run
    for number in () if signals is None else signals.USER:
        if signal.getsignal(number) not in (signal.SIG_DFL, None):
            signal.signal(number, signal.SIG_IGN)


def asked_to_leave(code: int) -> int:
    """The exit code of a run that was asked to end: 0 where its launcher has been left the word, else that code.

    `isogloss.launch.local` says why. A word that cannot be left, on a disk that is full, is the code all the same.
    """
    from isogloss.train.signals import leave_word

    return 0 if leave_word(code) else code
