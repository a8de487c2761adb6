"""The models that a recipe can name. A new architecture is a file beside this and a line here."""

from isogloss.models.decoder import Decoder, DecoderConfig

ModelConfig = DecoderConfig
MODELS = {DecoderConfig: Decoder}


def create_model(config: ModelConfig) -> Decoder:
    """The model that a config describes, its weights not yet filled (make it under ``torch.device("meta")``)."""
    return MODELS[type(config)](config)
