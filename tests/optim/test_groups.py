"""The optimizer's groups and its state as tensors."""

import pytest
import torch

from isogloss.build import build_model, materialise, plan_model
from isogloss.init.parametrisations import MuPConfig
from isogloss.init.plan import plan_init
from isogloss.init.schemes import LinguaConfig
from isogloss.mixers.attention import AttentionConfig
from isogloss.models.decoder import DecoderConfig
from isogloss.nn.feed_forward import SwiGLUConfig
from isogloss.nn.roles import Role, declared_tensors
from isogloss.optim.groups import AdamWConfig, create_optimizer, set_learning_rate
from isogloss.optim.state import allot_optimizer_tensors, optimizer_tensors

CONFIG = DecoderConfig(
    d_model=16, n_layers=2, mixer=AttentionConfig(n_heads=2, qk_norm=True), ffn=SwiGLUConfig(d_ff=24), vocab_size=32
)


def model_and_optimizer(steps: int = 0):
    model = build_model(CONFIG, LinguaConfig(), seed=0, device=torch.device("cpu"))
    optimizer = create_optimizer(
        model, AdamWConfig(lr=0.01, weight_decay=0.3), plan_init(model, LinguaConfig(), model.config)
    )
    for _ in range(steps):
        model(torch.arange(8)[None]).logsumexp(-1).sum().backward()
        optimizer.step()
        optimizer.zero_grad()
    return model, optimizer


def test_each_parameter_is_in_one_group_and_vectors_do_not_decay() -> None:
    model, optimizer = model_and_optimizer()
    decays = {id(p): group["weight_decay"] for group in optimizer.param_groups for p in group["params"]}
    assert len(decays) == sum(len(group["params"]) for group in optimizer.param_groups) == len(list(model.parameters()))
    for site, tensor in declared_tensors(model):
        assert decays[id(tensor)] == (0.0 if site.role is Role.NORM_GAIN else 0.3), site.name


def test_state_goes_out_and_back() -> None:
    model, optimizer = model_and_optimizer(steps=3)
    tensors = {name: t.clone() for name, t in optimizer_tensors(model, optimizer).items()}
    assert any(name.endswith("/exp_avg_sq") for name in tensors)
    other, fresh = model_and_optimizer()
    other.load_state_dict(model.state_dict())
    there = {name: (t.dtype, t.shape) for name, t in sorted(tensors.items(), reverse=True)}
    room = allot_optimizer_tensors(other, fresh, there)
    # In one order: by it ranks that hold copies share out who writes what.
    assert list(optimizer_tensors(other, fresh)) == list(tensors)
    for name, tensor in tensors.items():
        room[name].copy_(tensor)
    for m, o in ((model, optimizer), (other, fresh)):
        m(torch.arange(8)[None]).logsumexp(-1).sum().backward()
        o.step()
    for a, b in zip(model.parameters(), other.parameters(), strict=True):
        assert torch.equal(a, b)


def test_a_parametrisation_s_factors_reach_the_optimizer() -> None:
    scheme = MuPConfig(type="mup", base_width=CONFIG.d_model // 4)
    planned = plan_model(CONFIG, scheme)
    model = materialise(planned, seed=0, device=torch.device("cpu"))
    optimizer = create_optimizer(model, AdamWConfig(lr=0.01, weight_decay=0.3), planned.plan)
    set_learning_rate(optimizer, 0.02)
    of = {id(p): group for group in optimizer.param_groups for p in group["params"]}
    chosen = (model.layers[0].mixer.q_proj.weight, model.head.weight, model.norm.weight)
    hidden, head, gain = (of[id(p)] for p in chosen)
    assert (hidden["lr"], hidden["weight_decay"]) == pytest.approx((0.005, 1.2))
    assert (head["lr"], head["weight_decay"]) == pytest.approx((0.02, 0.3))
    assert (gain["lr"], gain["weight_decay"]) == (0.02, 0.0)
    assert sum(len(group["params"]) for group in optimizer.param_groups) == len(list(model.parameters()))
