"""What can be wrong with a config, told so that a user can mend it: where, at which key, and what."""

import difflib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from isogloss.config.base import UserError

Path = tuple[str | int, ...]
"""A place in a config: keys and list indices from the top."""


def dotted(path: Path) -> str:
    """A path as it is written in overrides and messages: ``stages.0.d_model``."""
    return ".".join(map(str, path))


@dataclass(frozen=True)
class Problem:
    """One thing to mend.

    Args:
        path: the dotted key; empty for the config as a whole.
        where: the file and line (``recipe.yaml:12``), or the override (``command line: optim.lr=abc``).
        what: what is wrong and what to do, in plain words.
    """

    path: str
    where: str
    what: str

    def __str__(self) -> str:
        # An override shows its own key already.
        shown = self.path and not self.where.startswith(f"command line: {self.path}=")
        return f"{self.where}: {self.path}: {self.what}" if shown else f"{self.where}: {self.what}"


class ConfigError(UserError):
    """All the problems of a config, one a line.

    Args:
        problems: at least one.
    """

    def __init__(self, problems: Sequence[Problem]):
        self.problems = list(dict.fromkeys(problems))
        super().__init__("\n".join(map(str, self.problems)))


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """``"; did you mean X?"`` for the known word nearest to ``word``, or nothing where none is near."""
    by_lower = {name.lower(): name for name in known}
    near = difflib.get_close_matches(word.lower(), by_lower, n=1)
    return f"; did you mean {by_lower[near[0]]}?" if near else ""


def show(value: Any) -> str:
    """A value as a message quotes it: scalars as YAML writes them, text in quotes, collections by their size."""
    match value:
        case None:
            return "null"
        case bool():
            return str(value).lower()
        case dict():
            return f"a section of {len(value)} keys" if len(value) != 1 else "a section of 1 key"
        case list():
            return f"a list of {len(value)} items" if len(value) != 1 else "a list of 1 item"
        case float() if value != value or value in (float("inf"), float("-inf")):
            return {"inf": ".inf", "-inf": "-.inf"}.get(str(value), ".nan")
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:60]}... ({len(text)} characters)"
