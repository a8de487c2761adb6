"""A run's folder: what is in it, who may write to it, and whether a recipe may go on in it.

recipe.yaml       the resolved recipe          metrics.jsonl   recorded numbers
machine.json      decisions of this machine    checkpoints/    the newest ones
init.json         plan, initial fingerprints   samples.txt     what the model wrote
tokenizer/        the tokenizer                summary.json    results, once finished
"""

import json
import os
import socket
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from isogloss.config.base import UserError
from isogloss.config.describe import diff, in_words
from isogloss.config.load import dump_config, load_config
from isogloss.durable import write_whole
from isogloss.recipe import Recipe
from isogloss.train.machine import Machine

# Settings that a run may change when it goes on; anything else makes it another run.
CHANGEABLE = (
    "optim.",
    "train.steps",
    "train.micro_batch_size",
    "train.recompute",
    "train.device",
    "train.precision",
    "train.float8",
    "train.compile",
    "train.max_skipped",
    "train.max_minutes",
    "train.spike",
    "parallel.",
    "watch.",
    "checkpoint.",
    "trackers.",
    "runs_dir",
    "name",
    "data.prepared_dir",
    # What a mixture is made of may change on the way; the loader keeps from which row on, and checks the texts.
    "data.sources.",
    "data.schedule",
    "data.temperature",
)


_LOCK, _HOLDER = "lock", "holder.json"
# What is shown of a summary; one that was damaged is written anew.
_SUMMARY = {
    "validation": dict,
    "baselines": dict,
    "seconds": float | int,
    "tokens_per_second": float | int,
} | dict.fromkeys(("parameters", "steps", "skipped_steps", "tokens"), int)


class RunFolder:
    """The paths of a run, and its small files."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.recipe_file = path / "recipe.yaml"
        self.plan_file = path / "init.json"
        self.metrics_file = path / "metrics.jsonl"
        self.checkpoints = path / "checkpoints"
        self.tokenizer = path / "tokenizer"
        self.samples_file = path / "samples.txt"
        self.summary_file = path / "summary.json"
        self.plot_file = path / "loss.png"

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the folder; the system lets go of it even when the process is killed.

        The lock is the file system's; ``holder.json`` beside it only says whose it is, and is not asked.

        Raises:
            UserError: another process holds it, or it cannot be written.
        """
        try:
            self.path.mkdir(parents=True, exist_ok=True)
        except (FileExistsError, NotADirectoryError) as error:
            raise UserError(f"{error.filename} is a file where a folder is needed; move it, or set runs_dir") from None
        except FileNotFoundError as error:
            raise UserError(f"{error.filename} cannot be made; set runs_dir to a folder that can hold runs") from None
        lock = self._acquire()
        try:
            with suppress(OSError):  # a full disk: whoever needs room says so
                self.save_json(_HOLDER, {"pid": os.getpid(), "host": socket.gethostname()})
            yield
        finally:
            (self.path / _HOLDER).unlink(missing_ok=True)
            self._leave_nothing_empty()
            lock.release()

    def _leave_nothing_empty(self) -> None:
        """A run that failed to start leaves no folder with a lock alone; called while the lock is held."""
        with suppress(OSError):  # something else is in it, or it has gone
            if [entry.name for entry in self.path.iterdir()] == [_LOCK]:
                (self.path / _LOCK).unlink()
                self.path.rmdir()

    def check_free(self) -> None:
        """Refuse a folder that another process holds, for whoever starts those that are to hold it; makes nothing.

        The lock is held for a moment only. Another may still come first: then they are refused when they take it.

        Raises:
            UserError: another process holds it.
        """
        if (self.path / _LOCK).exists():
            with suppress(OSError):  # whoever is to hold it says what is wrong
                self._acquire().release()

    def _acquire(self) -> FileLock:
        lock = FileLock(self.path / _LOCK)
        try:
            lock.acquire(timeout=0)
        except Timeout:
            raise UserError(
                f"{self.path} is in use by {self._holder()}; wait for it, or give this run another name (name=...)"
            ) from None
        return lock

    def _holder(self) -> str:
        try:
            found = json.loads((self.path / _HOLDER).read_text())
            return f"process {found['pid']} on {found['host']}"
        except (OSError, ValueError, TypeError, KeyError):  # it has come or gone this moment
            return "another process"

    def saved_recipe(self) -> Recipe | None:
        """The recipe that the folder was begun with, or last gone on with."""
        return load_config(Recipe, self.recipe_file) if self.recipe_file.exists() else None

    def save_recipe(self, recipe: Recipe) -> None:
        """Keep the resolved recipe."""
        write_whole(self.recipe_file, dump_config(recipe).encode())

    def saved_machine(self) -> Machine | None:
        """The machine's decisions that the run began with."""
        try:
            return Machine(**json.loads((self.path / "machine.json").read_text()))
        except (FileNotFoundError, ValueError, TypeError, RecursionError):
            return None

    def save_json(self, name: str, values: Any) -> None:
        """Keep a small JSON file."""
        write_whole(self.path / name, (json.dumps(values, indent=1) + "\n").encode())

    def save_plan(self, rows: list[dict[str, Any]], initial: Mapping[str, str] | None) -> None:
        """Keep the initialisation plan, and beside each row the fingerprint of what the run began with, if known."""
        known = initial or {}
        self.save_json(
            self.plan_file.name,
            [row | ({"sha256": known[row["name"]]} if row["name"] in known else {}) for row in rows],
        )

    def saved_fingerprint(self) -> dict[str, str] | None:
        """Of the weights that the run began with; ``None`` if none is kept, or it is damaged."""
        try:
            rows = json.loads(self.plan_file.read_text())
            return {str(row["name"]): str(row["sha256"]) for row in rows}
        except (FileNotFoundError, ValueError, TypeError, KeyError, RecursionError):
            return None

    def summary(self) -> dict[str, Any] | None:
        """The results, if the run has finished."""
        try:
            found = json.loads(self.summary_file.read_text())
        except (OSError, ValueError, RecursionError):
            return None
        whole = isinstance(found, dict) and all(isinstance(found.get(name), kind) for name, kind in _SUMMARY.items())
        return found if whole else None

    def set_aside(self, say: Callable[[str], None]) -> None:
        """Rename the folder, so that a fresh run can begin in its place; nothing is deleted."""
        if not self.path.is_dir() or all(entry.name in (_LOCK, _HOLDER) for entry in self.path.iterdir()):
            return
        number = next(n for n in range(1, 10_000) if not self.path.with_name(f"{self.path.name}.{n}").exists())
        old = self.path.with_name(f"{self.path.name}.{number}")
        self.path.rename(old)
        (old / _HOLDER).unlink(missing_ok=True)  # nobody holds it any more
        say(f"the former run is kept in {old}")


def check_changes(saved: Recipe, asked: Recipe) -> list[str]:
    """What differs between the recipe of a folder and the one asked for, in words, where the run may go on with it.

    Raises:
        UserError: something differs that would make it another run.
    """
    if asked.model.vocab_size is None and saved.model.vocab_size is not None:
        asked = asked.with_vocabulary(saved.model.vocab_size)
    both = (
        recipe.in_steps().in_words() for recipe in (saved, asked)
    )  # a warm-up of 60 of 2,400 steps is the same as of 0.025
    changes = diff(*(recipe.model_copy(update={"model": recipe.model.written_out()}) for recipe in both))
    fixed = [in_words(change) for change in changes if not change[0].startswith(CHANGEABLE)]
    if fixed:
        raise UserError(
            f"{asked.folder} holds a run with another recipe ({'; '.join(fixed)}). Give this one a name of its own "
            "(name=...), or pass --fresh to set the former run aside"
        )
    return [in_words(change) for change in changes]
