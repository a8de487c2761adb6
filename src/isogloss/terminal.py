"""Rich's console, tables and progress bars, for text that is data: no markup, no emoji codes, no control characters.

The only place where they are made; a test on the source holds every module to it.
"""

import sys
from collections.abc import Sequence
from typing import Any

from rich.console import Console
from rich.progress import Progress, ProgressColumn, Task
from rich.table import Column
from rich.table import Table as RichTable
from rich.text import Text

from isogloss.streams import accept_any_text, visible


def plain(text: str, style: str = "") -> Text:
    """Text that is shown as it is."""
    return Text(visible(text), style)


def open_console(*, width: int | None = None, stderr: bool = False, quiet: bool = False, **options: Any) -> Console:
    """Make a console on standard output or error."""
    accept_any_text(sys.stderr if stderr else sys.stdout)
    return Console(width=width, stderr=stderr, quiet=quiet, markup=False, emoji=False, highlight=False, **options)


def print_text(console: Console, text: str) -> None:
    """Print text on any console, without markup and without breaking its lines."""
    accept_any_text(console.file)
    console.print(plain(text), soft_wrap=True)


class Table(RichTable):
    """A table whose title, caption, headings and cells are shown as they are."""

    def __init__(self, *, title: str | None = None, caption: str | None = None, **options: Any) -> None:
        shown = {"title": title, "caption": caption}
        texts = {key: None if text is None else plain(text, f"table.{key}") for key, text in shown.items()}
        super().__init__(**texts, **options)

    def add_column(self, header: str = "", **options: Any) -> None:  # pyright: ignore
        """Add a column under a heading."""
        super().add_column(plain(header), **options)

    def add_row(self, *cells: str, **options: Any) -> None:  # pyright: ignore
        """Add a row of cells."""
        super().add_row(*map(plain, cells), **options)


class PlainColumn(ProgressColumn):
    """A column of a progress bar whose text is shown as it is: ``step {task.completed}``."""

    def __init__(self, template: str, table_column: Column | None = None) -> None:
        super().__init__(table_column or Column(no_wrap=True))
        self._template = template

    def render(self, task: Task) -> Text:
        """The text of one task."""
        return plain(self._template.format(task=task))


def open_progress(console: Console, columns: Sequence[ProgressColumn]) -> Progress:
    """Make progress bars that vanish at their end."""
    accept_any_text(console.file)
    return Progress(*columns, console=console, transient=True)
