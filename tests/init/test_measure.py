"""What is measured is what the model computes."""

import pytest
import torch

from isogloss.build import build_model
from isogloss.init.measure import measure_signals
from isogloss.init.schemes import T5Config
from isogloss.models.decoder import DecoderConfig
from isogloss.models.protocol import Batch


@pytest.mark.parametrize("cap", [0.5, 3.0])
def test_attention_logits_are_measured_after_their_soft_cap(cap: float) -> None:
    stds = []
    for softcap in (None, cap):
        mixer = {"n_heads": 2, "qk_norm": True, "softcap": softcap}
        config = DecoderConfig.model_validate({"d_model": 64, "n_layers": 1, "vocab_size": 50, "mixer": mixer})
        model = build_model(config, T5Config(type="t5"), seed=0, device=torch.device("cpu"))
        tokens = torch.arange(24).reshape(2, 12)
        stds += measure_signals(model, Batch(tokens, tokens)).attention_logit_std
    assert stds[0] == pytest.approx(32**0.5, rel=0.2)
    assert 0.5 * cap < stds[1] < cap
