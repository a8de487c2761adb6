"""The only order in which a model comes to be: meta device -> plan -> compile -> materialise."""

from dataclasses import dataclass

import torch

from isogloss.init.apply import initialise
from isogloss.init.plan import Entry, plan_init
from isogloss.init.scheme import Scheme
from isogloss.models.decoder import Decoder
from isogloss.models.registry import ModelConfig, create_model
from isogloss.nn.loss import chunk_loss


@dataclass(frozen=True)
class PlannedModel:
    """A model on the meta device, without memory for its weights, and what will fill them."""

    model: Decoder
    plan: dict[str, Entry]


def plan_model(config: ModelConfig, scheme: Scheme) -> PlannedModel:
    """A model and its initialisation plan, without memory for its weights."""
    with torch.device("meta"):
        model = create_model(config, scheme.multipliers(config))
    return PlannedModel(model, plan_init(model, scheme, config))


def build_model(
    config: ModelConfig, scheme: Scheme, *, seed: int, device: torch.device, compiled: bool = False
) -> Decoder:
    """A model with its first weights: ``plan_model`` and ``materialise``, arguments as theirs."""
    return materialise(plan_model(config, scheme), seed=seed, device=device, compiled=compiled)


def materialise(planned: PlannedModel, *, seed: int, device: torch.device, compiled: bool = False) -> Decoder:
    """Give a planned model its memory and its first weights, float32.

    Args:
        planned: used up by it.
        seed: the run's; weights derive theirs from it by name.
        device: where the weights live.
        compiled: compile each block, and the loss, on first use.
    """
    model = planned.model
    assert all(p.is_meta for p in model.parameters()), "planned models are materialised once"
    if compiled:
        compile_model(model)
    model.to_empty(device=device)
    initialise(model, planned.plan, seed)
    return model


def compile_model(model: Decoder) -> None:
    """Compile each block and the loss's chunk: blocks alike share one graph, so this costs one block's compiling."""
    for block in model.blocks():
        block.mixer.compiled = True
        block.compile(fullgraph=True)
    model.loss_kernel = torch.compile(chunk_loss)
