"""One rule for every path that a user writes, in a setting or as an argument: ``~`` and ``~user`` are homes."""

import os
from pathlib import Path
from typing import Annotated, Any

from pydantic import BeforeValidator

from isogloss.config.base import UserError


def expand(path: str | Path) -> Path:
    """Put the home folder for a leading ``~`` or ``~user``; variables such as ``$HOME`` stay as they are.

    A name such as ``~old.txt`` stays too, where there is such a file or folder, or no such user. ``./~`` is the entry
    of that name here.

    Raises:
        UserError: there is no home folder, or no such user for a path below ``~user``.
    """
    written, path = str(path), Path(path)
    first = path.parts[0] if path.parts else ""
    if first.startswith("~") and not written.startswith("~"):
        return path.absolute()  # else it would be taken for a home when it is read again
    if not first.startswith("~") or (first != "~" and os.path.lexists(first)):
        return path
    try:
        return path.expanduser()
    except RuntimeError:  # no such user, or no home
        if first != "~" and len(path.parts) > 1 and not any(sign in first for sign in "*?["):
            raise UserError(
                f"{path}: there is no user {first[1:]}, and no folder {first} here; write ./{path} to make one"
            ) from None
        if first != "~":
            return path
        raise UserError(f"{path}: no home folder is known here; write the path without ~") from None


def _expand_setting(value: Any) -> Any:
    return str(expand(value)) if isinstance(value, str | Path) else value


UserPath = Annotated[Path, BeforeValidator(_expand_setting)]
"""The type of every setting that is a path."""
