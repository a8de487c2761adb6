"""Learning-rate schedules: multipliers ``f(t)`` of the peak rate, continuous on ``0 <= t <= n_steps``.

Step k of N (counted from 1) uses ``f(k)``. Every schedule warms up linearly, ``t / warmup``, and reaches 1 at
``t = warmup``; ``linear``, ``cosine`` and ``wsd`` end at ``f(N) = final``, with their ``steps`` for N where given:

- ``constant``: 1;
- ``linear``: a line from 1 to final;
- ``cosine``: ``final + (1 - final) (1 + cos(pi s)) / 2``, s going from 0 to 1 (Loshchilov and Hutter 2017, equation 5);
- ``inverse_sqrt``: ``sqrt(w / t)`` with ``w = max(warmup, 1)`` (Vaswani et al. 2017, equation 3), never below final;
- ``wsd``: 1 until the last ``decay`` share of the steps, then down to final along a line, a cosine, or ``1 - sqrt(s)``
  (Hu et al. 2024; Haegele et al. 2024, section 3).
"""

import math
from typing import Annotated, Literal

from pydantic import Field, model_validator

from isogloss.config.base import Config
from isogloss.config.span import Span, steps_of


class _Warm(Config):
    warmup: Span = 0
    """Linear warm-up: steps, or a share of all steps such as 0.025."""

    def span(self, n_steps: int) -> int | None:
        """The steps over which it goes in a run of ``n_steps``; ``None`` where that number has no part in it."""
        return None

    def multiplier(self, t: float, n_steps: int) -> float:
        """The share of the peak rate at time ``t`` of ``n_steps``."""
        n_steps = self.span(n_steps) or n_steps
        warmup = min(steps_of(self.warmup, n_steps), n_steps)
        if t < warmup:
            return t / warmup
        return self._after_warmup(min(t, n_steps), warmup, n_steps)

    def _after_warmup(self, t: float, warmup: int, n_steps: int) -> float:
        raise NotImplementedError


class ConstantSchedule(_Warm):
    """The peak rate after the warm-up."""

    type: Literal["constant"] = "constant"

    def _after_warmup(self, t: float, warmup: int, n_steps: int) -> float:
        return 1.0


class _Ending(_Warm):
    steps: int | None = Field(default=None, gt=0)
    """The steps over which it goes, train.steps if not given; later ones keep the last rate. Of a run that is extended,
    its former train.steps leave the rates as they were."""

    @model_validator(mode="after")
    def _check(self) -> "_Ending":
        if self.steps is not None and self.warmup >= self.steps:
            raise ValueError(f"warmup ({self.warmup}) must be below the schedule's steps ({self.steps})")
        return self

    def span(self, n_steps: int) -> int | None:
        """``steps``, or those of the run."""
        return self.steps or n_steps


class LinearSchedule(_Ending):
    """A line from the peak to ``final``."""

    type: Literal["linear"] = "linear"
    final: float = Field(default=0.0, ge=0, le=1)
    """The last step's share of the peak rate."""

    def _after_warmup(self, t: float, warmup: int, n_steps: int) -> float:
        return 1 - (1 - self.final) * _progress(t, warmup, n_steps)


class CosineSchedule(_Ending):
    """Half a cosine from the peak to ``final``."""

    type: Literal["cosine"] = "cosine"
    final: float = Field(default=0.1, ge=0, le=1)
    """The last step's share of the peak rate."""

    def _after_warmup(self, t: float, warmup: int, n_steps: int) -> float:
        return self.final + (1 - self.final) * 0.5 * (1 + math.cos(math.pi * _progress(t, warmup, n_steps)))


class InverseSqrtSchedule(_Warm):
    """The peak divided by the square root of time since the warm-up's end, in warm-ups."""

    type: Literal["inverse_sqrt"] = "inverse_sqrt"
    final: float = Field(default=0.0, ge=0, le=1)
    """Never below this share of the peak rate."""

    def _after_warmup(self, t: float, warmup: int, n_steps: int) -> float:
        start = max(warmup, 1)
        return max(math.sqrt(start / max(t, start)), self.final)


class WSDSchedule(_Ending):
    """Warm-up, stable, decay."""

    type: Literal["wsd"] = "wsd"
    decay: float = Field(default=0.2, gt=0, le=1)
    """The share of all steps, at the end, in which the rate falls."""
    shape: Literal["linear", "cosine", "1-sqrt"] = "linear"
    """How it falls."""
    final: float = Field(default=0.0, ge=0, le=1)
    """The last step's share of the peak rate."""

    def _after_warmup(self, t: float, warmup: int, n_steps: int) -> float:
        s = _progress(t, max(warmup, n_steps - self.decay * n_steps), n_steps)
        fallen = {"linear": s, "cosine": 0.5 * (1 - math.cos(math.pi * s)), "1-sqrt": math.sqrt(s)}[self.shape]
        return 1 - (1 - self.final) * fallen


ScheduleConfig = Annotated[
    ConstantSchedule | LinearSchedule | CosineSchedule | InverseSqrtSchedule | WSDSchedule, Field(discriminator="type")
]


def _progress(t: float, start: float, end: float) -> float:
    """How far ``t`` is from ``start`` to ``end``, within [0, 1]; 0 where they coincide."""
    return 0.0 if end <= start or t <= start else min(1.0, (t - start) / (end - start))
