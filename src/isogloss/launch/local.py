"""The ranks of a run on this machine, under torchrun's agent, which lives in this process.

Beyond what torchrun does by itself:

- signals are passed on to the ranks, SIGUSR1 and SIGUSR2 too, so that they save and end by themselves; torchrun ends
  with status 1 in 30 seconds, whatever they do, and leaves them behind on SIGUSR1. A second one kills them.
- ranks that have saved and want to be started again leave their exit code in a file, and this process exits with it:
  for torchrun a code other than 0 is a failure, to be answered with a restart.
- what is said of a failure is which rank failed first, and how, once.
"""

import logging
import os
import shlex
import shutil
import signal
import sys
import tempfile
import threading
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

import torch.distributed.elastic.rendezvous.registry as rendezvous
from filelock import Timeout
from torch.distributed.elastic.agent.server.api import RunResult, WorkerGroup, WorkerSpec
from torch.distributed.elastic.agent.server.local_elastic_agent import LocalElasticAgent
from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs, SignalException
from torch.distributed.elastic.multiprocessing.errors import ProcessFailure
from torch.distributed.elastic.rendezvous import RendezvousParameters

from isogloss.config.base import UserError
from isogloss.durable import FileLock
from isogloss.exit_codes import SIGNALLED, USAGE
from isogloss.parallel.env import LAUNCHER
from isogloss.streams import say_error
from isogloss.train.signals import ECHO, ENDING, HEARD, OUTCOME, REQUEUE

_PREFIX = "isogloss-launch-"
# Ranks of a job that has failed have nothing to save: they get so many seconds between SIGTERM and SIGKILL.
_GRACE = 5
# A rank with this exit code has said what the user can mend; another attempt would end the same way.
_MENDABLE = USAGE
# A scheduler's signal found the rank before its first step, or before it listened: there was nothing to save.
_EARLY = (REQUEUE, -signal.SIGUSR1, -signal.SIGUSR2)
# Someone at a terminal, who does not want it started again; the others come from schedulers.
_FINAL = tuple(number for number in ENDING if number != signal.SIGTERM)
_ENDED = tuple(SIGNALLED + number for number in _FINAL)


@dataclass(frozen=True)
class LocalLaunch:
    """What is started.

    Args:
        words: the recipe and its overrides, as ``isogloss train`` takes them.
        ranks: how many processes.
        threads: of each; the machine's cores shared out if ``None``.
        max_restarts: how often all ranks are started again after one has failed.
        fresh: set a former run of that name aside.
    """

    words: Sequence[str]
    ranks: int
    threads: int | None = None
    max_restarts: int = 0
    fresh: bool = False

    @property
    def command(self) -> list[str]:
        """What each rank runs."""
        options = ["--fresh"] if self.fresh else []
        return [sys.executable, "-m", "isogloss", "train", *options, *self.words]

    @property
    def n_threads(self) -> int:
        """Threads of a rank."""
        return self.threads or max(1, _n_cores() // self.ranks)

    def describe(self) -> str:
        """The same launch as a command line of torchrun's."""
        options = f"--standalone --nproc-per-node {self.ranks} --max-restarts {self.max_restarts}"
        return f"OMP_NUM_THREADS={self.n_threads} torchrun {options} -m {shlex.join(self.command[2:])}"


def launch_local(launch: LocalLaunch) -> int:
    """Run all ranks to their end; the exit code that this process should have.

    0: finished; 75: saved, start it again; 128 + n: ended by signal n; else that of the rank that failed first.
    """
    logging.getLogger("torch.distributed.elastic").setLevel(logging.CRITICAL)  # told once, by this module
    with _scratch() as folder:
        agent = _Agent(launch, folder)
        told = {"OMP_NUM_THREADS": launch.n_threads, OUTCOME: agent.outcome, LAUNCHER: os.getpid()}
        # The agent's own handlers raise in the middle of what it does; only SIGQUIT is left to them.
        told["TORCHELASTIC_SIGNALS_TO_HANDLE"] = "SIGQUIT"
        with _environment(told), agent.signals_forwarded():
            try:
                result: RunResult = agent.run()  # pyright: ignore
            except SignalException as ended:
                return agent.ended() if agent.asked else SIGNALLED + ended.sigval
        if result.is_failed():
            failure = agent.first(result.failures)
            # What a rank failed at while it saved counts more than what it was asked.
            obeyed = (-agent.asked, SIGNALLED + agent.asked, -signal.SIGKILL) if agent.asked else ()
            if failure.exitcode in (*_EARLY, *obeyed):
                return agent.ended()
            if failure.exitcode != _MENDABLE:  # that rank has said why
                _say(_describe(failure) + "; the others have been ended")
            return failure.exitcode if failure.exitcode > 0 else SIGNALLED - failure.exitcode
        return int(agent.outcome.read_text(encoding="utf-8")) if agent.outcome.exists() else 0


@contextmanager
def _scratch() -> Iterator[str]:
    """A folder for the launch alone, removed at its end, as are those of launches that were killed.

    A launch holds a lock in its folder, which the system releases when the process has gone.
    """
    with (
        tempfile.TemporaryDirectory(prefix=_PREFIX, ignore_cleanup_errors=True) as folder,
        FileLock(Path(folder, "lock")) as lock,
    ):
        if lock.is_held:  # else no lock says which others are alive
            for left in Path(tempfile.gettempdir()).glob(f"{_PREFIX}*/lock"):
                if left.parent != Path(folder):
                    with suppress(OSError, Timeout), FileLock(left, timeout=0):  # another user's, or a living one's
                        shutil.rmtree(left.parent, ignore_errors=True)
        yield folder


class _Agent(LocalElasticAgent):
    """torchrun's agent for one machine, which passes signals on."""

    def __init__(self, launch: LocalLaunch, folder: str) -> None:
        parameters = RendezvousParameters(
            backend="c10d",
            endpoint="localhost:0",
            run_id=uuid.uuid4().hex,
            min_nodes=1,
            max_nodes=1,
            local_addr="localhost",
        )
        spec = WorkerSpec(
            role="rank",
            local_world_size=launch.ranks,
            entrypoint=launch.command[0],
            args=tuple(launch.command[1:]),
            rdzv_handler=rendezvous.get_rendezvous_handler(parameters),
            max_restarts=launch.max_restarts,
            monitor_interval=0.1,
            local_addr="localhost",
        )
        super().__init__(spec, DefaultLogsSpecs(log_dir=folder), shutdown_timeout=_GRACE)
        self.outcome = Path(folder) / "outcome"
        self.asked, self._since, self._again = 0, 0.0, False
        self._pids: list[int] = []
        self._gone: set[int] = set()  # those that failed by themselves, before the agent ended the others

    @contextmanager
    def signals_forwarded(self) -> Iterator[None]:
        """Pass signals on to the ranks; a second one that means the end kills them."""
        former = {number: signal.getsignal(number) for number in HEARD}
        heard = [number for number in HEARD if former[number] not in (signal.SIG_IGN, None)]
        for number in heard:
            signal.signal(number, self._forward)
        try:
            yield
        finally:
            for number in heard:
                signal.signal(number, former[number])

    def ended(self) -> int:
        """The exit code after a signal that found ranks with nothing to save, or that came twice."""
        if self._again or self.asked in _FINAL:
            return SIGNALLED + self.asked
        _say("asked to end with nothing left to save; the same command goes on")
        return REQUEUE

    def _forward(self, number: int, frame: FrameType | None) -> None:
        if number in ENDING:
            if self.asked in ENDING and time.monotonic() - self._since < ECHO:
                return
            self._again = self.asked in ENDING
            self.asked, self._since = self.asked if self._again else number, time.monotonic()
            if self._again:
                number = signal.SIGKILL
        elif not self._pids:  # no rank has been started; none is to be
            self.asked = self.asked or number
        self._signal(number)

    def _signal(self, number: int) -> None:
        for pid in self._pids:
            if pid not in self._gone:
                with suppress(ProcessLookupError):
                    os.kill(pid, number)

    # PyTorch documents both as what an agent of one's own defines; its decorators hide their types.
    def _start_workers(self, worker_group: WorkerGroup) -> dict[int, Any]:  # pyright: ignore
        if self.asked:  # not again for someone who wants it ended
            raise SignalException("asked to end", signal.Signals(self.asked))
        # Of a rank that the agent ended with one that had failed, before its first step: these may finish.
        self.outcome.unlink(missing_ok=True)
        with _held_back():  # the ranks are born so too, and hear when they can answer (`isogloss.__main__`)
            pids: dict[int, Any] = super()._start_workers(worker_group)  # pyright: ignore
            self._pids, self._gone = list(pids.values()), set()
            if self.asked:  # a thread of PyTorch's, which holds nothing back, took it while there was no rank to tell
                self._signal(self.asked)
        return pids

    def _monitor_workers(self, worker_group: WorkerGroup) -> RunResult:  # pyright: ignore
        if not self._gone:
            self._gone = {pid for pid in self._pids if _has_failed(pid)}
        # The agent gives the others half a minute, and one that is stopped takes all of it.
        killing = threading.Timer(_GRACE, self._signal, [signal.SIGKILL])
        if self._gone:
            killing.start()
        result: RunResult = super()._monitor_workers(worker_group)  # pyright: ignore
        killing.cancel()
        if result.is_failed() and self.first(result.failures).exitcode in (_MENDABLE, *_EARLY, *_ENDED):
            self._remaining_restarts = 0
        if result.is_failed() and self._remaining_restarts > 0 and not self.asked:
            restart = worker_group.spec.max_restarts - self._remaining_restarts + 1
            text = _describe(self.first(result.failures))
            self._pids = []  # until they have been started, whoever asks them to end must be kept
            _say(f"{text}; all ranks start again ({restart} of {worker_group.spec.max_restarts})")
        return result

    def first(self, failures: dict[int, ProcessFailure]) -> ProcessFailure:
        """The failure that began it: of a rank that was gone before the agent ended the others with it."""
        return min(
            failures.values(),
            key=lambda failure: (failure.pid not in self._gone, failure.exitcode == -signal.SIGTERM, failure.exitcode),
        )


def check_local(launch: LocalLaunch, n_gpus: int = 0) -> None:
    """Refuse what cannot run.

    Args:
        launch: what is to be started.
        n_gpus: GPUs that its ranks train on; 0 where they train on CPUs.

    Raises:
        UserError: there are fewer GPUs or cores than the launch needs.
    """
    if 0 < n_gpus < launch.ranks:
        raise UserError(
            f"{launch.ranks} ranks are more than the {n_gpus} GPUs here, and each needs its own. Lower --ranks, or "
            "train on CPUs with train.device=cpu"
        )
    if launch.threads is not None and launch.threads * launch.ranks > _n_cores():
        raise UserError(
            f"{launch.ranks} ranks of {launch.threads} threads are more than the {_n_cores()} cores here; they would "
            "wait for each other. Lower --threads, or leave it out"
        )


def _has_failed(pid: int) -> bool:
    """Whether a child has ended with an error; it is still to be waited for."""
    if sys.platform != "linux":  # not offered everywhere; without it the first failure is a guess
        return False
    with suppress(ChildProcessError):
        ended = os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        return ended is not None and ended.si_status != 0
    return False


@contextmanager
def _environment(told: Mapping[str, object]) -> Iterator[None]:
    """Variables for the ranks, which have this process's; whatever it starts later is not to have them."""
    former = {name: os.environ.get(name) for name in told}
    os.environ.update({name: str(value) for name, value in told.items()})
    try:
        yield
    finally:
        for name, value in former.items():
            os.environ.pop(name)
            if value is not None:
                os.environ[name] = value


@contextmanager
def _held_back() -> Iterator[None]:
    """Signals that come meanwhile are delivered at the end, unless another thread takes them."""
    if sys.platform == "win32":
        yield
        return
    former = signal.pthread_sigmask(signal.SIG_BLOCK, HEARD)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, former)


def _n_cores() -> int:
    return len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1


def _describe(failure: ProcessFailure) -> str:
    how = f"ended with exit code {failure.exitcode}"
    if failure.exitcode < 0:
        how = f"was killed by {signal.Signals(-failure.exitcode).name}"
    return f"rank {failure.local_rank} (process {failure.pid}) {how}"


def _say(text: str) -> None:
    say_error(f"isogloss launch: {text}")
