"""The training loop, one for every model: a generator of steps, which a notebook can drive.

for info in training_steps(model, optimizer, loader, config, optim, progress, precision):
    for hook in hooks:
        hook(info)
"""

import time
from collections.abc import Iterable, Iterator
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from typing import Any, Literal

import torch
from pydantic import Field, model_validator
from torch import nn

from isogloss.config.base import Config, UserError
from isogloss.data.batches import BatchPlan, BatchStage, LengthStage, check_stages, stages_in_steps
from isogloss.models.protocol import LanguageModel, as_batch
from isogloss.nn.precision import Precision, computing_device
from isogloss.optim.groups import AdamWConfig, set_learning_rate
from isogloss.parallel.float8 import Float8
from isogloss.parallel.mesh import Layout
from isogloss.parallel.recompute import Recompute
from isogloss.train.batch_source import BatchSource, as_batch_source
from isogloss.train.guard import SpikeConfig
from isogloss.train.step import train_step


class TrainConfig(Config):
    """How long, how much at a time, and on what."""

    steps: int = Field(gt=0)
    """Optimizer steps."""
    batch_size: int = Field(gt=0)
    """Rows a step, over all devices."""
    batch_size_warmup: tuple[BatchStage, ...] = ()
    """Batch sizes of the first steps, one stage after the other."""
    seq_len_warmup: tuple[LengthStage, ...] = ()
    """Rows cut into shorter ones in the first steps, one stage after the other; nothing is lost."""
    micro_batch_size: int | None = Field(default=None, gt=0)
    """Rows at a time on a device; the batch's gradient is accumulated over them. All of the batch if not given. While
    rows are cut into shorter ones, as many tokens at a time."""
    recompute: Recompute = "none"
    """What is computed again in the backward pass, to save memory: none; selective: all but products, attention and
    transfers; full: whole blocks."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where to train; auto: a CUDA device where there is one."""
    precision: Literal["auto", "bf16", "fp32"] = "auto"
    """Type of the matrix products; auto: bf16 where the processor has units for it, else fp32."""
    float8: Float8 = "off"
    """Multiply the blocks' projections in float8 (pip install 'isogloss[float8]'), with a scale for each tensor or for
    each row; off: in bf16. Emulated on a CPU, and slow there."""
    compile: Literal["auto", "on", "off"] = "auto"
    """Compile blocks; auto: where a compiler is found and the run is long enough to pay for it."""
    max_skipped: int = Field(default=10, gt=0)
    """Stop after this many steps in a row whose loss or gradient is not finite."""
    max_minutes: float | None = Field(default=None, gt=0)
    """Save and stop at the first step that ends so many minutes after the start, with exit code 75: to be started again
    and go on."""
    spike: SpikeConfig | None = None
    """What to do when the loss spikes; nothing if not given."""

    @model_validator(mode="after")
    def _check(self) -> "TrainConfig":
        check_stages("batch_size_warmup", self.batch_size_warmup, self.steps)
        check_stages("seq_len_warmup", self.seq_len_warmup, self.steps)
        return self

    def plan(self) -> BatchPlan:
        """What each step reads."""
        stages = self.in_steps()
        return BatchPlan(self.batch_size, stages.batch_size_warmup, stages.seq_len_warmup)

    def in_steps(self) -> "TrainConfig":
        """The same with stages that end at a step, where they end at a share of the steps."""
        sizes = stages_in_steps(self.batch_size_warmup, self.steps)
        lengths = stages_in_steps(self.seq_len_warmup, self.steps)
        return self.model_copy(update={"batch_size_warmup": sizes, "seq_len_warmup": lengths})

    @property
    def largest_batch(self) -> int:
        """Rows a step, at most."""
        return max([self.batch_size, *(stage.batch_size for stage in self.batch_size_warmup)])


@dataclass
class Progress:
    """What has been done; with weights and optimizer state, all that a resume needs.

    Args:
        step: steps completed, skipped ones included. The learning rate follows from it.
        tokens: targets trained on, those of skipped steps not counted.
        skipped: steps skipped as not finite.
        skipped_in_a_row: how many of the latest.
        seconds: time spent in steps.
        passed_over: batches that rewinds have passed over; batch ``step + passed_over`` is the next.
        rewinds: how often the run went back to a checkpoint, after a spike of the loss.
    """

    step: int = 0
    tokens: int = 0
    skipped: int = 0
    skipped_in_a_row: int = 0
    seconds: float = 0.0
    passed_over: int = 0
    rewinds: int = 0

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)

    def go_back(self, saved: dict[str, Any]) -> None:
        """To what was saved, by the same object; the batches since then are passed over."""
        passed_over, rewinds = self.passed_over + self.step - saved["step"], self.rewinds + 1
        vars(self).update(asdict(Progress(**saved)), passed_over=passed_over, rewinds=rewinds)


class DivergedError(UserError):
    """Too many steps in a row were not finite."""


@dataclass(frozen=True)
class StepInfo:
    """What hooks hear of a step: its number from 1, loss in nats a target, seconds of its own.

    ``warming`` marks steps that also compiled, or met cold caches: their time says nothing of the speed.
    """

    step: int
    loss: float
    grad_norm: float
    lr: float
    n_targets: int
    seconds: float
    nonfinite: str
    last: bool
    warming: bool = False


def training_steps(
    model: LanguageModel,
    optimizer: torch.optim.Optimizer,
    loader: BatchSource | Iterable[Any],
    config: TrainConfig,
    optim: AdamWConfig,
    progress: Progress,
    precision: Precision,
    compiled: bool = False,
    layout: Layout | None = None,
) -> Iterator[StepInfo]:
    """Train from ``progress.step`` to ``config.steps``, updating ``progress``; yields after each step.

    Step 1 of a compiled model runs eagerly on a CPU: the loss of the initial weights, or an error in the model, shows
    in seconds and in plain Python, before half a minute of compiling. The step's number alone decides, so resuming is
    exact. Not on a GPU, where flex attention would need memory for all scores.

    With a ``layout`` it is called by all its ranks, each with a loader of its own rows; all yield the same.

    The ``loader`` is a function of the step, such as `isogloss.data.loader.Loader`. An iterable of batches, or of pairs
    of tokens and targets, is read in its order instead, from its beginning wherever ``progress`` stands. The optimizer
    may be any: a group without an ``lr_factor`` has the rate of ``optim``.

    Raises:
        UserError: the loader gives no batches, or too few.
        DivergedError: ``config.max_skipped`` steps in a row were not finite.
    """
    assert isinstance(model, nn.Module)
    eager_first = compiled and computing_device(model).type == "cpu"
    warm = progress.step + (2 if eager_first and progress.step == 0 else 1)
    plan, source = config.plan(), as_batch_source(loader)
    while progress.step < config.steps:
        start = time.perf_counter()
        step, at = progress.step + 1, progress.step + progress.passed_over
        lr = optim.lr * optim.schedule.multiplier(step, config.steps)
        set_learning_rate(optimizer, lr)
        with torch.compiler.set_stance("force_eager") if eager_first and step == 1 else nullcontext():
            result = train_step(
                model,
                optimizer,
                as_batch(source.batch(at)),
                micro_batch_size=(config.micro_batch_size or plan.size(at)) * plan.divisor(at),
                clip=optim.clip,
                precision=precision,
                layout=layout,
            )
        if compiled and _shape(plan, at) != _shape(plan, max(at - 1, 0)):
            warm = max(warm, step)  # compiled for another shape
        progress.step = step
        progress.tokens += 0 if result.nonfinite else result.n_targets
        progress.skipped += bool(result.nonfinite)
        progress.skipped_in_a_row = progress.skipped_in_a_row + 1 if result.nonfinite else 0
        seconds = time.perf_counter() - start
        progress.seconds += seconds
        if progress.skipped_in_a_row >= config.max_skipped:
            raise DivergedError(
                f"step {step}: {result.nonfinite} has not been finite for {progress.skipped_in_a_row} steps in a row. "
                "Lower optim.lr, lengthen optim.schedule.warmup, or raise "
                "train.max_skipped."
            )
        last = step == config.steps
        yield StepInfo(
            step, result.loss, result.grad_norm, lr, result.n_targets, seconds, result.nonfinite, last, step <= warm
        )


def _shape(plan: BatchPlan, step: int) -> tuple[int, int]:
    return plan.size(step), plan.divisor(step)
