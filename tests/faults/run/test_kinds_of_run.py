"""Each kind of run, killed after any step and gone on with: the bytes of its weights and moments, and its records.

Compiled ones are killed in tests/run/test_resume.py: what checks shapes here cannot be compiled.

``ISOGLOSS_FAULTS`` goes through all kinds, and through several steps of each; by default through a few.
"""

import os
import random
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console
from torch import Tensor

import isogloss.run.state as state
import isogloss.run.steps as steps
from isogloss.recipe import load_recipe
from isogloss.run.train import train
from isogloss.train.display import Display
from isogloss.train.metrics import read_metrics

FAULTS = int(os.environ.get("ISOGLOSS_FAULTS", "0"))
many = pytest.mark.skipif(FAULTS == 0, reason="a longer campaign: make faults")
LAST = 10
FILES = "{{type: files, train: ['ROOT/corpus/0[{0}]*.txt'], validation_bytes: 200, prepared_dir: ROOT/prepared}}"
SOURCES = f"{{a: {{weight: 1.0, data: {FILES.format('0-2')}}}, b: {{weight: 2.0, data: {FILES.format('3-5')}}}}}"
KINDS = {
    "dense": [],
    "grouped heads": ["model.mixer.n_kv_heads=1", "model.mixer.qk_norm=true", "model.mixer.window=5"],
    "accumulated": ["train.micro_batch_size=1", "train.batch_size=3"],
    "recomputed": ["train.recompute=full"],
    "recomputed in part": ["train.recompute=selective"],
    "bf16": ["train.precision=bf16"],
    "moments in bf16": ["optim.moments=bf16"],
    "tied, sandwich, capped": ["model.tied_head=true", "model.norm=sandwich", "model.logit_softcap=5.0"],
    "muP": ["init.type=mup", "init.base_width=8"],
    "warm-ups": [
        "train.batch_size_warmup=[{until: 4, batch_size: 2}]",
        "train.seq_len_warmup=[{until: 6, divisor: 2}]",
    ],
    "mixture": [f"data={{type: mixture, seq_len: 24, sources: {SOURCES}}}"],
    "best fit": ["data.packing=best_fit"],
    "spikes": ["train.spike={window: 3, deviations: 0.5, max_rewinds: 9}", "optim.lr=0.1"],
}
FEW = ("accumulated",)


class Killed(BaseException):
    """Stands for a process that dies."""


def train_to(recipe: Path, name: str, step: int, kind: str) -> None:
    """Train until the checkpoint of a step has been written, and die."""
    original = steps.save

    def save(session, saver, *rest) -> None:
        original(session, saver, *rest)
        saver.finish()
        if session.progress.step == step:
            raise Killed

    settings = [setting.replace("ROOT", str(recipe.parent)) for setting in KINDS[kind]]
    # A spike goes back to the newest checkpoint: which that is must not depend on where the run is killed.
    settings += [f"name={name}", f"checkpoint.every={1 if kind == 'spikes' else step}"]
    settings += ["watch.validate_every=100", "watch.sample_every=100"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(steps, "save", save)
        with pytest.raises(Killed):
            train(load_recipe(str(recipe), settings), Display(Console(quiet=True)))


def left(recipe: Path, name: str) -> dict[str, Any]:
    """Weights, moments, counts and records, but for times."""
    folder = recipe.parent / "runs" / name
    newest = max((folder / "checkpoints").iterdir())
    files = {path.name: path.read_bytes() for path in newest.glob("*.safetensors")}
    timed = ("tokens_per_second", "share_of_peak", "seconds")
    records = [{k: v for k, v in r.items() if k not in timed} for r in read_metrics(folder / "metrics.jsonl")]
    return files | {"newest": newest.name, "records": records, "generator": torch.get_rng_state().tolist()}


@pytest.mark.campaign(4)
@pytest.mark.parametrize("kind", [kind if kind in FEW else pytest.param(kind, marks=many) for kind in KINDS])
def test_killed_after_any_step_it_ends_with_the_same_bytes(tiny: Path, kind: str) -> None:
    train_to(tiny, "whole", LAST, kind)
    expected = left(tiny, "whole")
    for step in random.Random(kind).sample(range(1, LAST), max(1, min(FAULTS // 20, LAST - 1))):
        train_to(tiny, f"cut-{step}", step, kind)
        train_to(tiny, f"cut-{step}", LAST, kind)
        assert left(tiny, f"cut-{step}") == expected, step


@pytest.mark.campaign(21)
@many
def test_a_clock_that_jumps_by_days_changes_nothing(tiny: Path, monkeypatch) -> None:
    train_to(tiny, "whole", LAST, "dense")
    now, generator = time.time, random.Random(0)
    monkeypatch.setattr(time, "time", lambda: now() + 86_400 * generator.uniform(-1, 1))
    train_to(tiny, "cut", 4, "dense")
    os.utime(tiny.parent / "runs/cut/checkpoints/step-0000000004", (2e9, 2e9))
    train_to(tiny, "cut", 7, "dense")
    train_to(tiny, "cut", LAST, "dense")
    assert left(tiny, "cut") == left(tiny, "whole")


@pytest.mark.control(4)
@many
@pytest.mark.parametrize("part", ["moments", "place"])
def test_without_one_part_of_its_state_it_would_not(tiny: Path, monkeypatch, part: str) -> None:
    train_to(tiny, "whole", LAST, "dense")
    train_to(tiny, "cut", 4, "dense")
    if part == "moments":
        allot = state.allot_optimizer_tensors

        def elsewhere(*arguments) -> dict[str, Tensor]:
            return {key: tensor.clone() for key, tensor in allot(*arguments).items()}

        monkeypatch.setattr(state, "allot_optimizer_tensors", elsewhere)
    else:
        original = steps.Prefetcher.batch
        monkeypatch.setattr(steps.Prefetcher, "batch", lambda ahead, step: original(ahead, step - 4))
    train_to(tiny, "cut", LAST, "dense")
    assert left(tiny, "cut") != left(tiny, "whole")
