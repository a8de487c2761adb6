"""What a run will take on given ranks: memory by part of each, operations, time, traffic, checkpoints. Nothing is run.

Memory is that of the worst of four moments, with P numbers of weights split over s ranks and by tensor over t, L blocks
that keep K bytes each, and N tokens of a micro-batch:

loss              4P/st weights + 8P/st moments + L K + the head's and the loss's own
last block        the same activations + that block's backward pass + the head's gradient
first block       one block's activations + its backward pass + all other gradients
embedding         weights, moments, gradients, and the embedding's gradient once more where it is accumulated

With several ranks, FSDP2's gathered weights and buffers come on top, by the units of `isogloss.parallel.fsdp`: the
weights of two (one used, one fetched) in the type they are gathered in and a third on its way, a unit's gradients
before they are split, and the head and a small embedding, whose gradients are split last. With accumulation every rank
adds up whole gradients until the last micro-batch's are split. Tensor and context ranks are taken to share activations
evenly.
"""

import math
from dataclasses import asdict, dataclass
from typing import Any

from isogloss.build import plan_model
from isogloss.config.base import UserError
from isogloss.data.tokenizers.loading import build_tokenizer
from isogloss.init.plan import Entry
from isogloss.models.decoder import Decoder
from isogloss.nn.roles import Role
from isogloss.parallel.float8 import Float8, projections
from isogloss.parallel.fsdp import count_units
from isogloss.parallel.mesh import Axes
from isogloss.parallel.recompute import recompute_blocks
from isogloss.recipe import Recipe
from isogloss.run.state import checkpoint_bytes
from isogloss.train.display import duration
from isogloss.train.estimate import parameters_by_part
from isogloss.train.gpus import Gpu
from isogloss.train.memory import block_memory, loss_memory

UNSEEN = 1.5e9
"""Bytes of a GPU that no tensor of ours has: the CUDA context, NCCL's buffers, the allocator's gaps."""


@dataclass(frozen=True)
class Memory:
    """Bytes of a rank by part at its worst moment."""

    moment: str
    parts: dict[str, float]

    @property
    def total(self) -> float:
        """All parts."""
        return sum(self.parts.values())


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
        return self.memory.total + UNSEEN <= gpu.memory

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
    recipe = with_planned_vocabulary(recipe)
    axes = recipe.axes(n_ranks)
    recipe.check_float8(axes)
    planned = plan_model(recipe.model, recipe.init)
    parameters = parameters_by_part(entry.site for entry in planned.plan.values())
    model_bytes, optimizer_bytes = checkpoint_bytes(sum(parameters.values()), recipe.optim)
    return RunEstimate(
        axes,
        parameters,
        recipe.flops(planned.model),
        recipe.train.float8,
        0.0 if recipe.train.float8 == "off" else _flops_of_projections(recipe, planned.model),
        recipe.n_tokens,
        recipe.train.steps,
        _memory(recipe, axes, planned.plan),
        _traffic(recipe, axes, planned.plan),
        model_bytes,
        optimizer_bytes,
    )


def _flops_of_projections(recipe: Recipe, model: Decoder) -> float:
    """Six for each weight and token: a product forward, and two backward."""
    return 6.0 * sum(projection.weight.numel() for _, projection in projections(model)) * recipe.n_tokens


def estimate_rows(found: RunEstimate, gpu: Gpu, share: float, network: float) -> list[tuple[str, str]]:
    """What a person reads of it.

    Args:
        found: the estimate.
        gpu: one of its ranks.
        share: of the peak that is reached.
        network: bytes a second that a rank sends to other machines.
    """
    axes, seconds = found.axes, found.step_seconds(gpu, share)
    sizes = {name: getattr(axes, name) for name in ("replicate", "shard", "context", "tensor")}
    layout = " x ".join(f"{name} {size}" for name, size in sizes.items() if size > 1) or "one process"
    rows = [("ranks", layout), ("parameters", f"{found.n_parameters:,}")]
    rows += [(f"  {part}", f"{n:,}") for part, n in found.parameters.items()]
    rows += [
        ("operations", f"{found.flops:.3g}"),
        ("tokens", f"{found.tokens:,} in {found.steps:,} steps of {found.tokens // found.steps:,}"),
        ("memory of a rank", f"{found.memory.total / 2**30:.2f} GiB, at the worst in {found.memory.moment}"),
    ]
    rows += [(f"  {part}", f"{size / 2**30:.2f} GiB") for part, size in found.memory.parts.items()]
    rows.append(("  CUDA, NCCL, gaps", f"about {UNSEEN / 2**30:.1f} GiB"))
    left = (gpu.memory - UNSEEN - found.memory.total) / 2**30
    fits = f"yes, {left:.1f} GiB are left" if found.fits(gpu) else f"no, by {-left:.1f} GiB"
    peaks = f"{gpu.peak / 1e12:,.0f}" + (f" (float8 {gpu.float8_peak / 1e12:,.0f})" if found.float8_flops else "")
    rows += [
        (f"fits into {gpu.memory / 1e9:.0f} GB", fits),
        (f"a step at {share:.0%} of {peaks} Tflop/s", _short(seconds)),
        ("the run", duration(seconds * found.steps)),
    ]
    for axis, size in found.traffic.items():
        speed = gpu.link if axis in ("tensor", "context") else network
        rows.append(
            (f"sent along {axis}", f"{size / 1e9:.3g} GB a step, {_short(size / speed)} at {speed / 1e9:g} GB/s")
        )
    rows.append(("a checkpoint's model", f"{found.model_bytes / 1e9:.3g} GB"))
    rows.append(("  and optimizer", f"{found.optimizer_bytes / 1e9:.3g} GB"))
    return rows


def _short(seconds: float) -> str:
    return f"{seconds * 1e3:.3g} ms" if seconds < 1 else f"{seconds:.3g} s"


def with_planned_vocabulary(recipe: Recipe) -> Recipe:
    """The recipe with a vocabulary, without reading any text."""
    if recipe.model.vocab_size is not None:
        return recipe
    tokenizer = recipe.tokenizer
    n_tokens = tokenizer.vocab_size if tokenizer.type == "bpe" else build_tokenizer(tokenizer, tuple).n_tokens
    return recipe.with_vocabulary(n_tokens)


def _memory(recipe: Recipe, axes: Axes, plan: dict[str, Entry]) -> Memory:
    """Of one rank, at its worst moment."""
    model, train = recipe.model, recipe.train
    sizes = _Sizes(recipe, axes, plan)
    rows = train.largest_batch // axes.data
    micro = min(train.micro_batch_size or rows, rows)
    accumulated = micro < rows
    shares = axes.tensor * axes.context
    block = block_memory(
        model,
        micro,
        recipe.data.seq_len,
        sizes.precision,
        documents=recipe.data.cut().within_document,
        gathered=sizes.split,
        prepare=lambda made: recompute_blocks(made, train.recompute),
    )
    n_tokens = micro * recipe.data.seq_len // axes.context
    stream = 4.0 * n_tokens * model.d_model / axes.tensor
    kept, backward = block.kept / shares, block.backward / shares
    n_layers, stored = model.n_layers, sizes.stored
    loss = loss_memory(model, n_tokens, sizes.precision, axes.tensor, device="cpu" if train.device == "cpu" else "cuda")
    moments_of_weight = 0.5 if recipe.optim.moments == "bf16" else 1.0
    always = {"weights": stored(sizes.total), "optimizer": 2 * moments_of_weight * stored(sizes.total)}
    # Reduced with the last micro-batch only: until then every rank adds up whole gradients, in the type of reduction.
    added_up = sizes.reduced * sizes.total if accumulated and sizes.split else 0.0
    grown = sizes.total if accumulated and not sizes.split else 0.0
    activations = block.shared + n_layers * kept + 2 * stream  # the last output, and its norm's
    # Gathered and not let go: what belongs to no block; the blocks, or their last unit, until their backward pass.
    held = sizes.gathered_rest
    kept_blocks = n_layers * sizes.gathered_block if recipe.parallel.reshard == "never" else sizes.gathered_unit
    passing = held + sizes.passing_unit
    moments = {
        "the loss": always
        | {
            "gradients": stored(grown) + added_up,
            "activations": activations,
            "head and loss": loss,
            "communication": held + kept_blocks,
        },
        "the last block's backward pass": always
        | {
            "gradients": stored(max(grown, 0.0 if sizes.split else sizes.head)) + added_up,
            "activations": activations - 2 * stream + backward,
            "communication": passing + max(0.0, kept_blocks - sizes.gathered_unit) + sizes.gradient_of_head,
        },
        "the first block's backward pass": always
        | {
            "gradients": stored(max(grown, sizes.total - sizes.embedding - sizes.block)),
            "activations": block.shared + kept + backward,
            "communication": passing + sizes.gradient_of_head,
        },
        "the embedding's backward pass": always
        | {
            "gradients": stored(sizes.total) + (stored(sizes.embedding) if accumulated and not sizes.split else 0.0),
            "activations": block.shared + stream,
            "communication": held + (8.0 * sizes.embedding / axes.tensor + sizes.gradient_of_head) * sizes.split,
        },
    }
    moment, parts = max(moments.items(), key=lambda item: sum(item[1].values()))
    return Memory(moment, {name: size for name, size in parts.items() if size})


class _Sizes:
    """Numbers of weights, and the bytes of what FSDP2 gathers; the latter 0 in a process alone."""

    def __init__(self, recipe: Recipe, axes: Axes, plan: dict[str, Entry]) -> None:
        sites = [entry.site for entry in plan.values()]

        def count(role: Role | None = None, layer: int | None = None) -> float:
            return float(sum(math.prod(s.shape) for s in sites if role in (None, s.role) and layer in (None, s.layer)))

        self.total, self.block = count(), count(layer=0)
        self.embedding = count(Role.EMBEDDING)
        self.head = count(Role.HEAD) or self.embedding
        self.split = axes.size > 1
        self.precision = "bf16" if recipe.train.precision == "auto" else recipe.train.precision
        gathered = self.precision if recipe.parallel.gather == "auto" else recipe.parallel.gather
        self._ranks = axes.shard * axes.context * axes.tensor
        per_block = self.block / axes.tensor if self.split else 0.0
        self.gathered_block = per_block * (2 if gathered == "bf16" else 4)
        n_units = count_units(recipe.model.n_layers, recipe.model.n_layers * per_block, recipe.parallel.unit)
        in_unit = -(-recipe.model.n_layers // n_units)
        self.gathered_unit = in_unit * self.gathered_block
        self.gradient_of_head = 4 * self.head / axes.tensor if self.split else 0.0
        small = count(Role.HEAD) > 0 and self.embedding / axes.tensor < recipe.parallel.unit
        self.gathered_rest = self.gradient_of_head
        if small and self.split:
            self.gathered_rest += 4 * self.embedding / axes.tensor
        # One unit used, one fetched and one on its way, if there are several; a unit's gradients, all but those of the
        # block at work, and as they are reduced.
        self.reduced = (2 if recipe.parallel.reduce == "bf16" else 4) / axes.tensor
        gradients = (in_unit - 1) * self.gathered_block + self.reduced * in_unit * per_block * axes.tensor
        self.passing_unit = (3 if n_units > 1 else 1) * self.gathered_unit + gradients

    def stored(self, n: float) -> float:
        """Bytes of a rank's share of ``n`` weights in float32."""
        return 4 * n / self._ranks


def _traffic(recipe: Recipe, axes: Axes, plan: dict[str, Entry]) -> dict[str, float]:
    """Bytes that a rank sends in a step, by axis: ring algorithms, (n - 1) / n of what is gathered or reduced.

    Weights are gathered for each micro-batch's forward pass and, where they are resharded, again for its backward pass;
    gradients are reduced once a step. A tensor axis gathers and scatters the stream around each branch, forward and
    backward; a context axis gathers keys and values, and scatters their gradients.
    """
    model, train = recipe.model, recipe.train
    sizes = _Sizes(recipe, axes, plan)
    rows = train.batch_size // axes.data
    micro = min(train.micro_batch_size or rows, rows)
    n_micro = -(-rows // micro)
    split = axes.shard * axes.context
    blocks = model.n_layers * sizes.gathered_block
    again = blocks - sizes.gathered_unit if recipe.parallel.reshard == "always" else 0.0
    others = 4 * (sizes.total - model.n_layers * sizes.block) / axes.tensor
    reduced = sizes.reduced * sizes.total
    number = 2 if sizes.precision == "bf16" else 4
    stream = number * rows * recipe.data.seq_len * model.d_model / axes.context
    heads = model.mixer.heads(model.d_model)
    keys = 2 * number * rows * recipe.data.seq_len * heads.n_kv_heads * heads.head_dim / axes.tensor
    traffic = {
        "shard": (n_micro * (blocks + again + others) + reduced) * (split - 1) / split,
        "replicate": 2 * reduced / split * (axes.replicate - 1) / axes.replicate,
        # Two branches a block, each gathered before and scattered after it, and both again backward.
        "tensor": 8 * model.n_layers * stream * (axes.tensor - 1) / axes.tensor,
        "context": 2 * model.n_layers * keys * (axes.context - 1) / axes.context,
    }
    return {axis: size for axis, size in traffic.items() if size}
