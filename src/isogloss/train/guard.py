"""Notices a spike of the loss, so that a run can go back before it and read other data.

A step's loss spikes when it is above ``m + k s``, with m and s the mean and the standard deviation over the last w
steps. The remedy is PaLM's (Chowdhery et al. 2022, section 5.1): go back to a checkpoint and pass over the batches from
there to the spike; they found that neither the data nor the weights alone bring a spike about. What is decided follows
from the losses and the steps alone, so a resumed run decides the same: checkpoints that a signal or the clock called
for are passed over, and the newest of ``checkpoint.every`` is kept for it.
"""

import statistics
from collections import deque

from pydantic import Field

from isogloss.config.base import Config


class SpikeConfig(Config):
    """Go back to the newest checkpoint of checkpoint.every when the loss spikes, and pass over the batches between."""

    deviations: float = Field(default=6.0, gt=0)
    """How many standard deviations above the mean of the last steps a loss must be."""
    window: int = Field(default=100, ge=2)
    """Steps that the mean and the deviation are taken over; nothing spikes before there are so many."""
    max_rewinds: int = Field(default=5, gt=0)
    """Stop after this many."""


class SpikeGuard:
    """Watches the losses of the steps that were made; without a config it sees nothing.

    Args:
        config: what counts as a spike.
    """

    def __init__(self, config: SpikeConfig | None) -> None:
        self._config = config
        self._losses: deque[float] = deque(maxlen=None if config is None else config.window)

    def spikes(self, loss: float, skipped: bool = False) -> bool:
        """Whether a step's loss spikes; one that does not is remembered, one of a skipped step is left out."""
        if self._config is None or skipped:
            return False
        if len(self._losses) == self._config.window and loss > self.threshold():
            return True
        self._losses.append(loss)
        return False

    def threshold(self) -> float:
        """The loss above which a step spikes, once the window is full."""
        assert self._config is not None
        return statistics.fmean(self._losses) + self._config.deviations * statistics.stdev(self._losses)

    def state(self) -> list[float]:
        """For a checkpoint."""
        return list(self._losses)

    def load(self, losses: list[float]) -> None:
        """Put a state back."""
        self._losses.clear()
        self._losses.extend(losses)
