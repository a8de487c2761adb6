"""How the ranks of a run are laid out: ``replicate x shard x context x tensor``, tensor innermost.

replicate   copies of everything; gradients are summed over them          (data parallel)
shard       weights, gradients and optimizer state are split over them    (FSDP2; with replicate: hybrid)
context     each holds a part of every row; keys and values are gathered  (long sequences)
tensor      each holds some heads and hidden units of every block         (within a machine)

Rows are shared out over replicate x shard; weights are split over shard x context. There is one code path: with
``shard=1`` FSDP2 over the copies does what DDP does, and its gradients, clipping and checkpoints are those of the rest.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Literal

import torch.distributed as dist
from pydantic import Field
from torch import Tensor
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh

from isogloss.config.base import Config, UserError
from isogloss.models.registry import ModelConfig


class ParallelConfig(Config):
    """How several ranks share the work; one process is alone and needs none of it."""

    replicate: int = Field(default=1, gt=0)
    """Copies of the weights, each of its own ranks."""
    shard: int | None = Field(default=None, gt=0)
    """Ranks that weights, gradients and optimizer state are split over (FSDP2); all that are left if not given."""
    context: int = Field(default=1, gt=0)
    """Ranks that share each row by its positions; they also split the weights."""
    tensor: int = Field(default=1, gt=0)
    """Ranks that share each block by its heads and hidden units, and the vocabulary."""
    unit: int = Field(default=2**21, gt=0)
    """Weights that are gathered at once, at least: smaller blocks are put together, for every gathering waits for the
    slowest rank. 1 gathers each block alone."""
    reshard: Literal["always", "never"] = "always"
    """Whether gathered weights are let go after the forward pass and gathered again for the backward, all but the last
    unit's, which is needed at once; never saves that at the cost of a whole copy of the weights."""
    reduce: Literal["fp32", "bf16"] = "fp32"
    """Type in which gradients are reduced."""
    offload: bool = False
    """Keep weights, gradients and optimizer state in the CPU's memory, and step there."""
    timeout: float = Field(default=10.0, gt=0, le=525_600)
    """Minutes that ranks wait for each other, in any phase of the run, without any of them getting on; then the run
    ends and says who is behind. What compiles may take three times as long; what rank 0 does alone is not hurried."""

    @property
    def patience(self) -> timedelta:
        """How long one exchange between ranks may take: the watchdog, which knows who is behind, speaks before."""
        return timedelta(minutes=4 * self.timeout)

    @property
    def arrival(self) -> timedelta:
        """How long ranks that have started wait for the others to start."""
        return timedelta(minutes=self.timeout)


@dataclass(frozen=True)
class Axes:
    """Ranks along each axis; their product is the number of ranks."""

    replicate: int
    shard: int
    context: int
    tensor: int

    @property
    def data(self) -> int:
        """Ranks that read different rows."""
        return self.replicate * self.shard

    @property
    def size(self) -> int:
        """All ranks."""
        return self.data * self.context * self.tensor


def find_axes(config: ParallelConfig, n_ranks: int) -> Axes:
    """The axes of a run on ``n_ranks`` ranks.

    Raises:
        UserError: their product is not the number of ranks.
    """
    given = config.replicate * config.context * config.tensor
    axes = Axes(config.replicate, config.shard or max(1, n_ranks // given), config.context, config.tensor)
    if axes.size != n_ranks:
        left, over = divmod(n_ranks, given)
        fits = f"parallel.shard={left} fits" if not over else f"replicate x context x tensor ({given}) must divide them"
        raise UserError(
            f"parallel asks for replicate {axes.replicate} x shard {axes.shard} x context {axes.context} x tensor "
            f"{axes.tensor} = {axes.size} ranks, but this run has {n_ranks}; launch as many, or change parallel: {fits}"
        )
    return axes


@dataclass(frozen=True)
class Stretch:
    """Steps that are alike.

    Args:
        seq_len: T.
        batch_size: rows, over all ranks.
        when: said of both where they are not those of the whole run.
    """

    seq_len: int
    batch_size: int
    when: str = ""


def check_axes(axes: Axes, model: ModelConfig, stretches: Sequence[Stretch]) -> None:
    """Whether a model and its batches, those of every stage of a warm-up, can be shared out over the axes.

    Args:
        axes: of the run.
        model: its heads and widths.
        stretches: all that its steps read.

    Raises:
        UserError: they cannot; every reason is listed.
    """
    problems = [problem for stretch in stretches for problem in _misfits(axes, model, stretch)]
    if problems:
        raise UserError("the run cannot be shared out: " + "; ".join(dict.fromkeys(problems)))


def _misfits(axes: Axes, model: ModelConfig, stretch: Stretch) -> list[str]:
    seq_len, batch_size, when = stretch.seq_len, stretch.batch_size, stretch.when
    problems = []
    if batch_size % axes.data:
        problems.append(
            f"train.batch_size ({batch_size}{when}) is not a multiple of the {axes.data} ranks (replicate x shard) "
            "that share its rows"
        )
    if axes.tensor > 1:
        heads, d_ff = model.mixer.heads(model.d_model), model.ffn.width(model.d_model)
        for name, n in (
            ("mixer.n_heads", heads.n_heads),
            ("mixer.n_kv_heads", heads.n_kv_heads),
            ("ffn.d_ff", d_ff),
        ):
            if n % axes.tensor:
                problems.append(f"model.{name} ({n}) is not a multiple of parallel.tensor ({axes.tensor})")
    # Each context rank takes two pieces of a row; each tensor rank norms its part of them.
    pieces = axes.tensor * (2 * axes.context if axes.context > 1 else 1)
    if seq_len % pieces:
        why = "2 x context x tensor" if axes.context > 1 else "tensor"
        problems.append(f"data.seq_len ({seq_len}{when}) is not a multiple of {pieces} ({why} ranks that share a row)")
    return problems


class Layout:
    """The axes with their process groups, and this rank's place on them. Making one is a collective call.

    Args:
        axes: their product is the world's size.
        config: what else of it the strategies read.
        device: ``cpu`` or ``cuda``.
    """

    def __init__(self, axes: Axes, config: ParallelConfig, device: str) -> None:
        assert axes.size == dist.get_world_size()
        self.axes, self.config, self.device = axes, config, device
        split = axes.shard * axes.context
        # Two meshes over the same ranks: weights do not tell context from shard, batches do.
        mesh = init_device_mesh(
            device, (axes.replicate, split, axes.tensor), mesh_dim_names=("replicate", "shard", "tensor")
        )
        self.weights: DeviceMesh = mesh["replicate", "shard"] if axes.replicate > 1 else mesh["shard"]
        self.tensor: DeviceMesh | None = mesh["tensor"] if axes.tensor > 1 else None
        rows = init_device_mesh(
            device, (axes.data, axes.context, axes.tensor), mesh_dim_names=("data", "context", "tensor")
        )
        self.data_rank, self.context_rank, self.tensor_rank = (
            rows.get_local_rank(name) for name in ("data", "context", "tensor")
        )
        self.context: dist.ProcessGroup | None = rows["context"].get_group() if axes.context > 1 else None
        targets = init_device_mesh(
            device, (axes.data * axes.context, axes.tensor), mesh_dim_names=("targets", "tensor")
        )
        self._targets = targets["targets"].get_group()
        # A mesh's groups have PyTorch's own limits: 10 minutes on NCCL, which would speak before the watchdog.
        for group in [*mesh.get_all_groups(), *rows.get_all_groups(), *targets.get_all_groups()]:
            group.set_timeout(config.patience)

    def sum_over_targets(self, value: Tensor) -> Tensor:
        """The sum over the ranks whose targets differ, in place, the same on all ranks."""
        dist.all_reduce(value, group=self._targets)
        return value

    def agreed_sum(self, value: Tensor) -> Tensor:
        """As ``sum_over_targets``, of what each tensor rank has a copy of: not finite if any copy is not."""
        dist.all_reduce(value)
        return value.div_(self.axes.tensor)
