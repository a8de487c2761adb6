"""Launched jobs, with patches for their processes."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from launched import Job, obey_signals, runs


@pytest.fixture
def launch(tiny: Path) -> Iterator[Callable[..., Job]]:
    """``launch(name, *overrides, options=(), code="")``; what is left of the jobs is killed at the end."""
    jobs: list[Job] = []

    def start(name: str, *overrides: str, options: tuple[str, ...] = (), code: str = "") -> Job:
        paths = [*sys.path]
        if code:
            patches = tiny.parent / f"patches{len(jobs)}"
            patches.mkdir()
            (patches / "sitecustomize.py").write_text(code)
            paths = [str(patches), *paths]
        log = tiny.parent / f"{len(jobs)}.log"
        words = [str(tiny), f"name={name}", "watch.log_every=1", "parallel.timeout=1", *overrides]
        with log.open("wb") as output:
            launcher = subprocess.Popen(
                [sys.executable, "-m", "isogloss", "launch", "local", "--ranks", "2", *options, *words],
                env=os.environ | {"PYTHONPATH": os.pathsep.join(paths)},
                stdout=output,
                stderr=subprocess.STDOUT,
                preexec_fn=obey_signals,
            )
        jobs.append(Job(launcher, log, tiny.parent / "runs" / name))
        return jobs[-1]

    yield start
    for job in jobs:
        for pid in [job.launcher.pid, *job.ranks]:
            if runs(pid):
                os.kill(pid, signal.SIGKILL)
        job.launcher.wait()
