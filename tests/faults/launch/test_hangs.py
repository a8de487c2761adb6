"""A rank that is stuck is named in every phase of a run in which ranks talk; one that is slow is waited for."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from isogloss.train.watchdog import HUNG

N = int(os.environ.get("ISOGLOSS_FAULTS", "0"))
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform != "linux", reason="reads /proc"),
    pytest.mark.skipif(N == 0, reason="a longer campaign: make faults"),
]
STEPS = [
    "train.steps=6",
    "checkpoint.every=2",
    "watch.validate_every=2",
    "watch.sample_every=2",
    "parallel.timeout=0.1",
]

# A rank's call of a function, from which it does not come back.
STUCK = """
import os, signal, time
import {module} as m
call, calls = m.{name}, []
def stuck(*args, **kwargs):
    calls.append(1)
    if os.environ.get("RANK") == "{rank}" and len(calls) == {number}:
        {how}
    return call(*args, **kwargs)
m.{name} = stuck
"""
ASLEEP, STOPPED = "time.sleep(10000)", "os.kill(os.getpid(), signal.SIGSTOP)"
PHASES = {
    "preparing the corpus": ("isogloss.data.opening", "open_corpus", 0, STOPPED),
    "opening the corpus": ("isogloss.data.prepared", "_open_as_told", 1, ASLEEP),
    "looking at the machine": ("isogloss.train.machine", "find_machine", 0, ASLEEP),
    "building the model": ("isogloss.init.apply", "initialise", 1, ASLEEP),
    "loading the newest checkpoint": ("isogloss.init.fingerprint", "fingerprint", 1, ASLEEP),
    "training step 4": ("isogloss.train.step", "train_step", 1, ASLEEP, 4),
    "validating after step 2": ("isogloss.evaluate.loss", "evaluate_batches", 1, ASLEEP),
    "putting the model together for samples of step 2": ("isogloss.parallel.whole", "whole_tensors", 1, ASLEEP),
    "writing samples of step 2": ("isogloss.generate.engine", "generate", 0, STOPPED),
    "saving step 2": ("isogloss.checkpoint.plan", "plan_save", 1, ASLEEP),
    "writing the checkpoint of step 2": ("isogloss.checkpoint.storage", "write_tensors", 1, ASLEEP),
    "writing the summary": ("isogloss.report.loss", "plot_loss", 0, ASLEEP),
}
# Two seconds for each tensor of a file: more than the limit in all, and for each far less.
SLOW = """
import os, time
import isogloss.checkpoint.storage as m
pieces = m._in_pieces
def slow(tensor):
    if os.environ.get("RANK") == "1":
        time.sleep(2)
    yield from pieces(tensor)
m._in_pieces = slow
"""
LATE = """
import os, time
import isogloss.data.opening as m
call = m.open_corpus
def late(*args, **kwargs):
    if os.environ.get("RANK") == "0":
        time.sleep(15)
    return call(*args, **kwargs)
m.open_corpus = late
"""
UNHEARD = "import isogloss.headway as h; h.advance = lambda: None\n"


@pytest.mark.campaign(19)
@pytest.mark.parametrize("phase", PHASES)
def test_a_rank_that_is_stuck_is_named_with_its_phase(launch, phase: str) -> None:
    module, name, rank, how, number = (*PHASES[phase], 1)[:5]
    code = STUCK.format(module=module, name=name, rank=rank, how=how, number=number)
    job = launch("stuck", *STEPS, code=code)
    assert job.wait() == HUNG, job.text
    assert job.text.count("has stood still for") == 1
    if how == STOPPED:
        assert f"{phase} has stood still for 6 s: rank {rank} gives no sign of life" in job.text
    else:
        assert f"rank {rank} has been {phase} for" in job.text
    assert "Traceback" not in job.text
    assert job.orphans() == []


@pytest.mark.campaign(19)
def test_a_rank_that_writes_a_checkpoint_slowly_is_waited_for(launch) -> None:
    job = launch("slow", *STEPS, "train.steps=2", "optim.schedule.warmup=1", code=SLOW)
    assert job.wait(240) == 0, job.text


@pytest.mark.control(19)
def test_control_unless_it_says_that_it_gets_on(launch) -> None:
    job = launch("slow", *STEPS, "train.steps=2", "optim.schedule.warmup=1", code=UNHEARD + SLOW)
    assert job.wait() == HUNG, job.text
    assert "the checkpoint of step 2 has stood still for" in job.text


@pytest.mark.campaign(19)
def test_what_rank_0_does_alone_may_take_as_long_as_it_likes(launch) -> None:
    job = launch("late", *STEPS, code=LATE)
    assert job.wait() == 0, job.text


@pytest.mark.campaign(19)
def test_a_rank_that_never_comes_is_said(tiny: Path) -> None:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = found.getsockname()[1]
    environment = os.environ | {
        "RANK": "0",
        "LOCAL_RANK": "0",
        "WORLD_SIZE": "2",
        "PYTHONPATH": os.pathsep.join(sys.path),
    }
    environment |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    words = [sys.executable, "-m", "isogloss", "train", str(tiny), "parallel.timeout=0.05"]
    done = subprocess.run(words, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == HUNG, done.stderr
    assert "isogloss: rank 0 of 2 has waited 3 s (parallel.timeout) for the others at 127.0.0.1:" in done.stderr
    assert "Traceback" not in done.stderr
