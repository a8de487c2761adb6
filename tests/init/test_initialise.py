"""Weights against the plan, and their independence of order, wrapping and neighbours."""

import math

import pytest
import torch
from torch import nn

from isogloss.build import build_model, materialise, plan_model
from isogloss.init.apply import fill, initialise
from isogloss.init.plan import Entry, MissingRuleError, plan_init
from isogloss.init.rules import Constant, Normal
from isogloss.init.schemes import LinguaBeforeConfig, LinguaConfig
from isogloss.mixers.attention import AttentionConfig
from isogloss.models.decoder import DecoderConfig
from isogloss.models.registry import create_model
from isogloss.nn.feed_forward import SwiGLUConfig
from isogloss.nn.linear import Linear
from isogloss.nn.multipliers import Multipliers
from isogloss.nn.roles import READERS, WRITERS, Role, Site, UndeclaredParameterError, declared_tensors

CPU = torch.device("cpu")
CONFIG = DecoderConfig(
    d_model=64, n_layers=3, mixer=AttentionConfig(n_heads=4, n_kv_heads=2), ffn=SwiGLUConfig(d_ff=160), vocab_size=300
)


def weights(config: DecoderConfig = CONFIG, seed: int = 0, **scheme) -> dict[str, torch.Tensor]:
    model = build_model(config, LinguaConfig(**scheme), seed=seed, device=CPU)
    return {site.name: t.detach().clone() for site, t in declared_tensors(model)}


@pytest.mark.parametrize(
    "scheme", [LinguaConfig(), LinguaBeforeConfig(), LinguaConfig(depth_factor="current", base_std=0.02)]
)
def test_every_std_is_the_planned_one(scheme) -> None:
    planned = plan_model(CONFIG, scheme)
    for site, tensor in declared_tensors(materialise(planned, seed=1, device=CPU)):
        rule = planned.plan[site.name].rule
        if isinstance(rule, Constant):
            assert bool((tensor == rule.value).all())
            continue
        assert rule.cut is not None
        assert float(tensor.abs().max()) <= rule.cut * rule.std * (1 + 1e-6)
        # The standard error of a standard deviation under the kurtosis 2.8289 of a normal cut at 3.
        error = math.sqrt((2.8289 - 1) / (4 * tensor.numel()))
        assert abs(float(tensor.std()) / rule.effective_std - 1) < 4.5 * error, site.name
        assert abs(float(tensor.mean())) < 4.5 * rule.effective_std / math.sqrt(tensor.numel()), site.name


def test_effective_std_of_known_cuts() -> None:
    for cut, ratio in ((2.0, 0.8796257), (2.5, 0.9545975), (3.0, 0.9865784), (4.0, 0.9994645)):
        assert Normal(1.0, "1", cut).effective_std == pytest.approx(ratio, abs=1e-6)
    assert Normal(0.5, "", None).effective_std == 0.5


@pytest.mark.parametrize(
    ("factor", "expected"),
    [
        ("disabled", lambda layer: 1.0),
        ("global", lambda layer: math.sqrt(2 * (3 + 1))),
        ("current", lambda layer: math.sqrt(2 * (layer + 1))),
        ("dim_ratio", lambda layer: 64 / 4096),
    ],
)
def test_only_writers_are_scaled_by_depth(factor: str, expected) -> None:
    plan = plan_model(CONFIG, LinguaConfig(depth_factor=factor)).plan
    for entry in plan.values():
        site = entry.site
        if site.role in WRITERS:
            assert site.layer is not None
            assert entry.rule.std == pytest.approx(site.fan_in**-0.5 / expected(site.layer))
        elif site.role in READERS:
            assert entry.rule.std == pytest.approx(site.fan_in**-0.5)


def test_before_the_correction_readers_were_scaled_too() -> None:
    before, after = (plan_model(CONFIG, scheme).plan for scheme in (LinguaBeforeConfig(), LinguaConfig()))
    for name, entry in before.items():
        ratio = entry.rule.std / after[name].rule.std if entry.rule.std else 1.0
        wrong = entry.site.role in READERS - {Role.HEAD}
        assert ratio == pytest.approx(1 / math.sqrt(8) if wrong else 1.0), name


def test_base_std_reaches_embedding_and_head() -> None:
    plan = plan_model(CONFIG, LinguaConfig(base_std=0.01)).plan
    assert plan["embedding.weight"].rule.std == plan["head.weight"].rule.std == 0.01
    own = plan_model(CONFIG, LinguaConfig(base_std=0.01, embedding_std=1.0)).plan
    assert own["embedding.weight"].rule.std == 1.0
    assert own["head.weight"].rule.std == 0.01


def test_weights_do_not_depend_on_the_order_of_filling() -> None:
    with torch.device("meta"):
        model = create_model(CONFIG, Multipliers())
    plan = plan_init(model, LinguaConfig(), CONFIG)
    model.to_empty(device=CPU)
    for site, tensor in reversed(list(declared_tensors(model))):
        fill(tensor, plan[site.name], seed=0)
    expected = weights()
    for site, tensor in declared_tensors(model):
        assert torch.equal(tensor, expected[site.name]), site.name


def test_deeper_wider_and_padded_models_keep_the_entries_they_share() -> None:
    small = weights()
    deeper = weights(CONFIG.model_copy(update={"n_layers": 5}), depth_factor="current")
    same = weights(depth_factor="current")
    for name, tensor in same.items():
        assert torch.equal(tensor, deeper[name]), name
    padded = weights(CONFIG.model_copy(update={"vocab_size": 384}))
    assert torch.equal(padded["embedding.weight"][:300], small["embedding.weight"])
    assert torch.equal(padded["head.weight"][:300], small["head.weight"])
    wider = weights(CONFIG.model_copy(update={"ffn": SwiGLUConfig(d_ff=192)}))
    assert torch.equal(wider["layers.0.ffn.up_proj.weight"][:160], small["layers.0.ffn.up_proj.weight"])


def test_seeds_and_parameters_differ() -> None:
    a, b = weights(seed=0), weights(seed=1)
    matrices = [name for name, t in a.items() if t.ndim == 2]
    assert all(not torch.equal(a[name], b[name]) for name in matrices)
    q = [a[f"layers.{i}.mixer.q_proj.weight"] for i in range(3)]
    for i, left in enumerate(q):
        for right in q[i + 1 :]:
            z = torch.corrcoef(torch.stack([left.flatten(), right.flatten()]))[0, 1] * left.numel() ** 0.5
            assert abs(z) < 4.5


def test_names_are_free_of_wrappers() -> None:
    model = create_model(CONFIG, Multipliers())
    names = {site.name for site, _ in declared_tensors(model)}
    for index in range(3):
        model.layers[index] = torch.compile(model.layers[index])
    assert {site.name for site, _ in declared_tensors(nn.Sequential())} == set()
    assert {site.name for site, _ in declared_tensors(model)} == names
    plan = plan_init(model, LinguaConfig(), CONFIG)
    initialise(model, plan, seed=0)
    expected = weights()
    for site, tensor in declared_tensors(model):
        assert torch.equal(tensor, expected[site.name])


def test_meta_and_cpu_give_the_same_plan() -> None:
    assert (
        plan_init(create_model(CONFIG, Multipliers()), LinguaConfig(), CONFIG)
        == plan_model(CONFIG, LinguaConfig()).plan
    )


def test_a_parameter_without_a_role_is_an_error() -> None:
    model = create_model(CONFIG, Multipliers())
    model.register_parameter("extra", nn.Parameter(torch.zeros(3)))
    with pytest.raises(UndeclaredParameterError, match="extra"):
        plan_init(model, LinguaConfig(), CONFIG)


def test_a_buffer_without_a_role_is_an_error() -> None:
    model = create_model(CONFIG, Multipliers())
    model.layers[1].register_buffer("table", torch.zeros(3), persistent=False)
    with pytest.raises(UndeclaredParameterError, match=r"layers\.1\.table"):
        plan_init(model, LinguaConfig(), CONFIG)


def test_a_role_without_a_rule_is_an_error() -> None:
    with pytest.raises(MissingRuleError, match="router"):
        plan_init(nn.Sequential(Linear(4, 8, Role.ROUTER)), LinguaConfig(), CONFIG)


def test_stacked_matrices_equal_separate_ones() -> None:
    rule = Normal(1.0, "1")
    site = Site("experts.weight", Role.FFN_UP, (3, 5, 7), 7, 5, 0, 1)
    stacked = torch.empty(3, 5, 7)
    fill(stacked, Entry(site, rule), seed=3)
    for index in range(3):
        alone = torch.empty(5, 7)
        fill(alone, Entry(Site(f"experts.weight[{index}]", Role.FFN_UP, (5, 7), 7, 5, 0, 1), rule), seed=3)
        assert torch.equal(stacked[index], alone)


@pytest.mark.parametrize("block", [64 * 7, 50])
def test_large_parameters_are_filled_in_blocks_without_seams(monkeypatch, block: int) -> None:
    whole = weights()
    monkeypatch.setattr("isogloss.init.apply.BLOCK", block)
    blocks = weights()
    for name in whole:
        assert torch.equal(whole[name], blocks[name])
