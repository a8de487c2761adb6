"""Runs of two ranks under `isogloss launch local`, for tests that signal, stop or break them."""

import signal
import subprocess
import time
from dataclasses import dataclass, field
from pathlib import Path

from isogloss.train.metrics import read_metrics

ENDLESS = ["train.steps=100000", "checkpoint.every=100000", "watch.validate_every=100000", "watch.sample_every=100000"]


@dataclass
class Job:
    """A launched run: its launcher, its ranks' process ids, what it printed."""

    launcher: subprocess.Popen[bytes]
    log: Path
    folder: Path
    ranks: list[int] = field(default_factory=list)

    @property
    def text(self) -> str:
        return self.log.read_text()

    def step(self) -> int:
        return max((r["step"] for r in read_metrics(self.folder / "metrics.jsonl")), default=0)

    def wait_for_step(self, step: int) -> None:
        deadline = time.monotonic() + 300
        while self.step() < step:
            assert self.launcher.poll() is None, self.text
            assert time.monotonic() < deadline, self.text
            time.sleep(0.02)
        self.find_ranks()
        assert len(self.ranks) == 2, self.text

    def find_ranks(self) -> None:
        """Those that have been started so far."""
        children = Path(f"/proc/{self.launcher.pid}/task/{self.launcher.pid}/children")
        self.ranks = [int(pid) for pid in children.read_text().split()]

    def wait(self, seconds: float = 300) -> int:
        """Until the launcher has ended; its exit code."""
        return self.launcher.wait(seconds)

    def orphans(self, seconds: float = 60) -> list[int]:
        """The ranks that still run after so long."""
        deadline = time.monotonic() + seconds
        while (left := [pid for pid in self.ranks if runs(pid)]) and time.monotonic() < deadline:
            time.sleep(0.05)
        return left


def obey_signals() -> None:
    """Children inherit what is ignored, such as Ctrl-C in the background of a shell."""
    for number in (signal.SIGHUP, signal.SIGINT):
        signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)


def runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False
