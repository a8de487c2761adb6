"""When checkpoints are written, how, and which are kept."""

from pydantic import Field

from isogloss.config.base import Config


class CheckpointConfig(Config):
    """When checkpoints are written and which are kept."""

    every: int = Field(default=100, gt=0)
    """Steps between checkpoints; the last step always writes one."""
    minutes: float = Field(default=10.0, gt=0)
    """Also after this many minutes without one: a slow machine loses no more than that and a step."""
    keep_last: int = Field(default=2, gt=0)
    """How many of the newest are kept."""
    keep_every: int | None = Field(default=None, gt=0)
    """Checkpoints at multiples of this step are kept for good."""
    asynchronous: bool = True
    """Train on while one is written, from a copy in memory as large as the weights and the optimizer's state."""
