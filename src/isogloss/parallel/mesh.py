"""How the ranks of a run are laid out: ``replicate x shard x context x tensor``, tensor innermost.

replicate   copies of everything; gradients are averaged over them        (data parallel)
shard       weights, gradients and optimizer state are split over them    (FSDP2; with replicate: hybrid)
context     each holds a part of every row; keys and values are gathered  (long sequences)
tensor      each holds some heads and hidden units of every block         (within a machine)

Rows are shared out over replicate x shard; weights are split over shard x context.
"""

from typing import Literal

from pydantic import Field

from isogloss.config.base import Config


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
    reshard: Literal["always", "never"] = "always"
    """Whether a block's gathered weights are let go after the forward pass and gathered again for the backward; never
    saves that at the cost of a whole copy of the weights."""
    gather: Literal["auto", "fp32", "bf16"] = "auto"
    """Type in which the blocks' weights are gathered; auto: that of the products (train.precision)."""
    reduce: Literal["fp32", "bf16"] = "fp32"
    """Type in which gradients are reduced."""
    offload: bool = False
    """Keep weights, gradients and optimizer state in the CPU's memory, and step there."""
