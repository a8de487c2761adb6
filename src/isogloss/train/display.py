"""What a person sees while a run trains: a live line in a terminal, plain lines elsewhere."""

import errno
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import Progress
from rich.table import Column

from isogloss.config.quantity import count
from isogloss.config.quantity import size as size_in_words
from isogloss.streams import accept_any_text, lead_nowhere, say_error
from isogloss.terminal import PlainColumn, Table, open_progress, print_text
from isogloss.train.machine import TYPICAL_SHARE_OF_PEAK, Machine
from isogloss.train.size import RunSize

LINES_KEPT = 20
"""Logged steps of a whole run that a terminal keeps."""


class Display:
    """Prints to one console; ``start`` and ``stop`` bracket the live line.

    Nothing is raised in the middle of a step. When whoever read it has gone (``| head``, a closed terminal), ``lost``
    says so. What cannot be written any more (a full disk under ``> log``) is dropped, and the run goes on.
    """

    def __init__(self, console: Console) -> None:
        self.console = console
        self.lost = False
        self._live: Progress | None = None
        self._kept, self._keep_every = 0, 1

    @contextmanager
    def _reader_may_go(self) -> Iterator[None]:
        accept_any_text(self.console.file)
        try:
            yield
        except SystemExit:  # rich's answer to a broken pipe, after it has sent all further output to nowhere
            self.lost = True
        except OSError as error:
            self.console.quiet = True
            lead_nowhere(sys.stdout)
            self.lost = error.errno == errno.EIO  # a closed terminal's
            if not self.lost:
                why = error.strerror or str(error)
                say_error(f"isogloss: warning: standard output cannot be written ({why}); the run goes on without it")

    def start(self, step: int, steps: int) -> None:
        """Begin the live line, in a terminal; about `LINES_KEPT` of its states stay above it."""
        self._kept, self._keep_every = step, max(1, steps // LINES_KEPT)
        if self.console.is_terminal:
            columns = [
                PlainColumn("step {task.completed}/{task.total}", Column(no_wrap=True, min_width=15)),
                PlainColumn("{task.fields[line]}", Column(no_wrap=True, overflow="ellipsis")),
            ]
            self._live = open_progress(self.console, columns)
            self._task = self._live.add_task("", total=steps, completed=step, line="")
            with self._reader_may_go():
                self._live.start()

    def stop(self) -> None:
        """End the live line."""
        if self._live is not None:
            with self._reader_may_go():
                self._live.stop()
            self._live = None

    def step(self, step: int, line: str) -> None:
        """Show a logged step: in the live line, or as a line of its own."""
        if self._live is not None:
            with self._reader_may_go():
                self._live.update(self._task, completed=step, line=line)
        if self._live is None or step == 1 or step - self._kept >= self._keep_every:
            self._kept = step
            self.say(f"step {step:>6}  {line}")

    def wait(self, why: str) -> None:
        """Say why nothing will move for a while."""
        if self._live is not None:
            with self._reader_may_go():
                self._live.update(self._task, line=why, refresh=True)
        else:
            self.say(why)

    def say(self, text: str) -> None:
        """Print a line that stays."""
        with self._reader_may_go():
            print_text(self.console, text)

    def show(self, table: Table) -> None:
        """Print a table."""
        with self._reader_may_go():
            self.console.print(table)


def banner(
    name: str,
    folder: str,
    size: RunSize,
    machine: Machine,
    *,
    peak: float,
    memory: float,
    steps: int,
    tokens_per_step: int,
    tokens: int,
    corpus_tokens: int | None,
    log_every: int,
) -> str:
    """What a run is about to do, before its first step.

    ``tokens_per_step`` holds after any warm-up, ``tokens`` are all of them; ``corpus_tokens`` is ``None`` if endless.
    ``memory`` is in bytes, of one rank.
    """
    parts = ", ".join(f"{part} {_count(n)}" for part, n in size.parameters.items())
    passes = tokens / corpus_tokens if corpus_tokens else 0.0
    times = f", {passes:,.1f} times the text" if corpus_tokens else ""
    by_heart = " (it will be learnt by heart: lower train.steps, or bring more text)" if passes > 20 else ""
    seconds = size.flops / (TYPICAL_SHARE_OF_PEAK * peak)
    rank = "" if machine.ranks == 1 else " on each rank"
    ranks = "" if machine.ranks == 1 else f"{machine.ranks} ranks of "
    threads = f"{ranks}{count(machine.threads, 'thread')}"
    return "\n".join(
        [
            f"{name} in {machine.precision}, {'compiled' if machine.compiled else 'eager'}:"
            f" {_count(size.n_parameters)} parameters ({parts})",
            f"  training {count(steps, 'step')} of {tokens_per_step:,} tokens = {_count(tokens)} tokens"
            f"{times}{by_heart}, {size.flops:.2e} operations",
            f"  on {machine.name} ({machine.device}, {threads}): measured peak {peak / 1e12:.2f} Tflop/s",
            f"  about {size_in_words(memory)} for weights, optimizer and activations{rank};"
            f" about {duration(seconds)} at {TYPICAL_SHARE_OF_PEAK:.0%} of the peak",
            f"  in {folder}",
            f"  a line every {count(log_every, 'step')}: the mean loss of them, and their largest gradient norm",
        ]
    )


def duration(seconds: float) -> str:
    """``42 s``, ``7 min``, ``3.5 h`` or ``12 days``."""
    for limit, unit, text in ((120, 1, "{:.0f} s"), (7200, 60, "{:.0f} min"), (172800, 3600, "{:.1f} h")):
        if seconds < limit:
            return text.format(seconds / unit)
    return f"{seconds / 86400:.1f} days"


def results_table(rows: list[tuple[str, str]], title: str) -> Table:
    """Two columns of what came out."""
    table = Table(title=title, show_header=False, title_justify="left")
    table.add_column(style="bold")
    table.add_column(justify="right")
    for row in rows:
        table.add_row(*row)
    return table


def _count(n: float) -> str:
    for limit, unit in ((1e9, "B"), (1e6, "M"), (1e3, "k")):
        if n >= limit:
            return f"{n / limit:.2f}{unit}"
    return f"{n:.0f}"
