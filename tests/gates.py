"""Runs that wait at a step for what a test does to them in the middle: a slow test would come after their end."""

import time
from collections.abc import Iterator
from pathlib import Path

import isogloss.run.steps
from isogloss.train.loop import StepInfo


def hold(step: int, gate: Path) -> None:
    """Let this process' run go no further than a step, which is neither recorded nor saved, while a file exists."""
    original = isogloss.run.steps.training_steps

    def training_steps(*arguments) -> Iterator[StepInfo]:
        for info in original(*arguments):
            while info.step >= step and gate.exists():
                time.sleep(0.005)
            yield info

    isogloss.run.steps.training_steps = training_steps
