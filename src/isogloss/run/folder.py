"""A run's folder: what is in it, who may write to it, and whether a recipe may go on in it.

recipe.yaml       the resolved recipe          metrics.jsonl   recorded numbers
machine.json      decisions of this machine    checkpoints/    the newest ones
init.json         plan, initial fingerprints   samples.txt     what the model wrote
tokenizer/        the tokenizer                summary.json    results, once finished
place.json        its id, and where it is
"""

import json
import os
import socket
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Literal

from filelock import Timeout
from pydantic import ConfigDict, Field, RootModel, TypeAdapter

from isogloss.config.base import UserError
from isogloss.config.describe import diff, in_words
from isogloss.config.load import dump_config, load_config
from isogloss.config.stored import Count, DamagedError, Stored, parse_stored, read_bounded, read_stored
from isogloss.durable import FileLock, write_whole
from isogloss.recipe import Recipe
from isogloss.train.machine import Machine

# Settings that a run may change when it goes on, and that leave the results of a finished one as they are.
_WITHOUT_RESULT = (
    "train.micro_batch_size",
    "train.recompute",
    "train.device",
    "train.compile",
    "train.max_minutes",
    "parallel.",
    "watch.",
    "checkpoint.",
    "trackers.",
    "runs_dir",
    "name",
    "data.prepared_dir",
    "data.min_train_share",
)
# All that a run may change when it goes on; anything else makes it another run.
CHANGEABLE = (
    *_WITHOUT_RESULT,
    "optim.",
    "train.steps",
    "train.precision",
    "train.float8",
    "train.max_skipped",
    "train.spike",
    # What a mixture is made of may change on the way; the loader keeps from which row on, and checks the texts.
    "data.sources.",
    "data.schedule",
    "data.temperature",
)

_LOCK, _HOLDER = "lock", "holder.json"
_Number = float | None  # none: it was not finite


class _Holder(Stored):
    pid: Count
    host: str


class _Row(Stored):
    """Of ``init.json``: only what is read back."""

    model_config = ConfigDict(extra="ignore")

    name: str
    sha256: str


class _Validation(Stored):
    model_config = ConfigDict(extra="ignore")

    loss: _Number
    bits_per_byte: _Number
    bytes: Count | None


class _Source(Stored):
    share: float
    loss: _Number


class _Training(Stored):
    loss: _Number
    bits_per_byte: _Number
    steps: tuple[Count, Count]


class _Summary(Stored):
    """What is shown of ``summary.json``; one that was damaged is written anew."""

    model_config = ConfigDict(extra="ignore")

    validation: _Validation
    baselines: dict[Literal["gzip", "xz"], float]
    seconds: float
    tokens_per_second: float
    parameters: Count
    steps: Count
    skipped_steps: Count
    tokens: Count
    floor: _Number = None
    training: _Training | None = None
    sources: dict[str, _Source] = Field(default_factory=dict)


class _MachineFile(RootModel[Machine]):
    """``machine.json``."""


_ROWS = TypeAdapter(list[_Row])


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
        self._locks: list[FileLock] = []
        self._held: tuple[int, int] | None = None

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
        self._take()
        try:
            yield
        finally:
            with suppress(OSError):  # of a disk that can no longer be written; what failed first is to be said
                (self.path / _HOLDER).unlink(missing_ok=True)
            self._leave_nothing_empty()
            for lock in self._locks:
                lock.release()
            self._locks, self._held = [], None

    def retake(self) -> bool:
        """Take the folder again where it, or its lock, is not what it was when it was taken; whether that was so.

        Raises:
            UserError: another process holds it now, or it cannot be written.
        """
        if self._held is None or self._held == (now := _inode(self.path / _LOCK)):
            return False
        self.path.mkdir(parents=True, exist_ok=True)
        try:
            self._take()
        except UserError:
            if self._holder() != _name(os.getpid(), socket.gethostname()):
                raise
            self._held = now  # this process has it still: there are file systems whose inodes change
            return False
        return True

    def _take(self) -> None:
        self._locks.append(self._acquire())
        self._held = _inode(self.path / _LOCK)
        with suppress(OSError):  # a full disk: whoever needs room says so
            self.save_json(_HOLDER, {"pid": os.getpid(), "host": socket.gethostname()})

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
            found = read_stored(self.path / _HOLDER, _Holder)
            return _name(found.pid, found.host)
        except (OSError, DamagedError):  # it has come or gone this moment
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
            return read_stored(self.path / "machine.json", _MachineFile).root
        except (FileNotFoundError, DamagedError):
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
            rows = _ROWS.validate_json(read_bounded(self.plan_file), strict=True)
            return {row.name: row.sha256 for row in rows}
        except (FileNotFoundError, ValueError):
            return None

    def summary(self) -> dict[str, Any] | None:
        """The results, if the run has finished."""
        try:
            data = read_bounded(self.summary_file)
            parse_stored(data, _Summary, str(self.summary_file))
            return json.loads(data)
        except (OSError, ValueError):
            return None

    def set_aside(self, say: Callable[[str], None]) -> None:
        """Rename the folder, so that a fresh run can begin in its place; nothing is deleted."""
        if not self.path.is_dir() or all(entry.name in (_LOCK, _HOLDER) for entry in self.path.iterdir()):
            return
        number = next(n for n in range(1, 10_000) if not self.path.with_name(f"{self.path.name}.{n}").exists())
        old = self.path.with_name(f"{self.path.name}.{number}")
        self.path.rename(old)
        (old / _HOLDER).unlink(missing_ok=True)  # nobody holds it any more
        say(f"the former run is kept in {old}")


def _name(pid: int, host: str) -> str:
    return f"process {pid} on {host}"


def _inode(path: Path) -> tuple[int, int] | None:
    """Which file stands at a path: its device and inode."""
    try:
        found = path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return None
    return found.st_dev, found.st_ino


def check_changes(saved: Recipe, asked: Recipe) -> list[str]:
    """What differs between the recipe of a folder and the one asked for, in words, where the run may go on with it.

    Raises:
        UserError: something differs that would make it another run.
    """
    if asked.model.vocab_size is None and saved.model.vocab_size is not None:
        asked = asked.with_vocabulary(saved.model.vocab_size)
    # A warm-up of 60 of 2,400 steps is the same as of 0.025.
    both = (recipe.in_steps().with_prompts() for recipe in (saved, asked))
    changes = diff(*(recipe.model_copy(update={"model": recipe.model.written_out()}) for recipe in both))
    fixed = [in_words(change) for change in changes if not change[0].startswith(CHANGEABLE)]
    if fixed:
        raise UserError(
            f"{asked.folder} holds a run with another recipe ({'; '.join(fixed)}). Give this one a name of its own "
            "(name=...), or pass --fresh to set the former run aside"
        )
    same_place = saved.runs_dir.resolve() == asked.runs_dir.resolve()
    return [in_words(change) for change in changes if not (change[0] == "runs_dir" and same_place)]


def check_finished(folder: Path, n_steps: int, changes: Sequence[str]) -> list[str]:
    """The changed settings that a finished run does not use and that leave its results as they are.

    Args:
        folder: of the run.
        n_steps: that it has trained.
        changes: as ``check_changes`` gives them.

    Raises:
        UserError: settings differ that its results depend on.
    """
    if differing := [change for change in changes if not change.startswith(_WITHOUT_RESULT)]:
        raise UserError(
            f"{folder} has finished its {n_steps} steps with other settings ({'; '.join(differing)}), so its results "
            "are not those of the settings asked for. Give this run a name of its own (name=...), pass --fresh to set "
            f"the former run aside, or train more steps with them (train.steps above {n_steps})"
        )
    return [change for change in changes if not change.startswith(("name: ", "runs_dir: "))]  # where it is, is used
