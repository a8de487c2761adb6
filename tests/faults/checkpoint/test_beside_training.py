"""Many saves beside the training: what is saved is what was there at the call, failures are heard of, nothing hangs.

``ISOGLOSS_FAULTS`` says how many; ``make faults`` asks for 100.
"""

import errno
import os
import threading
from pathlib import Path

import pytest
import torch

import checkpoint_jobs as jobs
import ranks
from isogloss.checkpoint.asynchronous import Saver
from isogloss.checkpoint.config import CheckpointConfig
from isogloss.checkpoint.load import load_checkpoint, newest_checkpoint
from isogloss.checkpoint.save import SaveFailedError

N_SAVES = int(os.environ.get("ISOGLOSS_FAULTS", "10"))
KEEP_ALL = CheckpointConfig(keep_last=1000)
WATCHDOG = 120.0


@pytest.mark.campaign(12)
def test_what_is_saved_is_what_was_there_at_the_call(tmp_path: Path) -> None:
    """The weights change at once and all the time between; some saves are in flight when the next one comes."""
    weight = torch.zeros(64, 257)
    with Saver(tmp_path, KEEP_ALL) as saver:
        for step in range(1, N_SAVES + 1):
            weight.fill_(step)
            saver.save(step, {"model": {"w": weight}}, {"step": step})
            weight.fill_(-1.0)
            for _ in range(step % 7):
                weight.add_(0.5)
                saver.poll()
            if step % 5 == 0:
                saver.finish()
    for step in range(1, N_SAVES + 1):
        checkpoint = load_checkpoint(tmp_path / f"step-{step:010d}")
        assert checkpoint.state == {"step": step}
        assert bool((checkpoint.tensors("model")["w"] == step).all())


@pytest.mark.control(12)
@pytest.mark.parametrize("copied", [True, False])
def test_without_a_copy_it_would_be_what_came_after(tmp_path: Path, monkeypatch, copied: bool) -> None:
    write, changed, weight = Saver._write, threading.Event(), torch.ones(3)

    def late(saver: Saver, *arguments) -> None:
        assert changed.wait(WATCHDOG)
        write(saver, *arguments)

    monkeypatch.setattr(Saver, "_write", late)
    if not copied:
        monkeypatch.setattr(Saver, "_copy", lambda saver, own: own)
    with Saver(tmp_path, KEEP_ALL) as saver:
        saver.save(1, {"model": {"w": weight}}, {})
        weight.fill_(-1.0)
        changed.set()
    saved = load_checkpoint(tmp_path / "step-0000000001").tensors("model")["w"]
    assert torch.equal(saved, torch.ones(3) if copied else weight)


@pytest.mark.campaign(12)
def test_each_failure_is_heard_of_before_the_next_save_and_costs_no_other(tmp_path: Path) -> None:
    doomed = {step for step in range(1, N_SAVES + 1) if step % 3 == 2}
    now = 0

    def reached(point: str) -> None:
        if point == "file written" and now in doomed:
            raise OSError(errno.ENOSPC, "No space left on device")

    heard: dict[int, str] = {}
    with Saver(tmp_path, KEEP_ALL, reached) as saver:
        for step in range(1, N_SAVES + 1):
            now = step
            saver.save(step, {"model": {"w": torch.full((3,), float(step))}}, {})
            try:
                saver.finish()
            except SaveFailedError as error:
                heard[step] = str(error)
    assert set(heard) == doomed
    assert all("disk is full" in said for said in heard.values())
    assert {int(path.name.removeprefix("step-")) for path in tmp_path.iterdir()} == set(range(1, N_SAVES + 1)) - doomed


@pytest.mark.control(12)
def test_a_failure_that_the_thread_kept_to_itself_would_be_lost(tmp_path: Path, monkeypatch) -> None:
    def full(point: str) -> None:
        if point == "file written":
            raise OSError(errno.ENOSPC, "No space left on device")

    write = Saver._write

    def silent(saver: Saver, *arguments) -> None:
        write(saver, *arguments)
        saver._failure = None

    monkeypatch.setattr(Saver, "_write", silent)
    with Saver(tmp_path, KEEP_ALL, full) as saver:
        saver.save(1, {"model": {"w": torch.zeros(3)}}, {})
    assert newest_checkpoint(tmp_path, pytest.fail) is None  # and nobody was told


@pytest.mark.campaign(12)
@pytest.mark.slow
@pytest.mark.skipif("ISOGLOSS_FAULTS" not in os.environ, reason="starts ranks: make faults")
def test_ranks_that_train_and_save_at_once_do_not_wait_for_each_other_for_ever(tmp_path: Path) -> None:
    processes = ranks.start(jobs.save_many, 2, str(tmp_path), N_SAVES)
    assert ranks.end(processes, WATCHDOG) == [0, 0]
    for step in range(1, N_SAVES + 1):
        found = load_checkpoint(tmp_path / f"step-{step:010d}").tensors("model")["w"]
        assert torch.equal(found, torch.arange(64.0).reshape(16, 4) + 100 * step)


@pytest.mark.control(12)
@pytest.mark.slow
@pytest.mark.skipif("ISOGLOSS_FAULTS" not in os.environ, reason="starts ranks, and waits for them: make faults")
def test_without_a_group_of_their_own_they_would(tmp_path: Path) -> None:
    processes = ranks.start(jobs.save_many, 2, str(tmp_path), 50, "one group for all")
    assert ranks.end(processes, 20) != [0, 0]
