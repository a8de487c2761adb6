"""Placements of norms and multipliers, against their equations."""

import pytest
import torch

from isogloss.build import plan_model
from isogloss.init.apply import initialise
from isogloss.init.schemes import LinguaConfig
from isogloss.models.decoder import Decoder, DecoderConfig
from isogloss.nn.multipliers import Multipliers

A, B = 1.5, 0.25


def model_of(norm: str, multipliers: Multipliers) -> Decoder:
    config = DecoderConfig.model_validate(
        {"d_model": 16, "n_layers": 1, "vocab_size": 11, "norm": norm, "mixer": {"n_heads": 2}}
    )
    model = Decoder(config, multipliers)
    initialise(model, plan_model(config, LinguaConfig()).plan, seed=0)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 1:
                parameter.uniform_(0.5, 1.5, generator=generator)
    return model


@pytest.mark.parametrize("norm", ["pre", "post", "output", "sandwich"])
def test_a_block_is_its_equation(norm: str) -> None:
    block = model_of(norm, Multipliers(residual=A, branch=B)).blocks()[0]
    x = torch.randn(2, 5, 16, generator=torch.Generator().manual_seed(0))
    prepared = block.mixer.prepare(torch.arange(5), 5, None, False)

    def mix(y):
        return block.mixer(y, prepared)

    n, m, n2, m2 = block.mixer_norm, block.ffn_norm, block.mixer_output_norm, block.ffn_output_norm
    match norm:
        case "pre":
            h = A * x + B * mix(n(x))
            y = A * h + B * block.ffn(m(h))
        case "post":
            h = n(A * x + B * mix(x))
            y = m(A * h + B * block.ffn(h))
        case "output":
            h = A * x + B * n(mix(x))
            y = A * h + B * m(block.ffn(h))
        case _:
            h = A * x + B * n2(mix(n(x)))
            y = A * h + B * m2(block.ffn(m(h)))
    torch.testing.assert_close(block(x, prepared), y)


def test_multipliers_of_embedding_logits_and_attention() -> None:
    tokens = torch.arange(8)[None]
    plain = model_of("pre", Multipliers())
    louder = model_of("pre", Multipliers(embedding=3.0, logits=0.5, attention=2.0))
    with torch.no_grad():
        plain.embedding.weight *= 3.0
        plain.head.weight *= 0.5
        plain.layers[0].mixer.q_proj.weight *= 2.0
    torch.testing.assert_close(louder(tokens), plain(tokens))
