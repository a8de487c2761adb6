"""Worker processes that end when their parent does, even if the parent is killed."""

import ctypes
import os
import signal
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import connection, get_context, parent_process
from typing import Any

from isogloss.exit_codes import DEFECT, SIGNALLED
from isogloss.streams import accept_any_text


def create_pool(n: int, begin: Callable[..., None], *arguments: Any) -> ProcessPoolExecutor:
    """Make a pool of processes, started with its first tasks.

    Args:
        n: how many.
        begin: a function of a module, called in each process before its first task.
        arguments: of ``begin``.
    """
    return ProcessPoolExecutor(n, get_context("spawn"), _begin, (begin, *arguments))


def end_with_parent(parent: int | None = None) -> None:
    """End this process when the one that started it ends, however that comes about.

    A worker of `create_pool` waits for its parent in a thread, on any system and from whatever thread it was started.
    Another process is sent SIGTERM, so that it can save (Linux).

    Args:
        parent: the number of the process that must still be the parent, where it is known.
    """
    if (started_by := parent_process()) is not None:
        threading.Thread(target=_end_after, args=(started_by.sentinel,), daemon=True).start()
    elif sys.platform == "linux":
        pr_set_pdeathsig = 1
        ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGTERM)
        # Killed before this, it sends nothing, and a rank would wait for it as long as it may.
        if parent not in (None, os.getppid()):
            os._exit(SIGNALLED + signal.SIGTERM)


def _begin(begin: Callable[..., None], *arguments: Any) -> None:
    accept_any_text(sys.stdout, sys.stderr)
    end_with_parent()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle
    begin(*arguments)


def _end_after(sentinel: int) -> None:
    connection.wait([sentinel])
    os._exit(DEFECT)
