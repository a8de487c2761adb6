"""Jobs of two ranks under `isogloss launch local`: signals, deaths, hangs, and errors, each with its control.

A control takes one guard out, and the job must fail the test. ``ISOGLOSS_FAULTS=N`` makes each fault N / 20 times at
moments drawn anew, each signal N / 50 times to each, and N / 2 short runs (``make faults``: 100); by default a few.
"""

import os
import random
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

import checkpoint_jobs as jobs
import ranks
from isogloss.train.metrics import read_metrics
from isogloss.train.signals import REQUEUE
from isogloss.train.watchdog import HUNG
from launched import ENDLESS

N = int(os.environ.get("ISOGLOSS_FAULTS", "0"))
TIMES = range(max(N // 20, 1))
long = pytest.mark.skipif(N == 0, reason="a longer campaign: make faults")
pytestmark = [pytest.mark.slow, pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")]

# What a job does without one of its guards; run before anything else in each of its processes.
UNGUARDED = {
    "agreement": "import isogloss.train.agreement as m; m.agree = lambda found: found",
    "death with the parent": "import isogloss.parallel.env as m; m.end_with_parent = lambda parent: None",
    "watchdog": "import isogloss.train.watchdog as m; m.Watchdog.__enter__ = lambda self: self\n"
    "m.Watchdog.__exit__ = lambda self, *error: None",
    "first error": "import contextlib, isogloss.train.first_error as m\n"
    "m.first_error = lambda ranks: contextlib.nullcontext()",
    "leaving at once": "import sys, isogloss.cli as m; m.leave = sys.exit",
}
# What PyTorch tears down at the end of a process aborts now and then; here it always does.
ABORTING = "import atexit, os\nif 'RANK' in os.environ: atexit.register(os.abort)\n"
BROKEN = """
import os, isogloss.train.step as m
step, calls = m.train_step, []
def train_step(model, *args, **kwargs):
    calls.append(1)
    if os.environ.get("RANK") == "1" and len(calls) == 5:
        {what}
    return step(model, *args, **kwargs)
m.train_step = train_step
"""
RAISING = BROKEN.format(what="raise RuntimeError('a cosmic ray')")
HELD = """
import os, pathlib
if "RANK" in os.environ:
    import gates
    gates.hold({step}, pathlib.Path({gate!r}))
"""
# Rank 0 computes for long between two words with the other, as with a model of any size.
SLOW = """
import os, time, isogloss.train.step as m
step = m.train_step
def train_step(*args, **kwargs):
    if os.environ.get("RANK") == "0":
        time.sleep(1.0)
    return step(*args, **kwargs)
m.train_step = train_step
"""
POISONING = BROKEN.format(
    what="kernel = model.loss_kernel; model.loss_kernel = lambda *a: tuple(part * float('nan') for part in kernel(*a))"
)


def final(folder: Path) -> dict[str, Any]:
    """The newest checkpoint's tensors, and the losses recorded."""
    newest = max((folder / "checkpoints").iterdir())
    tensors = {path.name: path.read_bytes() for path in sorted(newest.glob("*.safetensors"))}
    assert tensors
    losses = {r["step"]: r["loss"] for r in read_metrics(folder / "metrics.jsonl") if r["kind"] == "train"}
    return {"step": newest.name, "tensors": tensors, "losses": losses}


def some_step() -> int:
    return random.randrange(2, 20)


@pytest.fixture(autouse=True)
def _drawn() -> None:
    """Moments are drawn anew in a campaign only."""
    random.seed(None if N else 0)


@pytest.fixture
def gate(tiny: Path) -> Path:
    """A file; while it exists, ranks that are started with ``HELD`` wait for it."""
    gate = tiny.with_name("gate")
    gate.touch()
    return gate


ONE_THREAD = ("--threads", "1")  # as the ranks of tests have
TO_THE_END = ["optim.schedule.type=constant", "train.steps=200"]
VERY_SHORT = ["train.steps=3", "optim.schedule.warmup=1"]
# Validation comes between a step and its checkpoint.
LONG = ["train.steps=250", "checkpoint.every=5", "watch.validate_every=5", "watch.sample_every=1000"]
SHORT = ["train.steps=40", "checkpoint.every=10", "watch.validate_every=10", "watch.sample_every=100"]


@pytest.mark.campaign(3, 18)
def test_stopped_killed_and_restarted_it_ends_as_if_nothing_had_been(launch, tiny: Path, gate: Path) -> None:
    """SIGUSR1 to one rank: both save at the same step, code 75. Then SIGKILL of one rank under --max-restarts."""
    undisturbed = ["name=whole", "watch.log_every=1", *SHORT]
    whole = ranks.start(jobs.train_recipe, 2, str(tiny), undisturbed, launched=True)
    held = HELD.format(step=30, gate=str(gate))
    cut = launch("cut", *SHORT, options=ONE_THREAD, code=held)
    cut.wait_for_step(some_step())
    os.kill(random.choice(cut.ranks), signal.SIGUSR1)
    gate.unlink()
    assert cut.wait() == REQUEUE, cut.text
    assert "the same command goes on from there" in cut.text
    assert cut.orphans() == []

    gate.touch()
    held = HELD.format(step=35, gate=str(gate))
    again = launch("cut", *SHORT, options=(*ONE_THREAD, "--max-restarts", "1"), code=held)
    again.wait_for_step(cut.step() + 2)
    victim = random.randrange(2)
    os.kill(again.ranks[victim], signal.SIGKILL)
    gate.unlink()
    assert again.wait() == 0, again.text
    assert f"rank {victim} (process {again.ranks[victim]}) was killed by SIGKILL; all ranks start again" in again.text
    assert "resuming after step" in again.text
    assert ranks.end(whole) == [0, 0]
    assert final(cut.folder.with_name("whole")) == final(cut.folder)


@pytest.mark.campaign(3)
@long
def test_a_rank_killed_ten_times_in_one_launch(launch) -> None:
    whole, killed = launch("whole", *LONG), launch("killed", *LONG, options=("--max-restarts", "10"))
    for _ in range(10):
        killed.wait_for_step(killed.step() + random.randrange(2, 20))  # a step that only new ranks can reach
        os.kill(random.choice(killed.ranks), signal.SIGKILL)
        assert killed.orphans() == []
    assert killed.wait() == 0, killed.text
    assert killed.text.count("all ranks start again") == 10
    assert whole.wait() == 0, whole.text
    assert final(whole.folder) == final(killed.folder)


@pytest.mark.campaign(19)
def test_an_error_on_one_rank_ends_both_and_is_told_once(launch, gate: Path) -> None:
    job = launch("raising", *ENDLESS, code=RAISING + HELD.format(step=3, gate=str(gate)))
    job.wait_for_step(1)
    gate.unlink()
    assert job.wait() == 1, job.text
    assert "has stood still" not in job.text, "ended by the watchdog, not by the error"
    assert job.text.count("Traceback") == 1, job.text
    assert "RuntimeError: a cosmic ray" in job.text
    assert "(on rank 1 of 2)" in job.text
    assert job.orphans() == []


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory, tiny_factory) -> dict[str, Any]:
    """Of a run that got no signal."""
    recipe = tiny_factory(tmp_path_factory.mktemp("undisturbed"))
    words = [sys.executable, "-m", "isogloss", "launch", "local", "--ranks", "2", str(recipe), *ENDLESS, *TO_THE_END]
    subprocess.run(words, env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}, check=True)
    return final(recipe.parent / "runs/tiny")


@pytest.mark.campaign(18)
@long
@pytest.mark.parametrize("time_", range(max(N // 50, 1)))
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2, signal.SIGINT, signal.SIGHUP])
@pytest.mark.parametrize("to", ["launcher", "rank"])
def test_a_signal_to_any_of_them_saves(launch, undisturbed, number: signal.Signals, to: str, time_: int) -> None:
    """All at the same step; and what goes on from there is the run that got no signal, bit for bit."""
    job = launch("signalled", *ENDLESS, TO_THE_END[0])
    job.wait_for_step(some_step())
    time.sleep(random.uniform(0, 0.2))
    os.kill(job.launcher.pid if to == "launcher" else random.choice(job.ranks), number)
    ending = number in (signal.SIGINT, signal.SIGHUP)
    assert job.wait() == (128 + number if ending else REQUEUE), job.text
    assert job.text.count("saved; the same command") == 1
    assert len(list((job.folder / "checkpoints").glob("step-*"))) == 1
    assert job.orphans() == []
    again = launch("signalled", *ENDLESS, *TO_THE_END)
    assert again.wait() == 0, again.text
    assert final(job.folder) == undisturbed


@pytest.mark.campaign(18)
@long
@pytest.mark.parametrize("time_", TIMES)
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2])
def test_a_signal_before_the_first_step_asks_for_another_start(launch, number: signal.Signals, time_: int) -> None:
    job = launch("early", *ENDLESS)
    time.sleep(random.uniform(0.15, 3))  # an interpreter needs a while to come to our first line
    os.kill(job.launcher.pid, number)
    assert job.wait() == REQUEUE, job.text
    assert "Traceback" not in job.text


@pytest.mark.campaign(21)
@long
def test_a_second_launch_is_refused_and_the_first_goes_on(launch) -> None:
    first = launch("shared", *ENDLESS[:1], *ENDLESS[2:], "checkpoint.every=5")
    first.wait_for_step(3)
    second = launch("shared", *ENDLESS[:1], *ENDLESS[2:], "checkpoint.every=5")
    assert second.wait() == 2, second.text
    named = re.search(r"in use by process (\d+) on " + re.escape(socket.gethostname()), second.text)
    assert named is not None, second.text
    assert int(named[1]) in first.ranks
    assert second.text.count("\n") == 1  # before any rank started
    step = first.step()
    first.wait_for_step(step + 5)
    for pid in first.ranks:
        os.kill(pid, signal.SIGKILL)
    first.wait()
    third = launch("shared", *ENDLESS[:1], *ENDLESS[2:], "checkpoint.every=5")
    third.wait_for_step(first.step() + 1)
    assert "resuming after step" in third.text


@pytest.mark.control(18)
@long
def test_control_without_agreement_a_signal_to_one_rank_hangs(launch) -> None:
    job = launch("alone", *ENDLESS, "parallel.timeout=0.15", code=UNGUARDED["agreement"])
    job.wait_for_step(3)
    os.kill(job.ranks[1], signal.SIGUSR1)
    assert job.wait() != REQUEUE, job.text


@pytest.mark.campaign(18)
@long
@pytest.mark.parametrize("time_", TIMES)
def test_a_second_signal_ends_it_at_once(launch, time_: int) -> None:
    job = launch("twice", *ENDLESS, "train.batch_size=2048", "model.n_layers=8")  # steps that take a while
    job.wait_for_step(1)
    os.kill(job.launcher.pid, signal.SIGTERM)
    time.sleep(0.7)
    began = time.monotonic()
    if job.launcher.poll() is None:
        os.kill(job.launcher.pid, signal.SIGTERM)
    assert job.wait() in (128 + signal.SIGTERM, REQUEUE), job.text
    assert time.monotonic() - began < 20
    assert job.orphans() == []


@pytest.mark.campaign(18)
@long
@pytest.mark.parametrize("time_", TIMES)
def test_a_signal_during_a_save_saves(launch, time_: int) -> None:
    job = launch("saving", *ENDLESS[:1], *ENDLESS[2:], "checkpoint.every=1")
    job.wait_for_step(some_step())
    time.sleep(random.uniform(0, 0.2))
    os.kill(job.launcher.pid, signal.SIGTERM)
    assert job.wait() == REQUEUE, job.text
    stopped = next(line for line in job.text.splitlines() if line.startswith("stopped after step"))
    newest = max((job.folder / "checkpoints").glob("step-*"))
    assert int(newest.name.removeprefix("step-")) == int(stopped.split()[3].rstrip(",")), stopped


@pytest.mark.campaign(19)
@long
@pytest.mark.parametrize("time_", TIMES)
def test_ranks_do_not_outlive_their_launcher(launch, time_: int) -> None:
    job = launch("orphaned", *ENDLESS)
    job.wait_for_step(some_step())
    os.kill(job.launcher.pid, signal.SIGKILL)
    assert job.orphans(30) == []


@pytest.mark.campaign(19)
@long
@pytest.mark.parametrize("time_", TIMES)
def test_nor_one_that_is_killed_as_soon_as_they_are_born(launch, time_: int) -> None:
    job = launch("orphaned", *ENDLESS)
    while len(job.ranks) < 2:
        assert job.launcher.poll() is None, job.text
        time.sleep(0.02)
        job.find_ranks()
    os.kill(job.launcher.pid, signal.SIGKILL)
    assert job.orphans(30) == []


@pytest.mark.control(19)
@long
def test_control_without_death_with_the_parent_they_do(launch) -> None:
    job = launch("orphaned", *ENDLESS, code=UNGUARDED["death with the parent"])
    job.wait_for_step(3)
    os.kill(job.launcher.pid, signal.SIGKILL)
    assert len(job.orphans(15)) == 2


@pytest.mark.campaign(19)
@long
@pytest.mark.parametrize("time_", TIMES)
def test_a_rank_that_is_killed_ends_the_other_and_is_named(launch, time_: int) -> None:
    job = launch("killed", *ENDLESS)
    job.wait_for_step(some_step())
    victim = random.randrange(2)
    began = time.monotonic()
    os.kill(job.ranks[victim], signal.SIGKILL)
    assert job.wait() == 128 + signal.SIGKILL, job.text
    assert time.monotonic() - began < 30
    assert f"rank {victim} (process {job.ranks[victim]}) was killed by SIGKILL" in job.text
    assert "Traceback" not in job.text
    assert job.orphans() == []


@pytest.mark.campaign(19)
@long
def test_a_rank_that_is_killed_while_the_other_computes_is_all_that_is_told(launch) -> None:
    """The launcher's SIGTERM comes before rank 0 misses the other, and is taken for a request to save."""
    job = launch("killed", *ENDLESS, code=SLOW)
    job.wait_for_step(2)
    os.kill(job.ranks[1], signal.SIGKILL)
    assert job.wait() == 128 + signal.SIGKILL, job.text
    assert "rank 1 (process" in job.text
    assert "Traceback" not in job.text


@pytest.mark.campaign(19)
@long
@pytest.mark.parametrize("time_", TIMES)
def test_a_rank_that_is_stopped_is_named_within_the_timeout(launch, time_: int) -> None:
    job = launch("stopped", *ENDLESS, "parallel.timeout=0.1")
    job.wait_for_step(some_step())
    victim = random.randrange(2)
    began = time.monotonic()
    os.kill(job.ranks[victim], signal.SIGSTOP)
    assert job.wait() == HUNG, job.text
    assert time.monotonic() - began < 6 + 30  # the limit, the report, and the seconds a stopped process is given
    assert f"rank {victim} gives no sign of life" in job.text
    assert job.text.count("has stood still for") == 1
    assert job.orphans() == []


@pytest.mark.campaign(15, 19)
@long
def test_tokens_cut_short_under_way_end_both_and_are_prepared_again(launch, tiny: Path) -> None:
    job = launch("short", *ENDLESS, *TO_THE_END[:1])
    job.wait_for_step(3)
    (tokens,) = (tiny.parent / "prepared").glob("*/train-00000.bin")
    os.truncate(tokens, 0)
    assert job.wait() == 128 + signal.SIGBUS, job.text
    assert "was killed by SIGBUS" in job.text
    assert job.orphans() == []
    again = launch("short", *ENDLESS, *TO_THE_END)
    assert again.wait() == 0, again.text
    assert "train-00000.bin: damaged" in again.text


@pytest.mark.control(19)
@long
def test_control_without_the_watchdog_nobody_says_who(launch) -> None:
    job = launch("stopped", *ENDLESS, "parallel.timeout=0.1", code=UNGUARDED["watchdog"])
    job.wait_for_step(3)
    os.kill(job.ranks[1], signal.SIGSTOP)
    assert job.wait() != HUNG
    assert "no sign of life" not in job.text


@pytest.mark.control(19)
@long
def test_control_without_the_first_error_both_tell_theirs(launch) -> None:
    job = launch("raising", *ENDLESS, code=RAISING + UNGUARDED["first error"])
    job.wait()
    assert "(on rank 1 of 2)" not in job.text


@pytest.mark.campaign(13)
@long
def test_a_loss_that_is_not_finite_on_one_rank_is_seen_by_both(launch) -> None:
    job = launch("poisoned", *SHORT, "train.max_skipped=3", code=POISONING)
    assert job.wait() == 2, job.text
    assert job.text.count("has not been finite for 3 steps in a row") == 1
    records = [r for r in read_metrics(job.folder / "metrics.jsonl") if r["kind"] == "train"]
    assert max(r["skipped"] for r in records) >= 2


@pytest.mark.campaign(24)
@long
@pytest.mark.parametrize("time_", range(max(N // 2, 1)))
@pytest.mark.parametrize("output", ["", "import sys; sys.stdout = sys.stderr = None"], ids=["heard", "closed"])
def test_short_runs_end_with_zero(launch, output: str, time_: int) -> None:
    job = launch("short", *SHORT, *VERY_SHORT, code=output)
    assert job.wait() == 0, job.text


@pytest.mark.campaign(24)
@long
def test_an_abort_of_what_is_torn_down_is_passed_by(launch) -> None:
    assert (job := launch("short", *SHORT, *VERY_SHORT, code=ABORTING)).wait() == 0, job.text


@pytest.mark.control(24)
@long
def test_control_without_leaving_at_once_it_is_the_end_of_the_run(launch) -> None:
    job = launch("short", *SHORT, *VERY_SHORT, code=ABORTING + UNGUARDED["leaving at once"])
    assert job.wait() == 128 + signal.SIGABRT, job.text


@pytest.mark.campaign(16)
@long
def test_a_wrong_recipe_is_refused_once_before_any_rank_starts(launch) -> None:
    job = launch("wrong", "train.stpes=3")
    assert job.wait() == 2
    assert job.text.count("did you mean steps?") == 1
