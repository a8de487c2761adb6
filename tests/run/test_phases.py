"""Every stretch of a run in which ranks talk is a phase of the watchdog's; on many ranks: tests/faults/launch."""

import os
from pathlib import Path

from rich.console import Console

from isogloss.recipe import load_recipe
from isogloss.run.train import train
from isogloss.train.display import Display
from isogloss.train.watchdog import Watchdog

STEPS = ["train.steps=3", "watch.validate_every=2", "watch.sample_every=2", "checkpoint.every=2"]
OPENING = [
    "taking the run's folder",
    "looking into the run's folder",
    "looking for what the settings need",
    "preparing the corpus",
    "opening the corpus",
    "looking at the machine",
    "finding room for checkpoints",
    "building the model",
    "counting what packing wastes",
    "loading the newest checkpoint",
]
STEP = ["training step {0}", "agreeing on what follows step {0}"]
WATCH = [
    "validating after step {0}",
    "putting the model together for samples of step {0}",
    "writing samples of step {0}",
]
SAVE, BESIDE = "saving step {0}", "writing the checkpoint of step {0}"
ENDING = ["waiting for the checkpoint of step {0}", *WATCH, "writing the summary", "leaving"]
OF_STEP = {1: STEP, 2: [*STEP, *WATCH, SAVE], 3: [*STEP, SAVE, *ENDING]}


def test_a_run_is_watched_from_beginning_to_end(tiny: Path, monkeypatch) -> None:
    inside, phases = Watchdog._inside, list[str]()

    def heard(self: Watchdog, doing: str, limit: float | None):
        phases.append(doing)
        return inside(self, doing, limit)

    monkeypatch.setattr(Watchdog, "_inside", heard)
    display = Display(Console(file=open(os.devnull, "w")))  # noqa: PTH123, SIM115
    train(load_recipe(str(tiny), STEPS), display)
    # Those of the thread that writes have a lane of their own.
    beside, phases = ([p for p in phases if p.startswith("writing the check") is there] for there in (True, False))
    assert beside == [BESIDE.format(step) for step in (2, 3)]
    assert phases == [*OPENING, *(text.format(step) for step, texts in OF_STEP.items() for text in texts)]
