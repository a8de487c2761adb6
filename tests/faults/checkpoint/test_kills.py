"""Ranks killed at any moment: the next launch resumes, and ends with the bits of a run that was left alone.

``ISOGLOSS_FAULTS`` says how many kills at random moments; ``make faults`` asks for 100.
"""

import os
import random
import shutil
import time
from collections import Counter
from multiprocessing.process import BaseProcess
from pathlib import Path

import pytest
import torch

import checkpoint_jobs as jobs
import isogloss.checkpoint.load
import isogloss.checkpoint.save
import ranks
from isogloss.checkpoint.layout import CorruptCheckpointError
from isogloss.checkpoint.load import newest_checkpoint
from isogloss.checkpoint.save import save_checkpoint
from isogloss.train.metrics import read_metrics

FAULTS = int(os.environ.get("ISOGLOSS_FAULTS", "2"))
many = pytest.mark.skipif("ISOGLOSS_FAULTS" not in os.environ, reason="a longer campaign: make faults")
POINTS = ["folder made", "file written", "read back", "index written", "manifest written", "renamed", "committed"]
POINTS.append("rotated")
ON_RANK_1 = ["file written", "read back"]


@pytest.fixture(scope="module")
def two_steps(tmp_path_factory) -> Path:
    """Steps 1 and 2, saved by two ranks."""
    root = tmp_path_factory.mktemp("saved")
    ranks.run(jobs.save_steps, 2, str(root), [1, 2])
    return root


@pytest.mark.campaign(2)
@pytest.mark.parametrize(("victim", "point"), [(0, p) for p in POINTS] + [(1, p) for p in ON_RANK_1])
def test_a_rank_killed_at_a_point_of_a_save(two_steps: Path, tmp_path: Path, victim: int, point: str) -> None:
    root = tmp_path / "checkpoints"
    shutil.copytree(two_steps, root)
    codes = ranks.end(ranks.start(jobs.save_and_die, 2, str(root), 3, victim, point))
    assert codes[victim] == 9
    assert codes[1 - victim] in (0, 1)  # the other one notices
    after_the_fact = ("renamed", "committed", "rotated")
    assert newest(root) == (3 if point in after_the_fact else 2)
    save_checkpoint(root, 4, {"model": {"w": torch.zeros(3)}}, {}, jobs.KEEP)
    assert all(path.name.startswith("step-") for path in root.iterdir())
    assert newest(root, check=False) == 4


def newest(root: Path, *, check: bool = True) -> int:
    """The step of the newest checkpoint: whole, and what was saved; nothing damaged was in the way."""
    found = newest_checkpoint(root, pytest.fail)
    assert found is not None
    if check:
        meant = torch.arange(64.0).reshape(16, 4) + 100 * found.step
        assert torch.equal(found.tensors("model")["w"], meant)
    return found.step


@pytest.mark.control(2, 11)
def test_without_the_temporary_folder_a_kill_would_show(two_steps: Path, tmp_path: Path, monkeypatch) -> None:
    """The control: written in place, a save that is cut short stands where the newest checkpoint should."""
    root = tmp_path / "checkpoints"
    shutil.copytree(two_steps, root)
    monkeypatch.setattr(isogloss.checkpoint.save, "ASIDE", "")
    monkeypatch.setattr(isogloss.checkpoint.save.os, "getpid", lambda: 3)

    def die(point: str) -> None:
        if point == "file written":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        save_checkpoint(root, 3, {"model": {"w": torch.zeros(3)}}, {}, jobs.KEEP, reached=die)
    (root / "step-0000000003-3").rename(root / "step-0000000003")
    with pytest.raises(pytest.fail.Exception, match="step-0000000003"):
        newest(root)


class Run:
    """``isogloss train`` on some ranks, in a folder of its own."""

    def __init__(self, recipe: Path, name: str, n_ranks: int = 2) -> None:
        self.recipe, self.name, self.n_ranks = recipe, name, n_ranks
        self.folder = recipe.parent / f"watched-{name}"
        self.folder.mkdir()
        self.checkpoints = recipe.parent / "runs" / name / "checkpoints"
        (self.folder / "announced").touch()

    def launch(self, steps: int, *overrides: str, held: bool = False) -> list[BaseProcess]:
        """Start the ranks; if ``held``, they wait before the last step is recorded, until ``gate`` is gone."""
        gate = self.folder / "gate"
        if held:
            gate.touch()
        (self.folder / "stage").write_bytes(bytes(2))
        settings = [f"name={self.name}", f"train.steps={steps}", "checkpoint.every=1", *overrides]
        settings += ["watch.validate_every=3", "watch.sample_every=1000", "optim.schedule.type=constant"]
        words = (str(self.recipe), settings, str(self.folder), (steps, str(gate)))
        return ranks.start(jobs.train_recipe, self.n_ranks, *words, launched=True)

    def stage(self, rank: int) -> str:
        return jobs.STAGES[(self.folder / "stage").read_bytes()[rank]]

    def announced(self) -> list[int]:
        """The steps whose checkpoints have been announced."""
        return list(map(int, (self.folder / "announced").read_bytes().split()))

    def lines(self) -> list[dict[str, object]]:
        """What was recorded of each step, but times."""
        timed = ("tokens_per_second", "share_of_peak", "seconds")
        records = read_metrics(self.checkpoints.parent / "metrics.jsonl")
        return [{k: v for k, v in record.items() if k not in timed} for record in records]

    def kill(self, steps: int, generator: random.Random) -> str:
        """Launch and kill -9 one rank, or all, before the last step; in which stage it was, or that it was held."""
        processes = self.launch(steps, held=True)
        enough = len(self.announced()) + generator.randrange(1, 4)
        victim, wanted = generator.randrange(self.n_ranks), generator.choice(("load", "step", "save"))
        held = False
        while processes[victim].is_alive():
            stage, announced = self.stage(victim), self.announced()
            if stage == wanted and (wanted == "load" or len(announced) >= enough):
                break
            if stage != "start" and steps - 1 in announced:  # it waits, and the moment that was wanted is over
                held = True
                break
            time.sleep(0.0002)
        time.sleep(generator.uniform(0, 0.01))
        found = "the wait before the last step" if held else self.stage(victim)
        processes[victim].kill()
        others = [process for rank, process in enumerate(processes) if rank != victim]
        if both := generator.random() < 0.5:
            for process in others:
                process.kill()
        (self.folder / "gate").unlink()
        codes = ranks.end(processes)
        assert codes.pop(victim) == -9
        assert both or codes == [1] * len(others), "the rank that was left did not notice"
        return found


@pytest.mark.campaign(1, 3)
@pytest.mark.parametrize("n_ranks", [pytest.param(1, marks=many), 2])
def test_ranks_killed_at_random_moments(tiny: Path, capsys, n_ranks: int) -> None:
    steps = 8 + 4 * FAULTS
    whole, killed = Run(tiny, "whole", n_ranks), Run(tiny, "killed", n_ranks)
    assert ranks.end(whole.launch(steps)) == [0] * n_ranks
    seed = time.time_ns() if "ISOGLOSS_FAULTS" in os.environ else 0
    generator = random.Random(seed)
    stages: Counter[str] = Counter()
    half_written = 0
    for _ in range(FAULTS):
        stages[killed.kill(steps, generator)] += 1
        half_written += any(path.name.startswith(".aside") for path in killed.checkpoints.glob("*"))
    assert ranks.end(killed.launch(steps)) == [0] * n_ranks, f"seed {seed}"
    assert jobs.digest(killed.checkpoints) == jobs.digest(whole.checkpoints), f"seed {seed}"
    assert killed.lines() == whole.lines(), f"seed {seed}"
    assert all(path.name.startswith("step-") for path in killed.checkpoints.iterdir())
    assert half_written >= 0.1 * FAULTS or FAULTS < 50
    with capsys.disabled():
        where = ", ".join(f"{n} in {stage}" for stage, n in sorted(stages.items()))
        print(
            f"\n{FAULTS} kills of one or all of {n_ranks} ranks ({where}; {half_written} left a half-written folder), "
            f"{FAULTS} resumed, final files of step {steps} and all losses identical to the uninterrupted run's"
        )


@pytest.mark.control(1, 3)
def test_the_comparison_and_the_promise_can_fail(tiny: Path) -> None:
    """The controls: one bit of one weight in the middle of the run, and an announced checkpoint taken away."""
    whole, hurt = Run(tiny, "whole"), Run(tiny, "hurt")
    assert ranks.end(whole.launch(4)) == [0, 0]
    assert ranks.end(hurt.launch(3)) == [0, 0]
    folder = hurt.checkpoints / "step-0000000003"
    shard = folder / "model-00001-of-00002.safetensors"
    data = bytearray(shard.read_bytes())
    data[-9] ^= 1
    shard.write_bytes(bytes(data))
    jobs.manifest_anew(folder)
    assert ranks.end(hurt.launch(4)) == [0, 0]
    assert jobs.digest(hurt.checkpoints) != jobs.digest(whole.checkpoints)
    shutil.rmtree(hurt.checkpoints / "step-0000000004")
    assert ranks.end(hurt.launch(5)) == [1, 1]


@pytest.mark.campaign(9)
def test_a_checkpoint_that_is_damaged_while_running_is_passed_over_by_all_ranks(
    two_steps: Path, tmp_path: Path
) -> None:
    root = tmp_path / "checkpoints"
    shutil.copytree(two_steps, root)
    (root / "step-0000000002/model-00002-of-00002.safetensors").write_bytes(b"short")
    ranks.run(jobs.agree_on_the_newest, 2, str(root), 1)
    for step in (1, 2):
        (root / f"step-000000000{step}/model-00001-of-00002.safetensors").write_bytes(b"short")
    with pytest.raises(CorruptCheckpointError, match="none of the 2"):
        newest_checkpoint(root, str)
