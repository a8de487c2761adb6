"""What a rank of the long run does: it trains, shows where it is, and what it holds on to; some of its steps fail."""

import os
import signal
import tempfile
from pathlib import Path

import isogloss.run.steps
import isogloss.train.loop
import isogloss.train.step
from checkpoint_jobs import show_stages, train_recipe
from isogloss.config.base import UserError
from isogloss.train.signals import Interrupted

EVERY = 10


def train(
    rank: int, n_ranks: int, recipe: str, overrides: list[str], folder: str, poisoned: tuple[int, int], without: str
) -> None:
    """A rank of the run, which ends with the exit code that the command line would give it.

    Args:
        rank: this one.
        n_ranks: of the run.
        recipe: its file.
        overrides: of the recipe.
        folder: where ranks show what they do.
        poisoned: a rank, and the step of this session from which on its loss is not finite; (-1, 0) for none.
        without: a guard to take out: ``check`` (of what is not finite); ``closing`` leaks a file and memory each step.
    """
    signal.signal(signal.SIGINT, signal.default_int_handler)  # children inherit what is ignored
    os.environ["TMPDIR"], tempfile.tempdir = str(Path(folder) / "tmp"), None
    show_stages(rank, Path(folder))
    _show_holdings(rank, Path(folder), leaking=without == "closing")
    if without == "check":
        isogloss.train.step._nonfinite = lambda *rest: ""
    if rank == poisoned[0]:
        _poison(poisoned[1])
    try:
        train_recipe(rank, n_ranks, recipe, overrides)
    except Interrupted as asked:
        os._exit(asked.exit_code)
    except UserError:
        os._exit(2)


def _show_holdings(rank: int, folder: Path, leaking: bool) -> None:
    """Write down, every so many steps: open files, threads, resident kB."""
    polled, kept = isogloss.run.steps.Saver.poll, []
    log = os.open(folder / f"holdings-{rank}", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)

    def poll(saver: isogloss.run.steps.Saver) -> None:
        kept.append((Path(__file__).open("rb"), b"x" * 300_000) if leaking else None)  # noqa: SIM115
        if len(kept) % EVERY == 0:
            status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
            n_files = len(list(Path("/proc/self/fd").iterdir()))
            os.write(log, f"{n_files} {status['Threads'].strip()} {status['VmRSS'].split()[0]}\n".encode())
        polled(saver)

    isogloss.run.steps.Saver.poll = poll


def _poison(first: int) -> None:
    step, calls = isogloss.train.loop.train_step, 0

    def train_step(model, *rest, **others):
        nonlocal calls
        calls += 1
        if calls < first:
            return step(model, *rest, **others)
        kernel = model.loss_kernel
        model.loss_kernel = lambda *arguments: tuple(part * float("nan") for part in kernel(*arguments))
        try:
            return step(model, *rest, **others)
        finally:
            model.loss_kernel = kernel

    isogloss.train.loop.train_step = train_step
