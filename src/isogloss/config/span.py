"""A length of training: a number of steps, or a share of all of them that follows ``train.steps`` when it changes."""

import math
from typing import Annotated, Any

from pydantic import BeforeValidator, Field


def _read(value: Any) -> Any:
    """Take ``1e2`` for 100 steps; refuse what is neither a count nor a share."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return value
    if isinstance(value, float) and value == 1:
        raise ValueError("1.0 may mean one step or all of them; write 1 for a step, or a share below 1, such as 0.1")
    if value < 0 or not math.isfinite(value) or (value > 1 and value % 1):
        raise ValueError(f"must be a number of steps, or a share of all steps below 1 such as 0.1, got {value:g}")
    return value if value % 1 else int(value)


_Share = Annotated[float, Field(gt=0, lt=1)]
Span = Annotated[Annotated[int, Field(ge=0)] | _Share, BeforeValidator(_read)]
"""Steps, or a share of all steps; 0 for none."""
PositiveSpan = Annotated[Annotated[int, Field(gt=0)] | _Share, BeforeValidator(_read)]
"""At least one step, or a share of all steps."""


def steps_of(span: float, n_steps: int) -> int:
    """The steps that a `Span` of ``n_steps`` steps comes to: a share is rounded, and leaves at least the last step."""
    return span if isinstance(span, int) else max(0, min(round(span * n_steps), n_steps - 1))
