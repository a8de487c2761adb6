"""Code that is not ours: whatever it raises, and its ``sys.exit``, becomes an error that the user can mend."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager

from isogloss.config.base import UserError


@contextmanager
def foreign(doing: str) -> Iterator[None]:
    """Run code of a target, without its warnings.

    Args:
        doing: what failed if it fails, such as ``my.module:model failed``.

    Raises:
        UserError: it raised an exception, or ended the process.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except SystemExit as error:
        raise UserError(f"{doing}: it ended the process, by sys.exit({error.code!r})") from error
    except Exception as error:  # of any kind: the code is not ours
        raise UserError(f"{doing}: {type(error).__name__}: {one_line(error)}") from error


def one_line(error: BaseException, longest: int = 300) -> str:
    """An error's message on one line."""
    return " ".join(str(error).split())[:longest] or "no message"
