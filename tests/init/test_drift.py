"""How far weights have moved: nothing at the start, and exactly what was added since."""

import pytest
import torch

from isogloss.build import materialise, plan_model
from isogloss.init.drift import Drift, drift
from isogloss.init.schemes import LinguaConfig, NanochatConfig
from isogloss.models.decoder import DecoderConfig
from isogloss.nn.roles import Role

CONFIG = DecoderConfig.model_validate({"d_model": 64, "n_layers": 2, "vocab_size": 300})


def drifts(change, scheme=None) -> dict[Role, Drift]:
    planned = plan_model(CONFIG, scheme or LinguaConfig())
    model = materialise(planned, seed=4, device=torch.device("cpu"))
    with torch.no_grad():
        change(dict(model.named_parameters()))
    return {row.role: row for row in drift(model, planned.plan, 4)}


def test_initial_weights_have_not_moved() -> None:
    for row in drifts(lambda p: None).values():
        assert row.moved == 0
        assert row.now == pytest.approx(row.planned, rel=0.03)


def test_what_was_added_is_found_where_it_is() -> None:
    found = drifts(lambda p: p["layers.1.ffn.down_proj.weight"].mul_(3))
    for role, row in found.items():
        assert (row.moved > 0) == (role == Role.FFN_DOWN)
    row = found[Role.FFN_DOWN]
    assert row.n_parameters == 2
    assert row.farthest == "layers.1.ffn.down_proj.weight"
    assert row.farthest_ratio == pytest.approx(3, rel=0.03)
    assert row.moved / row.planned == pytest.approx(2**0.5, rel=0.03)  # (3 - 1)^2 / 2 layers
    assert row.now / row.planned == pytest.approx(5**0.5, rel=0.03)  # (3^2 + 1^2) / 2


def test_from_zero_there_is_no_ratio() -> None:
    name = "layers.1.mixer.o_proj.weight"
    row = drifts(lambda p: p[name].fill_(0.5), NanochatConfig(type="nanochat"))[Role.ATTENTION_OUT]
    assert (row.planned, row.farthest, row.farthest_ratio) == (0, name, None)
    assert row.moved == row.now == pytest.approx(0.5 / 2**0.5)
