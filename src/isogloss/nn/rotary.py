"""Rotary position embedding (Su et al. 2021, equation 34) and its extensions to longer contexts.

Pairs ``(i, i + C/2)`` of a head's channels are turned by the angle ``t * f_i`` with ``f_i = theta^(-2i/C)``: the layout
of Hugging Face's Llama. There is no table: angles are computed from positions, so nothing has to be filled after a meta
build.
"""

import math
from typing import Annotated, Literal

import torch
from jaxtyping import Float, Int
from pydantic import Field, model_validator
from torch import Tensor

from isogloss.config.base import Config


class LinearScaling(Config):
    """Position interpolation (Chen et al. 2023): every frequency divided by ``factor``."""

    type: Literal["linear"] = "linear"
    factor: float = Field(gt=0)
    """How many times longer the context becomes."""


class Llama3Scaling(Config):
    """Llama 3.1's rule: low frequencies divided by ``factor``, high ones kept, a smooth passage between."""

    type: Literal["llama3"] = "llama3"
    factor: float = Field(default=8.0, gt=0)
    """How many times longer the context becomes."""
    low_freq_factor: float = Field(default=1.0, gt=0)
    """Wavelengths above original_seq_len / this are divided by the whole factor."""
    high_freq_factor: float = Field(default=4.0, gt=0)
    """Wavelengths below original_seq_len / this are left alone."""
    original_seq_len: int = Field(gt=0)
    """The row length the model was first trained with, in tokens."""

    @model_validator(mode="after")
    def _check(self) -> "Llama3Scaling":
        if self.high_freq_factor <= self.low_freq_factor:
            raise ValueError(
                f"high_freq_factor ({self.high_freq_factor:g}) must be above low_freq_factor ({self.low_freq_factor:g})"
            )
        return self


class YarnScaling(Config):
    """YaRN (Peng et al. 2023, section 3): interpolation by parts, and attention sharpened by ``0.1 ln(factor) + 1``."""

    type: Literal["yarn"] = "yarn"
    factor: float = Field(gt=1)
    """How many times longer the context becomes."""
    beta_fast: float = Field(default=32.0, gt=0)
    """Channels that turn more often than this within the original length are left alone."""
    beta_slow: float = Field(default=1.0, gt=0)
    """Channels that turn less often than this are divided by the whole factor."""
    original_seq_len: int = Field(gt=0)
    """The row length the model was first trained with, in tokens."""

    @model_validator(mode="after")
    def _check(self) -> "YarnScaling":
        if self.beta_fast <= self.beta_slow:
            raise ValueError(f"beta_fast ({self.beta_fast:g}) must be above beta_slow ({self.beta_slow:g})")
        return self


class RotaryConfig(Config):
    """Rotary position embedding."""

    theta: float = Field(default=10_000.0, gt=1)
    """The base of the wavelengths: the slowest channel turns once in about 2 pi theta tokens."""
    scaling: Annotated[LinearScaling | Llama3Scaling | YarnScaling, Field(discriminator="type")] | None = None
    """How frequencies are stretched for contexts longer than those first trained on."""


def frequencies(
    config: RotaryConfig, head_dim: int, device: torch.device | None = None
) -> tuple[Float[Tensor, " half"], float]:
    """Radians per token of each channel pair (float64), and the factor on cosine and sine (1 but for YaRN).

    Made where they are used: a copy to a GPU would wait for all that it has to do.
    """
    exponents = torch.arange(0, head_dim, 2, dtype=torch.float64, device=device) / head_dim
    plain = config.theta**-exponents
    match config.scaling:
        case None:
            return plain, 1.0
        case LinearScaling(factor=factor):
            return plain / factor, 1.0
        case Llama3Scaling() as s:
            turns = s.original_seq_len * plain / (2 * math.pi)
            kept = ((turns - s.low_freq_factor) / (s.high_freq_factor - s.low_freq_factor)).clamp(0, 1)
            return kept * plain + (1 - kept) * plain / s.factor, 1.0
        case YarnScaling() as s:

            def channel(turns: float) -> float:
                """The channel pair that makes this many turns within the original length."""
                return head_dim * math.log(s.original_seq_len / (turns * 2 * math.pi)) / (2 * math.log(config.theta))

            low = max(math.floor(channel(s.beta_fast)), 0)
            high = min(math.ceil(channel(s.beta_slow)), head_dim - 1)
            channels = torch.arange(head_dim // 2, dtype=torch.float64, device=device)
            stretched = ((channels - low) / max(high - low, 1e-3)).clamp(0, 1)
            return (1 - stretched) * plain + stretched * plain / s.factor, 0.1 * math.log(s.factor) + 1.0


def rotations(
    config: RotaryConfig, head_dim: int, positions: Int[Tensor, " T"]
) -> tuple[Float[Tensor, "T C"], Float[Tensor, "T C"]]:
    """Cosine and sine of every position's angles, float32, each half of the channels alike."""
    frequency, factor = frequencies(config, head_dim, positions.device)
    # The product in float64: in float32 the angle of token 100,000 would be off by 0.004 radians.
    angles = positions[:, None].double() * frequency
    angles = torch.cat((angles, angles), dim=-1)
    return (angles.cos() * factor).float(), (angles.sin() * factor).float()


def rotate(
    x: Float[Tensor, "B H T C"], cos: Float[Tensor, "T C"], sin: Float[Tensor, "T C"]
) -> Float[Tensor, "B H T C"]:
    """Turn each channel pair by its position's angle, in float32; the result has the type of ``x``."""
    first, second = x.chunk(2, dim=-1)
    return (x * cos + torch.cat((-second, first), dim=-1) * sin).type_as(x)
