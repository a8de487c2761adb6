"""A run that is stopped, killed or damaged goes on and ends with the bits of an undisturbed one."""

import os
import random
import re
import signal
import subprocess
import sys
import time
from contextlib import nullcontext
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console

import gates
import isogloss.run.steps as module
import ranks
from isogloss import cli
from isogloss.config.base import UserError
from isogloss.recipe import load_recipe
from isogloss.run.folder import RunFolder
from isogloss.run.load import load_run
from isogloss.run.train import train
from isogloss.train.display import Display
from isogloss.train.metrics import read_metrics


class Killed(BaseException):
    """Stands for a process that dies."""


def run(recipe: Path, *overrides: str, fresh: bool = False) -> tuple[dict, str]:
    console = Console(record=True, width=120, quiet=False, file=open(os.devnull, "w"))  # noqa: PTH123, SIM115
    summary = train(load_recipe(str(recipe), overrides), Display(console), fresh=fresh)
    return summary, console.export_text()


def final(folder: Path) -> dict[str, Any]:
    """The bytes of the newest checkpoint, and all that was recorded but times."""
    newest = max((folder / "checkpoints").iterdir())
    timed = ("tokens_per_second", "share_of_peak", "seconds")
    records = read_metrics(folder / "metrics.jsonl")
    files = {name: (newest / f"{name}.safetensors").read_bytes() for name in ("model", "optimizer")}
    return files | {"name": newest.name, "records": [{k: v for k, v in r.items() if k not in timed} for r in records]}


@pytest.mark.campaign(4)
def test_five_steps_and_five_more_are_ten(tiny: Path, monkeypatch) -> None:
    whole, _ = run(tiny, "name=whole", "checkpoint.every=5")
    original = module.Saver.save

    def save_and_die(saver, step, *rest):
        original(saver, step, *rest)
        raise Killed

    monkeypatch.setattr(module.Saver, "save", save_and_die)
    with pytest.raises(Killed):
        run(tiny, "name=cut", "checkpoint.every=5")
    monkeypatch.undo()
    cut, text = run(tiny, "name=cut", "checkpoint.every=5")
    assert "resuming after step 5" in text
    assert final(tiny.parent / "runs/whole") == final(tiny.parent / "runs/cut")
    assert whole["validation"] == cut["validation"]
    assert whole["tokens"] == cut["tokens"]


def test_a_finished_run_says_so_and_changes_nothing(tiny: Path) -> None:
    first, _ = run(tiny)
    before = final(tiny.parent / "runs/tiny")
    again, text = run(tiny)
    assert "has finished its 10 steps" in text
    assert again == first
    assert final(tiny.parent / "runs/tiny") == before


def test_a_finished_run_goes_on_with_more_steps(tiny: Path) -> None:
    run(tiny)
    summary, text = run(tiny, "train.steps=14")
    assert "train.steps: 10 -> 14" in text
    assert "resuming after step 10" in text
    assert summary["steps"] == 14


def test_another_recipe_under_the_same_name_is_refused(tiny: Path) -> None:
    run(tiny, "train.steps=3")
    with pytest.raises(UserError, match=r"model\.n_layers: 2 -> 3.*--fresh"):
        run(tiny, "train.steps=3", "model.n_layers=3")
    summary, text = run(tiny, "train.steps=3", "model.n_layers=3", fresh=True)
    assert "kept in" in text
    assert summary["steps"] == 3
    assert RunFolder(tiny.parent / "runs/tiny.1").summary() is not None


def test_a_learning_rate_changed_on_resume_is_used(tiny: Path) -> None:
    run(tiny, "train.steps=4", "optim.schedule.type=constant")
    run(tiny, "train.steps=6", "optim.schedule.type=constant", "optim.lr=0.002")
    rates = {r["step"]: r["lr"] for r in read_metrics(tiny.parent / "runs/tiny/metrics.jsonl") if r["kind"] == "train"}
    assert rates[4] == 0.01
    assert rates[5] == rates[6] == 0.002


@pytest.mark.campaign(15)
def test_a_changed_corpus_is_refused(tiny: Path) -> None:
    run(tiny)
    (tiny.parent / "corpus/new.txt").write_text("something else entirely\n" * 50)
    with pytest.raises(UserError, match="not what the checkpoint was trained on"):
        run(tiny, "train.steps=14")


@pytest.mark.campaign(9)
def test_a_damaged_checkpoint_costs_one_interval(tiny: Path) -> None:
    run(tiny, "name=whole")
    run(tiny, "name=hurt", "train.steps=9")
    folder = tiny.parent / "runs/hurt"
    newest = max((folder / "checkpoints").iterdir()) / "model.safetensors"
    data = bytearray(newest.read_bytes())
    data[-5] ^= 4
    newest.write_bytes(bytes(data))
    heard: list[str] = []
    assert load_run(folder, warn=heard.append).step == 6
    assert len(heard) == 1
    assert "step-0000000009" in heard[0]
    assert heard[0].endswith(f"; step 6 is taken instead, from {folder / 'checkpoints/step-0000000006'}")
    _, text = run(tiny, "name=hurt", "train.steps=10")
    assert "step-0000000009" in text
    assert "damaged" in text
    assert "resuming after step 6" in text


@pytest.mark.campaign(21)
def test_two_processes_cannot_train_into_one_folder(tiny: Path) -> None:
    with RunFolder(tiny.parent / "runs/tiny").locked(), pytest.raises(UserError, match=r"in use by process \d+ on "):
        run(tiny)


@pytest.mark.control(21)
def test_without_the_lock_they_could(tiny: Path, monkeypatch) -> None:
    def begin(*rest, **others) -> None:
        raise Killed

    monkeypatch.setattr("isogloss.run.train.open_session", begin)
    with RunFolder(tiny.parent / "runs/tiny").locked():
        monkeypatch.setattr(RunFolder, "locked", lambda folder: nullcontext())
        with pytest.raises(Killed):
            run(tiny)


def start(recipe: Path, *overrides: str) -> subprocess.Popen:
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "isogloss", "train", str(recipe), *overrides]
    return subprocess.Popen(
        command,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        preexec_fn=obey_signals,
    )


def obey_signals() -> None:
    """Children inherit what is ignored: hangups under ``nohup``, Ctrl-C in the background of a shell."""
    for number in (signal.SIGHUP, signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)


def program(words: list[str], log: str, held: tuple[int, str] | None) -> None:
    """``isogloss`` in a process of its own that is forked from one that has imported PyTorch; prints into a file."""
    with Path(log).open("wb") as stream:
        for number in (1, 2):
            os.dup2(stream.fileno(), number)
    torch.set_num_threads(1)
    if held is not None:
        gates.hold(held[0], Path(held[1]))
    sys.argv = ["isogloss", *words]
    cli.main()


def fork(recipe: Path, *overrides: str, last: int | None = None) -> tuple[BaseProcess, Path]:
    """``start`` without the wait; and where it prints. It waits to be killed at ``last``, if given."""
    log = recipe.with_name(f"{time.time_ns()}.log")
    held = None if last is None else (last, str(recipe))
    process = ranks.CONTEXT.Process(target=program, args=(["train", str(recipe), *overrides], str(log), held))
    process.start()
    return process, log


def kill_after(recipe: Path, folder: Path, step: int, delay: float, last: int, *overrides: str) -> None:
    """Start the program, and kill -9 it ``delay`` seconds after it has logged ``step``, before its last one."""
    process, log = fork(recipe, *overrides, last=last)
    while process.is_alive() and not any(r["step"] >= step for r in read_metrics(folder / "metrics.jsonl")):
        time.sleep(0.01)
    time.sleep(delay)
    process.kill()
    process.join()
    assert process.exitcode == -signal.SIGKILL, log.read_text()


def complete(recipe: Path, *overrides: str) -> str:
    """Run the program to its end; what it printed."""
    process, log = fork(recipe, *overrides)
    process.join(300)
    process.kill()
    process.join()
    assert process.exitcode == 0, log.read_text()
    return log.read_text()


# Each start of the program costs seconds; tests/train/test_signals.py hears every signal by default.
ALL = "ISOGLOSS_FAULTS" in os.environ
KILLS = {
    # Step 1 is eager, the others are not: the number of the step decides, not the session.
    "once, compiled": (1, 120, ["checkpoint.every=2", "train.compile='on'", "train.batch_size=3"]),
    # Most often while it writes a checkpoint, which it does at every step.
    "five times, saving every step": (5, 120, ["checkpoint.every=1"]),
    # A line of metrics is the mean of steps on both sides of a kill.
    "twice, bf16, lines longer than the way between saves": (
        2,
        200,
        ["checkpoint.every=3", "train.precision=bf16", "watch.log_every=10"],
    ),
}


@pytest.mark.campaign(1, 4)
@pytest.mark.slow
@pytest.mark.parametrize("kind", [kind for kind in KILLS if ALL or kind != "five times, saving every step"])
def test_killed_at_random_moments(tiny: Path, kind: str) -> None:
    """The whole program under kill -9, beside one that is left alone: the same bits, the same lines."""
    times, last, settings = KILLS[kind]
    settings = [*settings, f"train.steps={last}", "watch.validate_every=50", "watch.sample_every=100"]
    complete(tiny, "name=whole", *settings)
    folder = tiny.parent / "runs/killed"
    seed = time.time_ns() if ALL else 0
    generator = random.Random(seed)
    for step in sorted(generator.sample(range(8, 112), times)):
        kill_after(tiny, folder, step, generator.uniform(0, 0.05), last, "name=killed", *settings)
    assert "resuming after step" in complete(tiny, "name=killed", *settings)
    assert final(tiny.parent / "runs/whole") == final(folder), f"seed {seed}"


@pytest.mark.campaign(18)
@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, *([signal.SIGINT, signal.SIGHUP] if ALL else [])])
def test_a_polite_signal_saves_and_says_so(tiny: Path, number: signal.Signals) -> None:
    process = start(tiny, "train.steps=100000", "checkpoint.every=100000", "watch.validate_every=100000")
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith("step"):
            break
    process.send_signal(number)
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 128 + number
    assert "the same command goes on from there" in output
    assert list((tiny.parent / "runs/tiny/checkpoints").iterdir())


@pytest.mark.slow
def test_a_reader_that_goes_away_ends_the_run_after_a_save(tiny: Path) -> None:
    """``isogloss train | head -1``"""
    process = start(tiny, "train.steps=100000", "checkpoint.every=100000", "watch.validate_every=100000")
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith("step"):
            break
    process.stdout.close()
    assert process.wait(timeout=300) == 128 + signal.SIGPIPE
    assert list((tiny.parent / "runs/tiny/checkpoints").iterdir())


@pytest.mark.slow
def test_a_signal_whose_reader_dies_with_it_saves_all_the_same(tiny: Path) -> None:
    """Ctrl-C on ``isogloss train | tee log`` ends both."""
    process = start(tiny, "train.steps=100000", "checkpoint.every=100000", "watch.log_every=1", "train.batch_size=64")
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith("step"):
            break
    process.send_signal(signal.SIGINT)
    process.stdout.close()
    assert process.wait(timeout=300) in (128 + signal.SIGINT, 128 + signal.SIGPIPE)
    assert list((tiny.parent / "runs/tiny/checkpoints").iterdir())


@pytest.mark.slow
def test_a_closed_terminal_ends_the_run_after_a_save(tiny: Path) -> None:
    main, terminal = os.openpty()
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"}
    settings = ["train.steps=100000", "checkpoint.every=100000", "watch.validate_every=5"]
    command = [sys.executable, "-m", "isogloss", "train", str(tiny), *settings]
    process = subprocess.Popen(
        command,
        env=environment,
        stdin=terminal,
        stdout=terminal,
        stderr=terminal,
        start_new_session=True,
        preexec_fn=obey_signals,
    )
    os.close(terminal)
    seen = b""
    while not re.search(rb"validation loss \d", seen):  # a warning of a small split has the words too
        seen += os.read(main, 4096)
    process.send_signal(signal.SIGSTOP)  # both come at once: a signal that came after the end would find no handler
    os.waitid(os.P_PID, process.pid, os.WSTOPPED | os.WNOWAIT)
    os.close(main)
    process.send_signal(signal.SIGHUP)
    process.send_signal(signal.SIGCONT)
    assert process.wait(timeout=300) in (128 + signal.SIGHUP, 128 + signal.SIGPIPE)
    assert list((tiny.parent / "runs/tiny/checkpoints").iterdir())


@pytest.mark.slow
def test_an_ignored_hangup_stays_ignored(tiny: Path) -> None:
    """``nohup isogloss train``"""
    command = f"trap '' HUP; exec {sys.executable} -m isogloss train {tiny} train.steps=60 checkpoint.every=1000"
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(["sh", "-c", command], env=environment, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith("step"):
            break
    process.send_signal(signal.SIGHUP)
    process.communicate(timeout=300)
    assert process.returncode == 0
