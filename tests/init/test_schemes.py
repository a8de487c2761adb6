"""Every scheme's scales, written out again by hand from its source, at width 64, hidden width 192, 3 layers."""

import math

import pytest
import torch
from pydantic import TypeAdapter

from isogloss.build import materialise, plan_model
from isogloss.config.base import UserError
from isogloss.init.rules import Constant, Normal, Uniform
from isogloss.init.scheme import Scheme
from isogloss.init.schemes import SchemeConfig
from isogloss.models.decoder import DecoderConfig
from isogloss.nn.multipliers import Multipliers

D, FF, L, C = 64, 192, 3, 16
ROOT = math.sqrt(2 * L)
SMALL = math.sqrt(2 / (5 * D))
XAVIER = math.sqrt(2 / (D + D))
QUIET = (8 * L) ** -0.25


def so_far(layer: int) -> float:
    return math.sqrt(2 * (layer + 1))


# Layer 1 of: embedding, query, value, attention_out, ffn_gate, ffn_up, ffn_down, head.
EXPECTED = {
    "gpt2": (0.02, 0.02, 0.02, 0.02 / ROOT, 0.02, 0.02, 0.02 / ROOT, 0.02),
    "megatron": (0.02, 0.02, 0.02, 0.02 / ROOT, 0.02, 0.02, 0.02 / ROOT, 0.02),
    "gpt_neox": (SMALL, SMALL, SMALL, 2 / (L * 8), SMALL, SMALL, 2 / (L * 8), SMALL),
    "spike_no_more": (1, SMALL, SMALL, SMALL / ROOT, SMALL, SMALL, SMALL / ROOT, SMALL),
    "torchtitan_llama3": (1, 0.02, 0.02, 0.02 / so_far(1), 0.02, 0.02 / so_far(1), 0.02 / so_far(1), 1 / 8),
    "olmo_mitchell": (1 / 8, 1 / 8, 1 / 8, (2 * D * 2) ** -0.5, 1 / 8, 1 / 8, (2 * FF * 2) ** -0.5, 1 / 8),
    "olmo_normal": (0.02,) * 8,
    "olmo_core_llama": (1, 0.02, 0.02, 0.02 / ROOT, 0.02, 0.02 / ROOT, 0.02 / ROOT, 1 / 8),
    "open_lm": (1 / 8, 1 / 8, 1 / 8, 1 / 8 / so_far(1), 1 / 8, 1 / 8, FF**-0.5 / so_far(1), 1 / 8),
    "hf_default": (0.02,) * 8,
    "t5": (1, (D * C) ** -0.5, 1 / 8, 1 / 8, 1 / 8, 1 / 8, FF**-0.5, 1 / 8),
    "palm": (1, 1 / 8, 1 / 8, 1 / 8, 1 / 8, 1 / 8, FF**-0.5, 1 / 8),
    "nanochat": (0.8, 1 / 8, 1 / 8, 0, 0.4 / 8, 0.4 / 8, 0, 0.001),
    "deepnorm": (
        1 / 8,
        XAVIER,
        XAVIER * QUIET,
        XAVIER * QUIET,
        *[math.sqrt(2 / (D + FF)) * QUIET] * 3,
        1 / 8,
    ),
    "spectral": (1, 1 / 8, 1 / 8, 1 / 8, 1 / 8, 1 / 8, FF**-0.5 * math.sqrt(D / FF), 1 / 8),
    "mup": (1, 0.04, 0.04, 0.04, 0.04, 0.04, 0.04, 0.02),
    "mup_depth": (1, 0.04, 0.04, 0.04, 0.04, 0.04, 0.04, 0.02),
    "completep": (1, 0.04, 0.04, 0.04, 0.04, 0.04, 0.04, 0.02),
    "u_mup": (1, 1 / 8, 1 / 8, 1 / 8, 1 / 8, 1 / 8, FF**-0.5, 1),
}
TRUNCATED = {"olmo_mitchell", "olmo_normal", "open_lm"}
NAMES = ["mixer.q_proj", "mixer.v_proj", "mixer.o_proj", "ffn.gate_proj", "ffn.up_proj", "ffn.down_proj"]


def scheme_of(kind: str, **fields) -> Scheme:
    return TypeAdapter(SchemeConfig).validate_python({"type": kind, **fields})


def config_of(kind: str, **fields) -> DecoderConfig:
    norm = "post" if kind == "deepnorm" else "pre"
    defaults = {"d_model": D, "n_layers": L, "vocab_size": 101, "norm": norm, "mixer": {"head_dim": C}}
    return DecoderConfig.model_validate(defaults | fields)


@pytest.mark.parametrize("kind", EXPECTED)
def test_nominal_stds(kind: str) -> None:
    plan = plan_model(config_of(kind), scheme_of(kind)).plan
    names = ["embedding.weight", *[f"layers.1.{name}.weight" for name in NAMES], "head.weight"]
    assert [plan[name].rule.std for name in names] == pytest.approx(EXPECTED[kind])
    assert plan["layers.1.mixer.k_proj.weight"].rule.std == pytest.approx(EXPECTED[kind][2 if kind == "t5" else 1])
    gains = [entry.rule for entry in plan.values() if entry.site.role == "norm_gain"]
    assert all(isinstance(rule, Constant) and rule.value == 1 for rule in gains)
    drawn = [plan[name].rule for name in names if not isinstance(plan[name].rule, Constant)]
    if kind in TRUNCATED:
        assert all(isinstance(rule, Normal) and rule.cut == 3 for rule in drawn)


def test_every_scheme_is_in_the_table() -> None:
    kinds = {
        branch["properties"]["type"]["const"] for branch in TypeAdapter(SchemeConfig).json_schema()["$defs"].values()
    }
    assert kinds == {*EXPECTED, "lingua", "lingua_before"}


@pytest.mark.parametrize("kind", [*EXPECTED, "lingua", "lingua_before"])
def test_the_text_of_a_rule_evaluates_to_its_std(kind: str) -> None:
    for entry in plan_model(config_of(kind), scheme_of(kind)).plan.values():
        text = entry.rule.text.removesuffix(", uniform").replace("^", "**")
        value = eval(text, {"sqrt": math.sqrt, "min": min})
        expected = entry.rule.value if isinstance(entry.rule, Constant) else entry.rule.std
        assert value == pytest.approx(expected, rel=1e-4), (entry.site.name, text)


@pytest.mark.parametrize("kind", [*EXPECTED, "lingua"])
def test_weights_have_the_planned_moments(kind: str) -> None:
    planned = plan_model(config_of(kind), scheme_of(kind))
    model = materialise(planned, seed=3, device=torch.device("cpu"))
    for name, parameter in model.named_parameters():
        rule, weights = planned.plan[name].rule, parameter.detach().double()
        if isinstance(rule, Constant):
            assert torch.all(weights == rule.value)
            continue
        error = math.sqrt((rule.kurtosis - 1) / (4 * weights.numel()))
        assert abs(float(weights.std()) / rule.effective_std - 1) < 4.5 * error
        assert float(weights.abs().max()) <= rule.bound * (1 + 1e-6)


def test_forward_multipliers() -> None:
    def of(kind: str, tied: bool = False, **fields) -> Multipliers:
        return scheme_of(kind, **fields).multipliers(config_of(kind, tied_head=tied))

    assert of("lingua").all_one
    assert of("gpt2").all_one
    assert of("mup", base_width=16) == Multipliers(logits=0.25, attention=2.0)
    assert of("mup_depth", base_width=16, base_head_dim=C, base_layers=1) == Multipliers(logits=0.25, branch=3**-0.5)
    assert of("completep", base_width=16, base_head_dim=C, base_layers=1) == Multipliers(logits=0.25, branch=1 / 3)
    assert of("u_mup") == Multipliers(logits=1 / D, attention=C**-0.5, branch=6**-0.5)
    assert of("t5") == Multipliers(attention=4.0)
    assert of("t5", tied=True) == Multipliers(attention=4.0, logits=1 / 8)
    assert of("palm", tied=True) == Multipliers(logits=1 / 8)
    assert of("deepnorm") == Multipliers(residual=6**0.25, embedding=8.0)


def test_update_factors() -> None:
    def of(kind: str, name: str, **fields) -> tuple[float, float, float]:
        update = plan_model(config_of(kind), scheme_of(kind, **fields)).plan[f"{name}.weight"].update
        return update.lr, update.weight_decay, update.eps

    hidden, gain, head = "layers.0.mixer.q_proj", "layers.0.ffn_norm", "head"
    assert of("gpt2", hidden) == (1, 1, 1)
    assert of("mup", hidden, base_width=16) == (0.25, 4, 1)
    assert of("mup", head, base_width=16) == of("mup", "embedding", base_width=16) == (1, 1, 1)
    assert of("mup_depth", hidden, base_width=16, base_layers=1) == pytest.approx((0.25 / 3**0.5, 4 * 3**0.5, 1))
    assert of("completep", hidden, base_width=16, base_layers=1) == pytest.approx((0.25, 4, 0.25 / 3))
    assert of("completep", gain, base_width=16, base_layers=1) == pytest.approx((1, 1, 0.25 / 3))
    half = {"base_width": 16, "base_layers": 1, "alpha": 0.5}
    assert of("completep", hidden, **half) == pytest.approx((0.25 * 3**-0.5, 4, 0.25 * 3**-0.5))
    assert of("completep", gain, **half)[0] == pytest.approx(3**-0.5)
    assert of("completep", head, base_width=16) == (1, 1, 0.25)
    assert of("u_mup", hidden)[0] == pytest.approx(6**-0.5 / D)
    assert of("u_mup", "embedding")[0] == pytest.approx(1 / 8)


def test_zero_head() -> None:
    plan = plan_model(config_of("mup"), scheme_of("mup", zero_head=True)).plan
    assert plan["head.weight"].rule == Constant(0.0, "0")


def test_deepnorm_refuses_another_block() -> None:
    with pytest.raises(UserError, match=r"set model\.norm from pre to post"):
        plan_model(config_of("lingua"), scheme_of("deepnorm"))


def test_up_proj_is_a_writer_in_sources_with_that_slip_and_says_so() -> None:
    for kind in ("torchtitan_llama3", "olmo_core_llama"):
        plan = plan_model(config_of(kind), scheme_of(kind)).plan
        assert "slip" in plan["layers.0.ffn.up_proj.weight"].rule.why
        assert plan["layers.0.ffn.gate_proj.weight"].rule.why == ""


@pytest.mark.parametrize(
    ("cut", "std", "kurtosis"),
    [(2.0, 0.8796257, 2.3655), (2.5, 0.9545975, 2.6242), (3.0, 0.9865784, 2.8289), (4.0, 0.9994645, 2.9860)],
)
def test_moments_of_a_cut_normal(cut: float, std: float, kurtosis: float) -> None:
    rule = Normal(1.0, "1", cut)
    assert rule.effective_std == pytest.approx(std, abs=1e-7)
    assert rule.kurtosis == pytest.approx(kurtosis, abs=1e-4)
    compensated = Normal(1.0, "1", cut, compensated=True)
    assert compensated.effective_std == pytest.approx(1.0)
    assert compensated.bound == pytest.approx(cut / std)


def test_a_uniform_s_bound() -> None:
    assert Uniform(2.0, "2").bound == pytest.approx(2 * math.sqrt(3))
