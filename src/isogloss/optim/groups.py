"""The optimizer and its parameter groups, from roles and from the plan.

Matrices decay, gains, biases and other vectors do not; a parametrisation's factors (`isogloss.init.rules.Update`) make
further groups.
"""

from collections.abc import Mapping
from typing import Literal

import torch
from pydantic import Field, model_validator
from torch import nn

from isogloss.config.base import Config
from isogloss.init.plan import Entry
from isogloss.init.rules import Update
from isogloss.nn.roles import Role, declared_tensors
from isogloss.optim.compact import CompactAdamW
from isogloss.optim.schedules import CosineSchedule, ScheduleConfig

# bfloat16 has 8 bits: a change below 2^-8 of the mean is lost, so a step's share of it has to be well above that.
MAX_BETA2_IN_BF16 = 0.98
UNDECAYED = frozenset({Role.NORM_GAIN, Role.BIAS, Role.DECAY, Role.STEP_SIZE, Role.SKIP, Role.SCALAR})


class AdamWConfig(Config):
    """AdamW (Loshchilov and Hutter 2019), PyTorch's fused implementation."""

    type: Literal["adamw"] = "adamw"
    lr: float = Field(default=1e-3, gt=0)
    """Peak learning rate."""
    beta1: float = Field(default=0.9, ge=0, lt=1)
    """Decay of the gradient's running mean."""
    beta2: float = Field(default=0.95, ge=0, lt=1)
    """Decay of the squared gradient's running mean."""
    eps: float = Field(default=1e-8, gt=0)
    """Added to the root of the second moment."""
    weight_decay: float = Field(default=0.1, ge=0)
    """Decoupled decay of matrices, multiplied by the learning rate."""
    moments: Literal["fp32", "bf16"] = "fp32"
    """Type in which both running means are kept; bf16 takes half the memory, and needs beta2 <= 0.98."""
    clip: float = Field(default=1.0, gt=0, allow_inf_nan=True)
    """The gradient's global norm is cut to this; .inf for no clipping."""
    schedule: ScheduleConfig = CosineSchedule()
    """How the learning rate goes."""

    @model_validator(mode="after")
    def _check(self) -> "AdamWConfig":
        if self.moments == "bf16" and self.beta2 > MAX_BETA2_IN_BF16:
            raise ValueError(
                f"beta2 ({self.beta2:g}) must be at most {MAX_BETA2_IN_BF16:g} with moments in bf16: smaller changes "
                "of the squared gradient's mean are lost in rounding"
            )
        return self


def parameter_groups(model: nn.Module, plan: Mapping[str, Entry]) -> dict[tuple[bool, Update], dict[str, nn.Parameter]]:
    """Parameters by whether they decay and by their factors, each in exactly one group, in the model's order.

    Args:
        model: may live on the meta device.
        plan: of the model, by canonical name.
    """
    groups: dict[tuple[bool, Update], dict[str, nn.Parameter]] = {}
    for site, tensor in declared_tensors(model):
        if isinstance(tensor, nn.Parameter):
            groups.setdefault((site.role not in UNDECAYED, plan[site.name].update), {})[site.name] = tensor
    return groups


def create_optimizer(model: nn.Module, config: AdamWConfig, plan: Mapping[str, Entry]) -> torch.optim.AdamW:
    """AdamW over `parameter_groups`.

    Args:
        model: with its weights.
        config: the settings that the plan's factors multiply.
        plan: of the model, by canonical name.
    """
    kept_in = CompactAdamW if config.moments == "bf16" else torch.optim.AdamW
    return kept_in(
        [
            {
                "params": list(parameters.values()),
                "lr_factor": update.lr,
                "weight_decay": config.weight_decay * update.weight_decay if decayed else 0.0,
                "eps": config.eps * update.eps,
            }
            for (decayed, update), parameters in parameter_groups(model, plan).items()
        ],
        lr=config.lr,
        betas=(config.beta1, config.beta2),
        fused=True,
    )


def set_learning_rate(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """The rate of the next step, for every group by its factor; 1 for a group without one."""
    for group in optimizer.param_groups:
        group["lr"] = lr * group.get("lr_factor", 1.0)
