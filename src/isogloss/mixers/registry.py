"""The sequence mixers that a block can hold. A new one is a file beside this and a line here."""

from isogloss.mixers.attention import Attention, AttentionConfig
from isogloss.nn.multipliers import Multipliers

MixerConfig = AttentionConfig
MIXERS = {AttentionConfig: Attention}


def create_mixer(config: MixerConfig, d_model: int, norm_eps: float, multipliers: Multipliers) -> Attention:
    """The mixer that a config describes, in a model of this width whose norms add ``norm_eps``."""
    return MIXERS[type(config)](config, d_model, norm_eps, multipliers)
