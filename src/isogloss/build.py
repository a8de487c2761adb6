"""The only order in which a model comes to be: meta device -> plan -> compile -> materialise."""

from dataclasses import dataclass

import torch

from isogloss.config.base import UserError
from isogloss.init.apply import initialise
from isogloss.init.plan import Entry, plan_init
from isogloss.init.schemes import Scheme
from isogloss.models.decoder import Decoder
from isogloss.models.registry import ModelConfig, create_model
from isogloss.nn.loss import chunk_loss


@dataclass(frozen=True)
class Built:
    """A model with the plan that filled it."""

    model: Decoder
    plan: dict[str, Entry]


def plan_model(config: ModelConfig, scheme: Scheme) -> dict[str, Entry]:
    """The initialisation plan of a model, without memory for its weights."""
    with torch.device("meta"):
        return plan_init(create_model(config), scheme)


def build_model(
    config: ModelConfig, scheme: Scheme, *, seed: int, device: torch.device, compiled: bool = False
) -> Built:
    """A model with its first weights, float32, on ``device``.

    Args:
        config: the model, its vocabulary resolved.
        scheme: the initialisation.
        seed: the run's; weights derive theirs from it by name.
        device: where the weights live.
        compiled: compile each block, and the loss, on first use.
    """
    with torch.device("meta"):
        model = create_model(config)
    plan = plan_init(model, scheme)
    if compiled:
        compile_model(model)
    model.to_empty(device=device)
    initialise(model, plan, seed)
    return Built(model, plan)


def check_backend(config: ModelConfig, device: str) -> None:
    """Refuse an attention kernel that cannot train on a device.

    Raises:
        UserError: flex on a CPU, where its backward pass does not exist (torch 2.13).
    """
    if config.mixer.backend == "flex" and device == "cpu":
        raise UserError("model.mixer.backend is flex, which trains on GPUs only; set it to auto, sdpa or plain")


def compile_model(model: Decoder) -> None:
    """Compile each block and the loss's chunk: blocks alike share one graph, so this costs one block's compiling."""
    for block in model.blocks():
        block.mixer.compiled = True
        block.compile(fullgraph=True)
    model.loss_kernel = torch.compile(chunk_loss)
