"""How many rows of how many tokens a step reads, where that changes as training goes on.

Batch-size warm-up: early steps read fewer rows. Sequence-length warm-up (Li et al. 2022, "The Stability-Efficiency
Dilemma"): early steps cut their rows of T into m of T/m each; the same tokens in the same order, with shorter context.
Both are piecewise constant in the step, so the rows before any step are a sum over the pieces.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TypeVar

from pydantic import Field

from isogloss.config.base import Config, UserError
from isogloss.config.span import PositiveSpan, steps_of


class BatchStage(Config):
    """A batch size for the first steps."""

    until: PositiveSpan
    """The last step it holds for, counted from 1; or the share of all steps."""
    batch_size: int = Field(gt=0)
    """Rows a step."""


class LengthStage(Config):
    """A cut of rows for the first steps."""

    until: PositiveSpan
    """The last step it holds for, counted from 1; or the share of all steps."""
    divisor: int = Field(gt=1)
    """Each row of seq_len tokens is cut into this many, which must divide seq_len."""


Stage = TypeVar("Stage", BatchStage, LengthStage)


@dataclass(frozen=True)
class BatchPlan:
    """Sizes by step; steps count from 0 here.

    Args:
        batch_size: rows a step, after any warm-up.
        sizes: batch sizes of the first steps, in order of ``until``, which counts steps.
        lengths: cuts of the first steps, in order of ``until``, which counts steps.

    Raises:
        UserError: a stage ends at a share of the steps: `stages_in_steps` turns shares into steps.
    """

    batch_size: int
    sizes: tuple[BatchStage, ...] = ()
    lengths: tuple[LengthStage, ...] = ()

    def __post_init__(self) -> None:
        if shares := [stage.until for stage in (*self.sizes, *self.lengths) if not isinstance(stage.until, int)]:
            raise UserError(
                f"until {shares[0]:g}: a BatchPlan counts in steps; TrainConfig.plan() turns shares into steps"
            )

    def size(self, step: int) -> int:
        """Rows of T tokens in the batch of a step."""
        return next((stage.batch_size for stage in self.sizes if step < stage.until), self.batch_size)

    def divisor(self, step: int) -> int:
        """How many rows each of them is cut into."""
        return next((stage.divisor for stage in self.lengths if step < stage.until), 1)

    def rows_before(self, step: int) -> int:
        """Rows of T tokens that all steps before this one read."""
        rows = begun = 0
        for stage in self.sizes:
            ended = min(int(stage.until), step)
            rows += max(ended - begun, 0) * stage.batch_size
            begun = max(begun, ended)
        return rows + (step - begun) * self.batch_size

    def pieces(self, first: int, last: int) -> Iterator[tuple[int, int, int]]:
        """The steps from ``first`` to before ``last`` as pieces of equal ones: steps, rows of T a step, divisor."""
        ends = {int(stage.until) for stage in (*self.sizes, *self.lengths) if first < stage.until < last}
        for begin, end in pairwise(sorted({first, *ends, last})):
            yield end - begin, self.size(begin), self.divisor(begin)


def stages_in_steps(stages: tuple[Stage, ...], n_steps: int) -> tuple[Stage, ...]:
    """Stages of a run of ``n_steps`` steps, those that end at a share of them as steps."""
    return tuple(stage.model_copy(update={"until": steps_of(stage.until, n_steps)}) for stage in stages)


def check_stages(name: str, stages: Sequence[BatchStage] | Sequence[LengthStage], n_steps: int) -> None:
    """Refuse stages that are out of order.

    Raises:
        ValueError: their ``until`` do not rise.
    """
    ends = [stage.until if isinstance(stage.until, int) else stage.until * n_steps for stage in stages]
    if ends != sorted(set(ends)):
        shown = [stage.until for stage in stages]
        raise ValueError(f"{name}: each stage must end after the one before it, but `until` is {shown}")
