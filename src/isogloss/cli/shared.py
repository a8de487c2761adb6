"""What the verbs share: arguments that several take, and where their words go."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from isogloss.streams import say_error

if TYPE_CHECKING:
    from rich.console import Console

RecipeArguments = Annotated[
    list[str] | None,
    typer.Argument(metavar="[RECIPE] [KEY=VALUE]...", help="A shipped recipe's name or a YAML file, then overrides."),
]

Device = Annotated[str, typer.Option(help="Where the model runs: cpu or cuda; in float32.")]


def expanded(text: str | Path) -> Path:
    """The parser of every path of the command line: ``~`` and ``~user`` are homes."""
    from isogloss.config.paths import expand

    return expand(text)


expanded.__name__ = "path"  # as --help calls it


def console() -> "Console":
    """Where tables go: as wide as the terminal, or wide enough for a file."""
    from isogloss.terminal import open_console

    return open_console(width=None if sys.stdout and sys.stdout.isatty() else 150)


def warn(message: str) -> None:
    """Say what is odd, where errors go."""
    say_error(f"isogloss: warning: {message}")


def split_words(arguments: list[str] | None) -> tuple[str, list[str]]:
    """The recipe's name, if the first word is not an override, and the overrides."""
    from isogloss.recipe import DEFAULT

    words = list(arguments or [])
    name = words.pop(0) if words and "=" not in words[0] else DEFAULT
    return name, words


def numbers_of(text: str) -> list[float]:
    """The numbers of a list such as ``1e-3,2e-3``."""
    from isogloss.config.base import UserError

    try:
        numbers = [float(word) for word in text.split(",") if word.strip()]
    except ValueError:
        raise UserError(f"{text!r} is not a list of numbers, such as 1e-3,2e-3") from None
    if not all(0 < number < float("inf") for number in numbers):
        raise UserError(f"{text!r}: each number must be above 0")
    return numbers


def integers_of(text: str) -> list[int]:
    """The whole numbers of a list such as ``64,128``."""
    from isogloss.config.base import UserError

    numbers = numbers_of(text)
    if any(number != int(number) for number in numbers):
        raise UserError(f"{text!r} is not a list of whole numbers, such as 64,128")
    return [int(number) for number in numbers]
