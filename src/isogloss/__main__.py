"""``python -m isogloss``, and the command ``isogloss``: hears signals before anything heavy is there."""

import os
import signal
import sys
from collections.abc import Mapping, Sequence

from isogloss.streams import accept_any_text
from isogloss.train.signals import HEARD, leave_from_now_on


def main() -> None:
    """Run the command line."""
    open_what_is_closed()
    accept_any_text(sys.stdout, sys.stderr)
    hear_early(sys.argv[1:], os.environ)
    from isogloss.cli import main as run

    run()


def open_what_is_closed() -> None:
    """Standard streams that are closed (``>&-``) lead nowhere.

    Else the next file that is opened gets such a stream's number, and what any library prints is written into it.
    """
    for number, name, mode in ((0, "stdin", "r"), (1, "stdout", "w"), (2, "stderr", "w")):
        try:
            os.fstat(number)
        except OSError:  # the lowest number that is free, so it is what a file gets that is opened now
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)
            setattr(sys, name, os.fdopen(number, mode))


def hear_early(words: Sequence[str], environment: Mapping[str, str]) -> None:
    """For runs: signals end them, from now on, with the codes they end them with later; there is nothing to save yet.

    Else a scheduler's would kill a process that has not come to `isogloss.train.signals.leave_at_once`, and
    it would not be started again. Python's own answer to Ctrl-C, an exception, may get lost in what is imported at that
    moment, and the run would go on. Ranks of `isogloss.launch.local` are born with signals held back until this.

    Args:
        words: of the command line, without the program.
        environment: tells whether this is a rank of several, which SIGTERM means the same to.
    """
    launching = list(words[:2]) == ["launch", "local"]
    if sys.platform == "win32" or not (launching or list(words[:1]) == ["train"]):
        return
    many = launching or any(environment.get(name, "1") != "1" for name in ("WORLD_SIZE", "SLURM_STEP_NUM_TASKS"))
    leave_from_now_on(many, (signal.SIG_DFL, signal.default_int_handler))
    signal.pthread_sigmask(signal.SIG_UNBLOCK, HEARD)


if __name__ == "__main__":
    main()
