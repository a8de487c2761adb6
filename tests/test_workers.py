"""Worker processes end with the one that they work for, whatever ends it."""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

import isogloss
from isogloss import workers

PROGRAM = """
import os, sys, time
from pathlib import Path
from isogloss.workers import create_pool

def begin(folder):
    Path(folder, str(os.getpid())).touch()

if __name__ == "__main__":
    pool = create_pool(2, begin, sys.argv[1])
    pool.submit(time.sleep, 1000)
    pool.submit(time.sleep, 0)  # the other one is idle
    time.sleep(1000)
"""


def is_alive(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs /proc to see other processes")
@pytest.mark.parametrize("ended_by", [signal.SIGKILL, signal.SIGTERM, signal.SIGHUP])
def test_no_worker_outlives_a_process_that_is_killed(tmp_path: Path, ended_by: signal.Signals) -> None:
    (tmp_path / "program.py").write_text(PROGRAM)
    (tmp_path / "begun").mkdir()
    parent = subprocess.Popen([sys.executable, str(tmp_path / "program.py"), str(tmp_path / "begun")])
    deadline = time.monotonic() + 300
    while len(begun := [int(path.name) for path in (tmp_path / "begun").iterdir()]) < 2:
        assert parent.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.02)
    assert all(map(is_alive, begun))
    parent.send_signal(ended_by)
    assert parent.wait() == -ended_by
    while any(map(is_alive, begun)):
        assert time.monotonic() < deadline, "a worker outlived the process it worked for"
        time.sleep(0.02)


@pytest.mark.skipif(sys.platform != "linux", reason="prctl")
def test_a_process_whose_parent_was_killed_before_it_came_so_far_ends(monkeypatch) -> None:
    ends, asked = list[int](), list[int]()
    monkeypatch.setattr(workers, "parent_process", lambda: None)  # it may be a worker of the test runner
    monkeypatch.setattr(workers.os, "_exit", ends.append)
    monkeypatch.setattr(
        workers.ctypes, "CDLL", lambda name: SimpleNamespace(prctl=lambda option, value: asked.append(value))
    )
    for parent in (None, os.getppid(), os.getpid()):
        assert ends == []
        workers.end_with_parent(parent)
    assert ends == [128 + signal.SIGTERM]
    assert asked == [signal.SIGTERM] * 3


def test_every_process_that_works_for_another_is_of_this_kind() -> None:
    """No room starts workers, or asks for its parent's end, in another way."""
    starts = re.compile(r"ProcessPoolExecutor\(|get_context\(|\bPool\(|\bProcess\(|prctl|DataLoader\(")
    root = Path(isogloss.__file__).parent
    found = {path.relative_to(root).as_posix() for path in root.rglob("*.py") if starts.search(path.read_text())}
    assert found == {"workers.py"}
