"""What ranks do in the test of a run's choices taken together: tiny runs alone, on ranks, stopped, gone on with, moved.

Four processes go through all cases. Of each case: the run of one process; the same on ranks; the same stopped after a
step and gone on with on these ranks, and on others. What differs by more than `docs/parallel.md` states is a finding.
"""

import io
import json
import math
import os
import shutil
import signal
import sys
import traceback
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any
from unittest.mock import patch

import equality
import torch
import torch.distributed as dist
from rich.console import Console

import isogloss.evaluate.loss
import isogloss.nn.loss
import isogloss.run.finish
import isogloss.run.state
import isogloss.run.steps
import isogloss.run.train
import isogloss.train.loop
import isogloss.train.machine
from isogloss.run.train import train
from isogloss.train.display import Display
from isogloss.train.signals import Interrupted
from pair_choices import BAD, MESHES, RANKS, SPIKE, SPIKE_FACTOR, Case, recipe
from pair_findings import differences, exported, unequal


class Pool:
    """The four processes, and the store they keep: each run is made by the first so many of them."""

    def __init__(self, rank: int, port: int) -> None:
        self.rank, self._port, self._n = rank, port, 0
        self._store = dist.TCPStore(  # pyright: ignore[reportPrivateImportUsage]
            "127.0.0.1", port, RANKS, rank == 0, timedelta(minutes=5)
        )

    def wait(self) -> None:
        """Until all are here."""
        self._n += 1
        if self._store.add(f"here/{self._n}", 1) == RANKS:
            self._store.set(f"all/{self._n}", "")
        self._store.wait([f"all/{self._n}"])

    def become(self, n_ranks: int) -> bool:
        """Take the variables of a launcher of so many ranks; whether this is one of them."""
        self._n += 1
        if self.rank < n_ranks:
            be(self.rank, n_ranks, self._port)
            # As torchrun, which keeps one store over its restarts: each run is an attempt.
            os.environ |= {"TORCHELASTIC_USE_AGENT_STORE": "True", "TORCHELASTIC_RESTART_COUNT": str(self._n)}
        return self.rank < n_ranks


def be(rank: int, n_ranks: int, port: int) -> None:
    if n_ranks > 1:
        equality.become(rank, n_ranks, port)
    else:
        for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"):
            os.environ.pop(name, None)


@dataclass(frozen=True)
class Stop:
    """How a run is stopped: after a step, by a signal; or its folder copied, as a kill would leave it."""

    after: int
    copies: Sequence[Path] = ()


def run(case: Case, mesh: str, name: str, root: Path, stop: Stop | None = None) -> str:
    """One run in this process, which is one of its ranks; what was said that should not have been."""
    n_ranks = MESHES[mesh][0]
    last = int(os.environ.get("RANK", "0")) == n_ranks - 1
    if case.get("compiled"):
        torch.compiler.reset()  # as in a process of its own: PyTorch keeps so many compiled forms of a block at most
    shown = io.StringIO()
    heard = root / f"heard-{os.getpid()}"
    with ExitStack() as stack:
        said = stack.enter_context(_listening(heard))
        for patched in _patches(case, last, stop):
            stack.enter_context(patched)
        try:
            train(recipe(case, mesh, name, root), Display(Console(file=shown, width=200)))
            assert stop is None or stop.copies, "it was to be stopped"
        except Interrupted:
            assert stop is not None
            if dist.is_initialized():
                dist.destroy_process_group()
    lines = [line for line in shown.getvalue().splitlines() if "warning" in line.lower()]
    return "\n".join([*lines, said()]).strip()


@contextmanager
def _listening(path: Path) -> Iterator[Callable[[], str]]:
    """Keep what goes to the standard error, each warning each time."""
    former = os.dup(2)
    with path.open("wb") as stream, warnings.catch_warnings():
        for kind in (UserWarning, FutureWarning, RuntimeWarning):
            warnings.simplefilter("always", kind)
        sys.stderr.flush()
        os.dup2(stream.fileno(), 2)
        try:
            yield path.read_text
        except BaseException:
            sys.stderr.flush()
            os.write(former, path.read_bytes())
            raise
        finally:
            sys.stderr.flush()
            os.dup2(former, 2)
            os.close(former)


def _patches(case: Case, last: bool, stop: Stop | None) -> Iterator[Any]:
    """What is done to a run: nothing of it is looked at but what is meant to happen to it."""
    yield patch.object(isogloss.train.machine, "_measure_peak", lambda device, precision: 1e11)
    yield patch.object(isogloss.run.finish, "plot_loss", lambda *rest, **more: None)
    yield patch.object(os, "fsync", lambda handle: None)
    if case["loss"] == "in many":
        yield patch.object(isogloss.nn.loss, "LOGITS_PER_CHUNK", 2000)
    if case.get("without") == "letting go":
        yield patch.object(isogloss.evaluate.loss, "let_go", lambda model: None)
    if case.get("without") == "moments":
        allot = isogloss.run.state.allot_optimizer_tensors
        elsewhere = lambda *rest: {key: tensor.clone() for key, tensor in allot(*rest).items()}  # noqa: E731
        yield patch.object(isogloss.run.state, "allot_optimizer_tensors", elsewhere)
    factors = {}
    if case["not finite"] != "no" and last:
        factors[BAD] = math.nan
    if case["spikes"] == "gone back":
        factors[SPIKE] = SPIKE_FACTOR
    at, made = [0], [0]
    batch = isogloss.run.steps.Prefetcher.batch
    step = isogloss.train.loop.train_step

    def noting(ahead: Any, number: int) -> Any:
        at[0] = number
        return batch(ahead, number)

    def spoilt(model: Any, *rest: Any, **others: Any) -> Any:
        made[0] += 1
        if stop is not None and not stop.copies and made[0] == stop.after and last:
            os.kill(os.getpid(), signal.SIGUSR1)
        factor, kernel = factors.get(at[0]), model.loss_kernel
        if factor is None:
            return step(model, *rest, **others)
        model.loss_kernel = lambda *arguments: tuple(part * factor for part in kernel(*arguments))
        try:
            return step(model, *rest, **others)
        finally:
            model.loss_kernel = kernel

    yield patch.object(isogloss.run.steps.Prefetcher, "batch", noting)
    yield patch.object(isogloss.train.loop, "train_step", spoilt)
    if stop is None or not stop.copies:
        return
    poll = isogloss.run.steps.Saver.poll

    def stopping(saver: Any) -> None:  # between a step and its save
        poll(saver)
        if made[0] == stop.after + 1:
            saver.finish()
            for copy in stop.copies if int(os.environ.get("RANK", "0")) == 0 else ():
                shutil.copytree(saver._root.parent, copy, ignore=shutil.ignore_patterns("lock", "holder.json"))

    yield patch.object(isogloss.run.steps.Saver, "poll", stopping)


def go_through(pool: Pool, number: int, case: Case, root: Path) -> list[str]:
    """All runs of a case; what was found."""
    said: dict[str, str] = {}
    names = {kind: f"{number}-{kind}" for kind in ("alone", "split", "again", "moved")}
    folders = {kind: root / "runs" / name for kind, name in names.items()}
    copies = [folders["again"], folders["moved"]]
    after, killed = int(case["stopped after"]), case["stopped by"] == "kill"

    def together(kind: str, mesh: str, stop: Stop | None = None) -> None:
        if pool.become(MESHES[mesh][0]):
            said[kind] = run(case, mesh, names[kind], root, stop)
        pool.wait()

    together("alone", "alone")
    together("split", case["mesh"], Stop(after, copies) if killed else None)
    if not killed:
        together("again", case["mesh"], Stop(after))
        if pool.rank == 0:
            shutil.copytree(folders["again"], folders["moved"])
    together("again", case["mesh"])
    together("moved", case["moved to"])
    if pool.rank:
        return [f"rank {pool.rank} of {kind} said: {text}" for kind, text in said.items() if text]
    found = [f"{kind} said: {text}" for kind, text in said.items() if text]
    found += [f"ranks: {text}" for text in differences(folders["alone"], folders["split"], case)]
    found += [f"gone on with: {text}" for text in unequal(folders["split"], folders["again"])]
    found += [f"moved: {text}" for text in differences(folders["alone"], folders["moved"], case)]
    return found + exported(folders["split"], root / f"{number}-plain")


def work(rank: int, n_ranks: int, cases: dict[int, Case], root: str) -> None:
    """A process of the pool: writes what it finds of each case as a line."""
    port, folder = int(os.environ["MASTER_PORT"]), Path(root)
    pool = Pool(rank, port)
    for number, case in cases.items():
        try:
            _write(folder, number, go_through(pool, number, case, folder))
        except BaseException:
            _write(folder, number, [f"rank {rank}: {traceback.format_exc()}"])
            raise
        pool.wait()
        if rank == 0:
            for path in (folder / "runs").glob(f"{number}-*"):
                shutil.rmtree(path)


def _write(folder: Path, number: int, found: list[str]) -> None:
    with (folder / "found").open("a") as stream:
        stream.write(json.dumps({"case": number, "found": found}) + "\n")
