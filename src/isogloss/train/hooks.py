"""What happens beside the steps: logging, validation, samples, checkpoints. A hook is any function of a step's info."""

from collections.abc import Callable
from dataclasses import asdict
from typing import Any

from isogloss.train.loop import StepInfo

Hook = Callable[[StepInfo], None]


def every(n: int, hook: Hook, *, at_end: bool = True) -> Hook:
    """Call ``hook`` at steps divisible by ``n``; at the last step always, or never if ``at_end`` is false."""

    def sometimes(info: StepInfo) -> None:
        if at_end if info.last else info.step % n == 0:
            hook(info)

    return sometimes


class Window:
    """Means over the steps since it was last emptied: what a log line reports, weighted by targets."""

    def __init__(self) -> None:
        self._infos: list[StepInfo] = []

    def add(self, info: StepInfo) -> None:
        """Remember a step."""
        self._infos.append(info)

    def state(self) -> list[dict[str, Any]]:
        """For a checkpoint, so that a line logged after a resume is the mean of the same steps."""
        return [asdict(info) for info in self._infos]

    def load(self, state: list[dict[str, Any]]) -> None:
        """Put a state back."""
        self._infos = [StepInfo(**info) for info in state]

    def empty(self) -> dict[str, float]:
        """Mean loss and largest gradient norm of the steps that were made, seconds a step; then forget them.

        The time leaves out warming steps, unless there are no others.
        """
        made = [info for info in self._infos if not info.nonfinite]
        targets = sum(info.n_targets for info in made)
        timed = [info for info in self._infos if not info.warming] or self._infos
        values = {
            "loss": sum(info.loss * info.n_targets for info in made) / targets if targets else float("nan"),
            "grad_norm": max((info.grad_norm for info in made), default=float("nan")),
            "seconds_per_step": sum(info.seconds for info in timed) / len(timed),
        }
        self._infos = []
        return values
