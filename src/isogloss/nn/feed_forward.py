"""Position-wise feed-forward networks.

``swiglu``: ``down(silu(gate x) * up x)`` (Shazeer 2020, equation 6); ``gelu``: ``down(gelu(up x))``;
``relu2``: ``down(relu(up x)^2)`` (So et al. 2021, Primer).
"""

from typing import Annotated, Literal

import torch.nn.functional as F
from jaxtyping import Float
from pydantic import Field
from torch import Tensor, nn

from isogloss.config.base import Config
from isogloss.nn.linear import Linear
from isogloss.nn.roles import Role


class SwiGLUConfig(Config):
    """A gated feed-forward network with SiLU."""

    type: Literal["swiglu"] = "swiglu"
    d_ff: int | None = Field(default=None, gt=0)
    """Hidden width; if not given 8/3 d_model, up to a multiple of 64: about the parameters of an ungated network
    of 4 d_model."""

    def width(self, d_model: int) -> int:
        """The hidden width in a model of this width."""
        return self.d_ff or -(-8 * d_model // (3 * 64)) * 64


class PlainConfig(Config):
    """An ungated feed-forward network."""

    type: Literal["gelu", "relu2"]
    d_ff: int | None = Field(default=None, gt=0)
    """Hidden width; 4 d_model if not given."""

    def width(self, d_model: int) -> int:
        """The hidden width in a model of this width."""
        return self.d_ff or 4 * d_model


FeedForwardConfig = Annotated[SwiGLUConfig | PlainConfig, Field(discriminator="type")]


class SwiGLU(nn.Module):
    """``down(silu(gate x) * up x)``."""

    def __init__(self, config: SwiGLUConfig, d_model: int) -> None:
        super().__init__()
        d_ff = config.width(d_model)
        self.gate_proj = Linear(d_model, d_ff, Role.FFN_GATE)
        self.up_proj = Linear(d_model, d_ff, Role.FFN_UP)
        self.down_proj = Linear(d_ff, d_model, Role.FFN_DOWN)

    def forward(self, x: Float[Tensor, "B T D"]) -> Float[Tensor, "B T D"]:
        """Apply to each position alone."""
        return self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))


class Plain(nn.Module):
    """``down(f(up x))`` with ``f`` GELU or the squared ReLU."""

    def __init__(self, config: PlainConfig, d_model: int) -> None:
        super().__init__()
        d_ff = config.width(d_model)
        self.activation = F.gelu if config.type == "gelu" else _relu2
        self.up_proj = Linear(d_model, d_ff, Role.FFN_UP)
        self.down_proj = Linear(d_ff, d_model, Role.FFN_DOWN)

    def forward(self, x: Float[Tensor, "B T D"]) -> Float[Tensor, "B T D"]:
        """Apply to each position alone."""
        return self.down_proj(self.activation(self.up_proj(x)))


def _relu2(x: Tensor) -> Tensor:
    return F.relu(x).square()


def create_feed_forward(config: SwiGLUConfig | PlainConfig, d_model: int) -> nn.Module:
    """The network that a config describes."""
    return SwiGLU(config, d_model) if isinstance(config, SwiGLUConfig) else Plain(config, d_model)
