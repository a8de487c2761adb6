"""The residual block: a mixer and a feed-forward network, each added to the stream.

With a, b the residual and the branch multiplier (1 but for some parametrisations) and N a norm of its own each time:

pre       x' = a x + b f(N(x))         Xiong et al. 2020, figure 1b
post      x' = N(a x + b f(x))         Vaswani et al. 2017; DeepNorm (Wang et al. 2022) sets a
output    x' = a x + b N(f(x))         OLMo 2 (2025), section 3.2
sandwich  x' = a x + b N(f(N(x)))      Gemma 2 (2024), section 2
"""

from collections.abc import Callable
from typing import Any, Literal

from jaxtyping import Float
from torch import Tensor, nn

from isogloss.mixers.registry import MixerConfig, create_mixer
from isogloss.nn.feed_forward import FeedForwardConfig, create_feed_forward
from isogloss.nn.multipliers import Multipliers
from isogloss.nn.norm import RMSNorm
from isogloss.nn.roles import declare_layer

NormPlacement = Literal["pre", "post", "output", "sandwich"]


class Block(nn.Module):
    """Layer ``index`` (from 0) of ``n_layers``."""

    def __init__(
        self,
        mixer: MixerConfig,
        ffn: FeedForwardConfig,
        d_model: int,
        norm_eps: float,
        norm: NormPlacement,
        multipliers: Multipliers,
        index: int,
        n_layers: int,
    ) -> None:
        super().__init__()
        self.norm_placement, self.multipliers = norm, multipliers
        sandwich = norm == "sandwich"
        self.mixer_norm = RMSNorm(d_model, norm_eps)
        self.mixer = create_mixer(mixer, d_model, norm_eps, multipliers)
        self.mixer_output_norm = RMSNorm(d_model, norm_eps) if sandwich else nn.Identity()
        self.ffn_norm = RMSNorm(d_model, norm_eps)
        self.ffn = create_feed_forward(ffn, d_model)
        self.ffn_output_norm = RMSNorm(d_model, norm_eps) if sandwich else nn.Identity()
        # What runs ``read_and_add`` so that it keeps less for the backward pass (`isogloss.parallel.recompute`).
        self.recompute: Callable[..., Tensor] | None = None
        declare_layer(self, index, n_layers)

    def forward(self, x: Float[Tensor, "B T D"], prepared: Any, cache: Any = None) -> Float[Tensor, "B T D"]:
        """Read the stream and add to it; ``prepared`` and ``cache`` are the mixer's own."""
        if self.recompute is not None and cache is None:
            return self.recompute(self.read_and_add, x, prepared)
        return self.read_and_add(x, prepared, cache)

    def read_and_add(self, x: Float[Tensor, "B T D"], prepared: Any, cache: Any = None) -> Float[Tensor, "B T D"]:
        """The block itself."""
        before = self.norm_placement in ("pre", "sandwich")
        written = self.mixer(self.mixer_norm(x) if before else x, prepared, cache)
        x = self._add(x, written, self.mixer_norm, self.mixer_output_norm)
        written = self.ffn(self.ffn_norm(x) if before else x)
        return self._add(x, written, self.ffn_norm, self.ffn_output_norm)

    @property
    def written_by(self) -> tuple[nn.Module, nn.Module]:
        """The modules whose outputs, times the branch multiplier, are added to the stream: mixer side, ffn side."""
        match self.norm_placement:
            case "sandwich":
                return self.mixer_output_norm, self.ffn_output_norm
            case "output":
                return self.mixer_norm, self.ffn_norm
            case _:
                return self.mixer, self.ffn

    def _add(
        self, x: Float[Tensor, "B T D"], written: Float[Tensor, "B T D"], norm: nn.Module, output_norm: nn.Module
    ) -> Float[Tensor, "B T D"]:
        written = norm(written) if self.norm_placement == "output" else output_norm(written)
        # Products by 1 would cost a pass over memory each.
        written = written if self.multipliers.branch == 1.0 else self.multipliers.branch * written
        x = x if self.multipliers.residual == 1.0 else self.multipliers.residual * x
        return norm(x + written) if self.norm_placement == "post" else x + written
