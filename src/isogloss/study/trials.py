"""Trials: many small trainings on all cores, each kept as it ends, so that a study that is stopped goes on.

A trial is a function of its recipe and of the code that carries it out, so its result is filed under a hash of both and
found there the next time. Whoever changes a scheme, a model or an optimizer gets new trials.
"""

import hashlib
import inspect
import json
import math
import os
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch

from isogloss.build import plan_model
from isogloss.config.base import UserError
from isogloss.config.quantity import count
from isogloss.config.stored import DamagedError, Stored, read_stored
from isogloss.data.corpus import Corpus
from isogloss.data.opening import open_corpus
from isogloss.durable import write_whole
from isogloss.parallel.mesh import Axes
from isogloss.recipe import Recipe
from isogloss.train.display import Display, duration
from isogloss.train.machine import find_machine, measure_peak
from isogloss.train.metrics import finite
from isogloss.workers import create_pool

FORMAT = 1
# Rooms whose code has no part in what a trial measures.
_BYSTANDERS = ("cli", "report", "audit", "run", "interop", "generate")
# Of the peak, by small models on one thread; for the estimate before the first trial has ended.
SHARE_OF_PEAK = 0.25
BEGIN_WORKER_SECONDS, TRIAL_SECONDS = 8.0, 1.0
"""Of a process that imports PyTorch, and of what a trial does beside its operations; both about."""

Result = dict[str, Any]
Measure = Callable[[Recipe, Corpus], Result]
"""Carries out one trial: the settled recipe and its corpus; the result can be written as JSON."""


@dataclass(frozen=True)
class Trial:
    """One training, and what it is called in the study's tables."""

    label: str
    recipe: Recipe

    def key(self, measure: Measure, corpus: Corpus) -> str:
        """Its result's name: a hash of all that decides it; a corpus bears a hash of its text as its name."""
        decides = self.recipe.model_dump(mode="json", exclude={"name", "runs_dir", "watch", "checkpoint", "trackers"})
        planned = plan_model(self.recipe.model, self.recipe.init)
        says = [[entry.row() for entry in planned.plan.values()], asdict(planned.model.multipliers)]
        code = _code(inspect.getfile(inspect.unwrap(measure)))
        parts = [FORMAT, measure.__name__, torch.__version__, decides, says, corpus.name, code]
        text = json.dumps(parts, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:20]

    @property
    def flops(self) -> float:
        """Operations of its steps."""
        model = plan_model(self.recipe.model, self.recipe.init).model
        tokens = self.recipe.train.plan().rows_before(self.recipe.train.steps) * self.recipe.data.seq_len
        return float(model.flops_per_token(self.recipe.data.seq_len)) * tokens


@dataclass(frozen=True)
class Study:
    """What the trials of a study share.

    Args:
        recipe: with the vocabulary and all that was ``auto`` settled; trials vary it.
        corpus: the text, which other processes open again.
        folder: where results are kept, those of trials in its ``trials``.
        jobs: processes, sharing the cores.
        display: told what it will cost and how far it is.
    """

    recipe: Recipe
    corpus: Corpus
    folder: Path
    jobs: int
    display: Display

    def run(self, measure: Measure, trials: Sequence[Trial]) -> list[Result]:
        """The results of trials in their order: those on file, and the others carried out.

        Args:
            measure: a function of a module, so that other processes can call it.
            trials: each a variant of ``recipe``.

        Returns:
            What ``measure`` gave; infinity where a number was not finite.

        Raises:
            UserError: the folder cannot be written, or a process was killed.
            KeyboardInterrupt: stopped; ended trials are kept.
        """
        kept = self.folder / "trials"
        try:
            kept.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"{kept} cannot be made ({error.strerror}); choose another folder with --out") from None
        files = [kept / f"{trial.key(measure, self.corpus)}.json" for trial in trials]
        by_file = dict(zip(files, trials, strict=True))  # trials that are the same are carried out once
        missing = [(trial, file) for file, trial in by_file.items() if not _read(file)]
        progress = _Progress(missing, len(by_file), self)
        if missing:
            _carry_out(measure, missing, self, progress)
        records = [_read(file) for file in files]
        if not all(records):
            raise UserError(f"results in {kept} have been changed meanwhile; run the same command again")
        return [_infinite(record.result) for record in records if record]


def open_study(recipe: Recipe, folder: str | Path, jobs: int | None, display: Display) -> Study:
    """Prepare the text, and settle what ``auto`` means once for all trials: they must differ in nothing else.

    Args:
        recipe: what trials vary.
        folder: where results are kept.
        jobs: processes; one a core if not given.
        display: told what is done.

    Raises:
        UserError: the recipe asks for a GPU, or for what is not here.
    """
    recipe.check_float8(Axes(1, 1, 1, 1), "cpu")
    corpus = open_corpus(recipe.data, recipe.tokenizer, display.say)
    recipe = recipe.with_vocabulary(corpus.tokenizer.n_tokens)
    # Without operations compiling never pays: it is on only where the recipe says so, a trial being short.
    on_cpu = recipe.train.model_copy(update={"device": "cpu" if recipe.train.device == "auto" else recipe.train.device})
    with _one_thread():
        machine = find_machine(on_cpu, total_flops=0.0)
    if machine.device != "cpu":
        raise UserError("studies run on the CPU, a trial a core; set train.device=cpu")
    settled = {"device": "cpu", "precision": machine.precision, "compile": "on" if machine.compiled else "off"}
    recipe = recipe.model_copy(update={"train": recipe.train.model_copy(update=settled)})
    return Study(recipe, corpus, Path(folder), jobs or os.cpu_count() or 1, display)


@contextmanager
def _one_thread() -> Iterator[None]:
    """As trials run: with more threads a busy machine would be measured by how long they wait for each other."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


class _Progress:
    """Says what a study costs, and how much is left by the operations done so far."""

    def __init__(self, missing: Sequence[tuple[Trial, Path]], n_trials: int, study: Study) -> None:
        self.waiting = {file: trial.flops for trial, file in missing}
        self.display, self.flops_done, self.start = study.display, 0.0, time.monotonic()
        if n_done := n_trials - len(missing):
            self.display.say(f"{n_done} of {n_trials} trials are in {study.folder} already")
        if missing:
            with _one_thread():
                peak = measure_peak(torch.device("cpu"), study.recipe.train.precision)
            total = sum(self.waiting.values())
            rounds = math.ceil(len(missing) / study.jobs)
            begin = BEGIN_WORKER_SECONDS if study.jobs > 1 else 0.0
            seconds = begin + rounds * TRIAL_SECONDS + total / (SHARE_OF_PEAK * peak * study.jobs)
            self.display.say(
                f"{count(len(missing), 'trial')}, {total:.1e} operations: about {duration(seconds)} here, "
                f"{study.jobs} at a time; what has ended is kept in {study.folder}: the same command goes on there"
            )

    def ended(self, trial: Trial, file: Path, seconds: float) -> None:
        """One more."""
        self.flops_done += self.waiting.pop(file)
        left = (time.monotonic() - self.start) / self.flops_done * sum(self.waiting.values())
        rest = f"; {len(self.waiting)} left, about {duration(left)}" if self.waiting else ""
        self.display.say(f"{trial.label}: {duration(seconds)}{rest}")


def _carry_out(measure: Measure, missing: Sequence[tuple[Trial, Path]], study: Study, progress: _Progress) -> None:
    # The longest first: no core is left idle at the end.
    waiting = sorted(missing, key=lambda pair: progress.waiting[pair[1]])
    if study.jobs == 1:
        while waiting:
            trial, file = waiting.pop()
            progress.ended(trial, file, _one(measure, trial, study.corpus, file))
        return
    threads = max(1, (os.cpu_count() or 1) // study.jobs)
    pool = create_pool(study.jobs, torch.set_num_threads, threads)
    running: dict[Future[float], tuple[Trial, Path]] = {}
    try:
        while waiting or running:
            while waiting and len(running) < study.jobs:
                trial, file = waiting.pop()
                running[pool.submit(_one, measure, trial, study.corpus, file)] = (trial, file)
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                trial, file = running.pop(future)
                progress.ended(trial, file, future.result())
    except BrokenProcessPool:
        raise UserError(
            "a process of the study was killed, perhaps for want of memory; pass a smaller --jobs. "
            "What has ended is kept"
        ) from None
    except BaseException:
        for process in list(pool._processes.values()):  # else a trial would go on for minutes
            process.kill()
        raise
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


@cache
def _code(file: str) -> str:
    """A hash of the source that carries out a trial, the measure's own file included."""
    root = Path(__file__).parent.parent
    files = [source for source in sorted(root.rglob("*.py")) if source.relative_to(root).parts[0] not in _BYSTANDERS]
    return hashlib.sha256(b"".join(source.read_bytes() for source in [*files, Path(file)])).hexdigest()


def _one(measure: Measure, trial: Trial, corpus: Corpus, file: Path) -> float:
    """Carry out a trial and file its result; the seconds it took."""
    start = time.monotonic()
    result = measure(trial.recipe, corpus)
    seconds = time.monotonic() - start
    record = {
        "label": trial.label,
        "seconds": seconds,
        "recipe": trial.recipe.model_dump(mode="json"),
        "result": result,
        "sha256": _checksum(finite(result)),
    }
    write_whole(file, json.dumps(finite(record)).encode())
    return seconds


def _infinite(value: Any) -> Any:
    """What JSON had no word for."""
    if isinstance(value, dict):
        return {key: _infinite(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_infinite(item) for item in value]
    return math.inf if value is None else value


class _Record(Stored):
    """A trial's file."""

    label: str
    seconds: float
    recipe: dict[str, Any]
    result: Result
    sha256: str


def _checksum(result: Result) -> str:
    return hashlib.sha256(json.dumps(result, sort_keys=True).encode()).hexdigest()


def _read(file: Path) -> _Record | None:
    """What is on file of a trial; one whose file is damaged is carried out again."""
    try:
        record = read_stored(file, _Record)
    except (OSError, DamagedError):
        return None
    return record if record.sha256 == _checksum(record.result) else None
