"""The only order in which a model comes to be: meta device -> plan -> parallelise -> compile -> materialise."""

from dataclasses import dataclass

import torch

from isogloss.config.base import UserError
from isogloss.init.apply import initialise
from isogloss.init.plan import Entry, plan_init
from isogloss.init.scheme import Scheme
from isogloss.models.decoder import Decoder
from isogloss.models.registry import ModelConfig, create_model
from isogloss.nn.precision import find_device
from isogloss.parallel.context import share_rows
from isogloss.parallel.float8 import Float8, multiply_in_float8
from isogloss.parallel.fsdp import shard_weights
from isogloss.parallel.mesh import Layout
from isogloss.parallel.recompute import Recompute, recompute_blocks
from isogloss.parallel.tensor import split_layers


@dataclass(frozen=True)
class PlannedModel:
    """A model on the meta device, without memory for its weights, and what will fill them."""

    model: Decoder
    plan: dict[str, Entry]


def plan_model(config: ModelConfig, scheme: Scheme) -> PlannedModel:
    """A model and its initialisation plan, without memory for its weights."""
    if isinstance(scheme, str):
        raise UserError(f"a scheme is a config of isogloss.init.schemes, such as LinguaConfig(), got {scheme!r}")
    with torch.device("meta"):
        model = create_model(config, scheme.multipliers(config))
    return PlannedModel(model, plan_init(model, scheme, config))


def build_model(
    config: ModelConfig, scheme: Scheme, *, seed: int, device: str | torch.device, compiled: bool = False
) -> Decoder:
    """A model with its first weights: ``plan_model`` and ``materialise``, arguments as theirs."""
    return materialise(plan_model(config, scheme), seed=seed, device=device, compiled=compiled)


def materialise(
    planned: PlannedModel,
    *,
    seed: int,
    device: str | torch.device,
    compiled: bool = False,
    recompute: Recompute = "none",
    layout: Layout | None = None,
    precision: str = "fp32",
    float8: Float8 = "off",
) -> Decoder:
    """Give a planned model its memory and its first weights, float32.

    Args:
        planned: used up by it.
        seed: the run's; weights derive theirs from it by name.
        device: where the weights live.
        compiled: compile each block, and the loss, on first use.
        recompute: what a block computes again in the backward pass.
        layout: the ranks that share the model; each gets its part of the very same weights.
        precision: of the products, which weights may be gathered in.
        float8: how the operands of projections are scaled, where those multiply in float8.

    Raises:
        UserError: there is no such device here, or the planned model is used up.
    """
    model, device = planned.model, find_device(device)
    if not all(p.is_meta for p in model.parameters()):
        raise UserError("this planned model has been materialised: plan_model makes another")
    multiply_in_float8(model, float8, device)
    if layout is not None:
        if layout.tensor is not None:
            split_layers(model, layout.tensor)
        if layout.context is not None:
            share_rows(model, layout.context)
    recompute_blocks(model, recompute)
    if compiled:
        compile_model(model)
    if layout is not None:
        shard_weights(model, layout, precision)
        device = torch.device("cpu") if layout.config.offload else device
    model.to_empty(device=device)
    initialise(model, planned.plan, seed)
    return model


def compile_model(model: Decoder) -> None:
    """Compile each block and the loss's chunk: blocks alike share one graph, so this costs one block's compiling."""
    for block in model.blocks():
        block.mixer.compiled = True
        block.compile(fullgraph=True)
    model.loss_kernel = torch.compile(model.loss_kernel)
