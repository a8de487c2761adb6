"""What a local launch would run, and which failure it names; jobs themselves are in tests/faults/launch."""

import errno
import fcntl
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from filelock import FileLock
from torch.distributed.elastic.agent.server.api import RunResult, WorkerState
from torch.distributed.elastic.agent.server.local_elastic_agent import LocalElasticAgent
from torch.distributed.elastic.multiprocessing import SignalException
from torch.distributed.elastic.multiprocessing.errors import ProcessFailure

from isogloss.config.base import UserError
from isogloss.launch import local as module
from isogloss.launch.local import LocalLaunch, _Agent, _has_failed, check_local, launch_local
from isogloss.recipe import load_recipe
from isogloss.run.folder import RunFolder


@pytest.fixture
def cores(monkeypatch):
    monkeypatch.setattr(module, "_n_cores", lambda: 8)


def test_cores_are_shared_out(cores) -> None:
    assert LocalLaunch(["tiny"], 4).n_threads == 2
    assert LocalLaunch(["tiny"], 16).n_threads == 1
    assert LocalLaunch(["tiny"], 2, threads=3).n_threads == 3


def test_what_would_run_is_a_command_line(cores) -> None:
    said = LocalLaunch(["tiny", "data.train=[a b]"], 2, max_restarts=3).describe()
    command = "torchrun --standalone --nproc-per-node 2 --max-restarts 3 -m isogloss train tiny 'data.train=[a b]'"
    assert said == f"OMP_NUM_THREADS=4 {command}"


def test_more_threads_than_cores_are_refused(cores) -> None:
    check_local(LocalLaunch(["tiny"], 2, threads=4))
    with pytest.raises(UserError, match="2 ranks of 5 threads are more than the 8 cores"):
        check_local(LocalLaunch(["tiny"], 2, threads=5))


def test_more_ranks_than_gpus_are_refused(cores) -> None:
    for n_gpus in (0, 2, 3):
        check_local(LocalLaunch(["tiny"], 2), n_gpus)
    with pytest.raises(UserError, match="2 ranks are more than the 1 GPUs here"):
        check_local(LocalLaunch(["tiny"], 2), 1)


def failure(rank: int, code: int) -> ProcessFailure:
    return ProcessFailure(local_rank=rank, pid=100 + rank, exitcode=code, error_file="none")


@pytest.mark.parametrize(
    ("codes", "gone", "first"),
    [
        ((-15, -9), {101}, 1),  # killed; the agent ended the other
        ((70, -9), {100}, 0),  # the watchdog's; the agent killed the one that was stopped
        ((1, 2), set(), 0),
        ((-15, 1), set(), 1),  # nobody saw which was first, but the agent's own signal was not
        ((1, -11), set(), 1),
    ],
)
def test_the_failure_that_began_it(tmp_path, codes: tuple[int, int], gone: set[int], first: int) -> None:
    agent = _Agent(LocalLaunch(["tiny"], 2), str(tmp_path))
    agent._gone = gone
    failures = {rank: failure(rank, code) for rank, code in enumerate(codes)}
    assert agent.first(failures).local_rank == first


@pytest.mark.skipif(sys.platform != "linux", reason="os.waitid")
def test_a_child_that_has_failed_is_seen_and_can_still_be_waited_for() -> None:
    children = [subprocess.Popen([sys.executable, "-c", f"exit({code})"]) for code in (0, 3)]
    endless = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    assert not _has_failed(endless.pid)
    endless.send_signal(signal.SIGKILL)
    for child in [*children, endless]:
        os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    assert [_has_failed(child.pid) for child in [*children, endless]] == [False, True, True]
    assert [child.wait() for child in [*children, endless]] == [0, 3, -9]
    assert not _has_failed(endless.pid)


@pytest.mark.parametrize(("code", "left"), [(2, 0), (75, 0), (-signal.SIGUSR1, 0), (129, 0), (1, 3), (-9, 3), (70, 3)])
def test_what_the_user_must_mend_is_not_tried_again(tmp_path, monkeypatch, capfd, code: int, left: int) -> None:
    agent = _Agent(LocalLaunch(["tiny"], 2, max_restarts=3), str(tmp_path))
    result = RunResult(state=WorkerState.FAILED, failures={0: failure(0, code)})
    monkeypatch.setattr(LocalElasticAgent, "_monitor_workers", lambda self, group: result)
    agent._monitor_workers(agent._worker_group)
    assert agent._remaining_restarts == left
    assert ("all ranks start again (1 of 3)" in capfd.readouterr().err) == bool(left)


@pytest.fixture
def started(monkeypatch) -> list[LocalLaunch]:
    """The launches that came so far as to start ranks."""
    launches = list[LocalLaunch]()
    monkeypatch.setattr(module, "launch_local", lambda launch: launches.append(launch) or 0)
    return launches


@pytest.mark.parametrize("options", [(), ("--fresh",), ("--max-restarts", "2")])
def test_a_run_that_is_held_is_refused_before_any_rank_starts(call, tiny: Path, started, options) -> None:
    folder = RunFolder(load_recipe(str(tiny)).folder)
    with folder.locked():
        code, said, told = call("launch", "local", *options, tiny)
    here = f"process {os.getpid()} on {socket.gethostname()}"
    assert (code, said) == (2, "")
    assert told.splitlines() == [
        f"isogloss: {folder.path} is in use by {here}; wait for it, or give this run another name (name=...)"
    ]
    assert started == []


def test_the_ranks_of_a_launch_can_take_its_folder(call, tiny: Path, monkeypatch) -> None:
    folder = RunFolder(load_recipe(str(tiny)).folder)
    taken = list[bool]()

    def launch(launch: LocalLaunch) -> int:
        with folder.locked():
            taken.append(True)
        return 0

    monkeypatch.setattr(module, "launch_local", launch)
    assert call("launch", "local", tiny)[0] == 0
    assert call("launch", "local", tiny)[0] == 0  # the file of a lock is there now, and nobody holds it
    assert taken == [True, True]


def test_a_dry_run_is_shown_while_another_trains(call, tiny: Path, started) -> None:
    with RunFolder(load_recipe(str(tiny)).folder).locked():
        assert call("launch", "local", "--dry-run", tiny)[0] == 0


def test_looking_makes_nothing(call, tiny: Path, started) -> None:
    assert call("launch", "local", tiny)[0] == 0
    assert len(started) == 1
    assert not load_recipe(str(tiny)).folder.exists()


def test_a_fresh_run_is_set_aside_by_the_ranks() -> None:
    assert LocalLaunch(["tiny"], 2, fresh=True).command[-2:] == ["--fresh", "tiny"]


@pytest.mark.parametrize(
    ("asked", "again", "code", "ends"),
    [
        (0, False, 1, 1),
        (0, False, -9, 137),
        (0, False, 75, 75),  # a rank was asked itself
        (signal.SIGUSR1, False, -signal.SIGUSR1, 75),
        (signal.SIGTERM, False, -signal.SIGTERM, 75),
        (signal.SIGTERM, True, -9, 143),
        (signal.SIGINT, False, -signal.SIGINT, 130),
        (signal.SIGINT, False, 130, 130),
        (signal.SIGHUP, False, -signal.SIGHUP, 129),
        (signal.SIGTERM, False, 2, 2),  # it could not save, and has said why
        (signal.SIGTERM, False, 70, 70),
    ],
)
def test_its_exit_code(monkeypatch, asked: int, again: bool, code: int, ends: int) -> None:
    def run(self: _Agent) -> RunResult:
        self.asked, self._again = asked, again
        return RunResult(state=WorkerState.FAILED, failures={0: failure(0, code)})

    monkeypatch.setattr(_Agent, "run", run)
    former = dict(os.environ)
    assert launch_local(LocalLaunch(["tiny"], 2)) == ends
    assert dict(os.environ) == former, "what this process starts next is no rank of that launch"


def signalled_while_started(
    tmp_path: Path, monkeypatch, comes: Callable[[int], None] = signal.raise_signal
) -> tuple[_Agent, list[tuple[int, int]]]:
    """The agent after a SIGUSR1 that came while it started ranks, and what it sent to whom."""
    sent = list[tuple[int, int]]()

    def start(self: LocalElasticAgent, group: object) -> dict[int, int]:
        comes(signal.SIGUSR1)
        return {0: 100, 1: 101}

    monkeypatch.setattr(LocalElasticAgent, "_start_workers", start)
    monkeypatch.setattr(module.os, "kill", lambda pid, number: sent.append((pid, number)))
    agent = _Agent(LocalLaunch(["tiny"], 2), str(tmp_path))
    with agent.signals_forwarded():
        agent._start_workers(agent._worker_group)
    return agent, sent


def test_ranks_that_start_again_are_not_spoken_for_by_those_before(tmp_path, monkeypatch) -> None:
    """Ended with one that had failed, before its first step, a rank leaves the word of one that has more to do."""
    monkeypatch.setattr(LocalElasticAgent, "_start_workers", lambda self, group: {})
    agent = _Agent(LocalLaunch(["tiny"], 2, max_restarts=1), str(tmp_path))
    agent._start_workers(agent._worker_group)
    agent.outcome.write_text("75")
    agent._start_workers(agent._worker_group)
    assert not agent.outcome.exists()


def test_ranks_that_are_gone_get_no_signal(tmp_path, monkeypatch) -> None:
    sent = list[int]()
    monkeypatch.setattr(module.os, "kill", lambda pid, number: sent.append(pid))
    agent = _Agent(LocalLaunch(["tiny"], 3), str(tmp_path))
    agent._pids, agent._gone = [100, 101, 102], {101}
    agent._signal(signal.SIGTERM)
    assert sent == [100, 102]


def test_a_signal_while_ranks_are_started_reaches_them(tmp_path, monkeypatch) -> None:
    _, sent = signalled_while_started(tmp_path, monkeypatch)
    assert sent == [(100, signal.SIGUSR1), (101, signal.SIGUSR1)]


def test_one_that_another_thread_takes_reaches_them_too(tmp_path, monkeypatch) -> None:
    over = threading.Event()
    other = threading.Thread(target=over.wait)
    other.start()
    assert other.ident is not None

    taken, told = socket.socketpair()
    told.setblocking(False)

    def comes(number: int) -> None:
        signal.pthread_kill(other.ident or 0, number)
        assert taken.recv(1) == bytes([number])  # the other thread has it; its handler runs here, in the main thread

    former = signal.set_wakeup_fd(told.fileno())
    try:
        _, sent = signalled_while_started(tmp_path, monkeypatch, comes)
    finally:
        signal.set_wakeup_fd(former)
        over.set()
        other.join()
        taken.close()
        told.close()
    assert sent == [(100, signal.SIGUSR1), (101, signal.SIGUSR1)]


def test_ranks_are_born_with_signals_held_back(tmp_path, monkeypatch) -> None:
    """They answer when they can (`isogloss.__main__`); until then a signal would kill them."""
    masks = list[set[int]]()

    def look(number: int = 0) -> None:
        masks.append(set(signal.pthread_sigmask(signal.SIG_BLOCK, [])))

    look()
    signalled_while_started(tmp_path, monkeypatch, look)
    look()
    before, inside, after = masks
    assert before == after
    assert inside == before | set(module.HEARD)


def test_between_two_attempts_a_schedulers_signal_is_kept(tmp_path, monkeypatch) -> None:
    agent = _Agent(LocalLaunch(["tiny"], 2, max_restarts=3), str(tmp_path))
    agent._pids = [100, 101]
    failed = RunResult(state=WorkerState.FAILED, failures={0: failure(0, 1)})
    monkeypatch.setattr(LocalElasticAgent, "_monitor_workers", lambda self, group: failed)
    agent._monitor_workers(agent._worker_group)
    with agent.signals_forwarded():
        signal.raise_signal(signal.SIGUSR1)
    with pytest.raises(SignalException):
        agent._start_workers(agent._worker_group)
    assert agent.ended() == 75


def test_a_schedulers_signal_before_the_ranks_are_started_is_kept(tmp_path, monkeypatch) -> None:
    agent = _Agent(LocalLaunch(["tiny"], 2), str(tmp_path))
    with agent.signals_forwarded():
        signal.raise_signal(signal.SIGUSR1)
    with pytest.raises(SignalException) as ended:
        agent._start_workers(agent._worker_group)
    assert ended.value.sigval == signal.SIGUSR1


def test_a_launch_removes_what_launches_that_were_killed_left(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(module.tempfile, "tempdir", str(tmp_path))
    for name in ("isogloss-launch-dead", "isogloss-launch-alive", "isogloss-launch-beginning", "other"):
        (tmp_path / name).mkdir()
    (tmp_path / "isogloss-launch-dead/lock").touch()
    with FileLock(tmp_path / "isogloss-launch-alive/lock"), module._scratch() as folder:
        names = {path.name for path in tmp_path.iterdir()}
        assert names == {"isogloss-launch-alive", "isogloss-launch-beginning", "other", Path(folder).name}
        with module._scratch():
            assert Path(folder).is_dir(), "a living launch's own stays"
    assert not Path(folder).exists()


def test_where_the_file_system_locks_nothing_a_launch_removes_nothing_of_others(tmp_path: Path, monkeypatch) -> None:
    def flock(handle: int, operation: int) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", flock)
    monkeypatch.setattr(module.tempfile, "tempdir", str(tmp_path))
    (tmp_path / "isogloss-launch-other").mkdir()
    (tmp_path / "isogloss-launch-other/lock").touch()
    with module._scratch() as folder:
        assert Path(folder).is_dir()
    assert [path.name for path in tmp_path.iterdir()] == ["isogloss-launch-other"]
