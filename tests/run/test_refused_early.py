"""What a recipe needs and this machine has not is refused before its text is prepared."""

import importlib
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from rich.console import Console

from isogloss.config.base import UserError
from isogloss.recipe import load_recipe
from isogloss.run import opening
from isogloss.run.train import train
from isogloss.train import machine, trackers
from isogloss.train.display import Display
from isogloss.train.loop import DivergedError


def run(recipe: Path, *overrides: str) -> None:
    train(load_recipe(str(recipe), overrides), Display(Console(quiet=True)))


@pytest.mark.parametrize(
    ("override", "says"),
    [
        ("train.device=cuda", "train.device is cuda"),
        ("train.compile=on", "train.compile is on"),
        ("trackers.tensorboard=true", "tensorboard is not installed"),
        ("trackers.wandb=project", "wandb is not installed"),
        ("model.mixer.backend=flex", "model.mixer.backend is flex"),
    ],
)
def test_it_is_refused_before_the_corpus_is_prepared(tiny: Path, monkeypatch, override: str, says: str) -> None:
    def absent(name: str):
        if name in ("torch.utils.tensorboard", "wandb"):
            raise ImportError(name)
        return importlib.__import__(name)

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(machine, "compiler_found", lambda device: False)
    monkeypatch.setattr(trackers.importlib, "import_module", absent)
    monkeypatch.setattr(opening, "open_corpus", lambda *_: pytest.fail("the corpus was prepared"))
    with pytest.raises(UserError, match=says):
        run(tiny, override)


@pytest.mark.parametrize(("every", "says"), [(100, "There is no checkpoint yet"), (3, "checkpoint is that of step 3")])
def test_a_run_that_diverges_says_which_checkpoint_there_is(tiny: Path, monkeypatch, every: int, says: str) -> None:
    import isogloss.train.loop as loop
    from isogloss.train.step import StepResult

    original, made = loop.train_step, 0

    def step(*args, **options) -> StepResult:
        nonlocal made
        made += 1
        result = original(*args, **options)
        return result if made < 4 else replace(result, nonfinite="the loss")

    monkeypatch.setattr(loop, "train_step", step)
    with pytest.raises(DivergedError, match=says) as raised:
        run(tiny, f"checkpoint.every={every}", "train.max_skipped=2")
    assert "intact" not in str(raised.value)
