"""The estimate of a run: its sizes, operations and time, and whether it fits."""

from dataclasses import asdict, dataclass
from typing import Any

from isogloss.build import plan_model
from isogloss.config.base import UserError
from isogloss.models.decoder import Decoder
from isogloss.parallel.float8 import Float8, projections
from isogloss.parallel.mesh import Axes
from isogloss.recipe import Recipe
from isogloss.run.estimate.gpus import Gpu
from isogloss.run.estimate.memory import Memory, estimate_memory
from isogloss.run.estimate.sizes import Sizes
from isogloss.run.estimate.traffic import estimate_traffic
from isogloss.run.state import checkpoint_bytes
from isogloss.train.size import parameters_by_part

UNSEEN = 1.5e9
"""Bytes of a GPU that no tensor of ours has: the CUDA context, NCCL's buffers, the allocator's gaps."""


@dataclass(frozen=True)
class RunEstimate:
    """What a run takes.

    Args:
        axes: how its ranks are laid out.
        parameters: by part.
        flops: operations of the whole run.
        float8: how float8 is scaled, or off.
        float8_flops: those of the operations that are in it.
        tokens: that all steps read, over all ranks.
        steps: of the run.
        memory: of one rank.
        traffic: bytes that a rank sends in a step, by axis.
        model_bytes: of a checkpoint's model, float32.
        optimizer_bytes: of its optimizer state.
    """

    axes: Axes
    parameters: dict[str, int]
    flops: float
    float8: Float8
    float8_flops: float
    tokens: int
    steps: int
    memory: Memory
    traffic: dict[str, float]
    model_bytes: float
    optimizer_bytes: float

    @property
    def n_parameters(self) -> int:
        """All of them, tied ones once."""
        return sum(self.parameters.values())

    def step_seconds(self, gpu: Gpu, share: float) -> float:
        """Of one step, at a share of the peaks; the mean, where steps differ.

        Raises:
            UserError: it is to multiply in float8 as the GPU does not.
        """
        seconds = (self.flops - self.float8_flops) / gpu.peak
        if self.float8 != "off":
            if self.float8 not in gpu.float8:
                offered = f"in float8 with {' and '.join(gpu.float8)} scales only" if gpu.float8 else "not in float8"
                raise UserError(
                    f"train.float8 is {self.float8}, and this kind of GPU multiplies {offered}; take another, or set "
                    "train.float8='off'"
                )
            seconds += self.float8_flops / gpu.float8_peak
        return seconds / self.steps / (self.axes.size * share)

    def fits(self, gpu: Gpu) -> bool:
        """Whether a rank's memory holds it."""
        return self.memory.total + (UNSEEN if gpu.is_gpu else 0.0) <= gpu.memory

    def as_dict(self, gpu: Gpu, share: float) -> dict[str, Any]:
        """For JSON; bytes and seconds."""
        seconds = self.step_seconds(gpu, share)
        return asdict(self) | {
            "step_seconds": seconds,
            "days": seconds * self.steps / 86400,
            "memory_of_gpu": gpu.memory,
            "fits": self.fits(gpu),
        }


def estimate_recipe(recipe: Recipe, n_ranks: int) -> RunEstimate:
    """Estimate a recipe on ``n_ranks`` ranks, with a vocabulary taken from what is asked of the tokenizer.

    Raises:
        UserError: it cannot be shared out over so many.
    """
    recipe = recipe.with_planned_vocabulary()
    axes = recipe.axes(n_ranks)
    recipe.check_float8(axes)
    planned = plan_model(recipe.model, recipe.init)
    parameters = parameters_by_part(entry.site for entry in planned.plan.values())
    sizes = Sizes(recipe, axes, planned.plan)
    model_bytes, optimizer_bytes = checkpoint_bytes(sum(parameters.values()), recipe.optim)
    return RunEstimate(
        axes,
        parameters,
        recipe.flops(planned.model),
        recipe.train.float8,
        0.0 if recipe.train.float8 == "off" else _flops_of_projections(recipe, planned.model),
        recipe.n_tokens,
        recipe.train.steps,
        estimate_memory(recipe, axes, sizes),
        estimate_traffic(recipe, axes, sizes),
        model_bytes,
        optimizer_bytes,
    )


def _flops_of_projections(recipe: Recipe, model: Decoder) -> float:
    """Six for each weight and token: a product forward, and two backward."""
    return 6.0 * sum(projection.weight.numel() for _, projection in projections(model)) * recipe.n_tokens
