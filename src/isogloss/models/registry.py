"""The models that a recipe can name. A new architecture is a file beside this and a line here."""

from isogloss.models.decoder import Decoder, DecoderConfig
from isogloss.nn.multipliers import Multipliers

ModelConfig = DecoderConfig
MODELS = {DecoderConfig: Decoder}


def create_model(config: ModelConfig, multipliers: Multipliers) -> Decoder:
    """The model that a config describes, its weights not yet filled (make it under ``torch.device("meta")``).

    The multipliers are those of the scheme that will fill it.
    """
    return MODELS[type(config)](config, multipliers)
