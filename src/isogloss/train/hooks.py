"""What happens beside the steps: logging, validation, samples, checkpoints. A hook is any function of a step's info."""

from collections.abc import Callable

from isogloss.train.loop import StepInfo

Hook = Callable[[StepInfo], None]


def every(n: int, hook: Hook, *, at_end: bool = True) -> Hook:
    """Call ``hook`` at steps divisible by ``n``, and at the last step if ``at_end``."""

    def sometimes(info: StepInfo) -> None:
        if info.step % n == 0 or (at_end and info.last):
            hook(info)

    return sometimes


class Window:
    """Means over the steps since it was last emptied: what a log line reports, weighted by targets."""

    def __init__(self) -> None:
        self._infos: list[StepInfo] = []

    def add(self, info: StepInfo) -> None:
        """Remember a step."""
        self._infos.append(info)

    def empty(self) -> dict[str, float]:
        """Mean loss of the steps that were made, largest gradient norm, all tokens and seconds; then forget them."""
        made = [info for info in self._infos if not info.nonfinite]
        targets = sum(info.n_targets for info in made)
        values = {
            "loss": sum(info.loss * info.n_targets for info in made) / targets if targets else float("nan"),
            "grad_norm": max((info.grad_norm for info in made), default=float("nan")),
            "tokens": float(sum(info.n_targets for info in self._infos)),
            "seconds": sum(info.seconds for info in self._infos),
        }
        self._infos = []
        return values
