"""The pre-norm residual block: ``x += mixer(norm(x)); x += ffn(norm(x))`` (Xiong et al. 2020, figure 1b)."""

from typing import Any

from jaxtyping import Float
from torch import Tensor, nn

from isogloss.mixers.registry import MixerConfig, create_mixer
from isogloss.nn.feed_forward import FeedForwardConfig, create_feed_forward
from isogloss.nn.norm import RMSNorm
from isogloss.nn.roles import declare_layer


class Block(nn.Module):
    """Layer ``index`` (from 0) of ``n_layers``."""

    def __init__(
        self, mixer: MixerConfig, ffn: FeedForwardConfig, d_model: int, norm_eps: float, index: int, n_layers: int
    ) -> None:
        super().__init__()
        self.mixer_norm = RMSNorm(d_model, norm_eps)
        self.mixer = create_mixer(mixer, d_model, norm_eps)
        self.ffn_norm = RMSNorm(d_model, norm_eps)
        self.ffn = create_feed_forward(ffn, d_model)
        declare_layer(self, index, n_layers)

    def forward(self, x: Float[Tensor, "B T D"], prepared: Any, cache: Any = None) -> Float[Tensor, "B T D"]:
        """Read the stream and add to it; ``prepared`` and ``cache`` are the mixer's own."""
        x = x + self.mixer(self.mixer_norm(x), prepared, cache)
        return x + self.ffn(self.ffn_norm(x))
