"""A sound model has no finding; each defect is found by its own code, where it is, and by no other."""

import math
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from isogloss.audit.audit import Audit, audit
from isogloss.audit.depth import Scaling
from isogloss.audit.expectation import find_scheme
from isogloss.audit.factory import Factory
from isogloss.audit.findings import Severity
from isogloss.audit.stream import trace
from isogloss.build import build_model
from isogloss.config.base import UserError
from isogloss.models.decoder import DecoderConfig
from models_of_audit import HEADS, HIDDEN, VOCABULARY, D, Decoder, normal, sound

Defect = Callable[[Decoder], None]


def look(defect: Defect = sound, **settings) -> Audit:
    def build(n_layers: int = 3) -> Decoder:
        model = Decoder(n_layers, **settings)
        model.defect = defect
        return model

    return audit(Factory("decoder", build, {}))


def grave(found: Audit) -> set[tuple[str, str]]:
    return {(f.code, f.parameter) for f in found.findings if f.severity != Severity.NOTE}


@pytest.mark.parametrize(
    "settings",
    [{}, {"mixer": "recurrent"}, {"tied": True}, {"offset": 1.0}],
    ids=["attention", "recurrent", "tied", "1+w"],
)
def test_a_sound_model_has_no_finding(settings) -> None:
    found = look(**settings)
    assert found.findings == []
    assert found.remarks == []
    assert not found.failed


def test_roles_are_read_off_the_model() -> None:
    roles = {row.kind: row.role for row in look().rows}
    assert roles == {
        "embedding.weight": "embedding",
        "layers.*.mixer.q.weight": "query",
        "layers.*.mixer.k.weight": "key",
        "layers.*.mixer.v.weight": "value",
        "layers.*.mixer.o.weight": "attention_out",
        "layers.*.ffn.w1.weight": "ffn_gate",
        "layers.*.ffn.w3.weight": "ffn_up",
        "layers.*.ffn.w2.weight": "ffn_down",
        "head.weight": "head",
    }
    recurrent = {row.kind: row.role for row in look(mixer="recurrent").rows}
    assert recurrent["layers.*.mixer.x.weight"] == "recurrent_in"
    assert recurrent["layers.*.mixer.gate.weight"] == "recurrent_gate"
    assert recurrent["layers.*.mixer.o.weight"] == "recurrent_out"


def then(change: Callable[[Decoder], object]) -> Defect:
    """A sound initialisation with something done to it."""

    def run(model: Decoder) -> None:
        sound(model)
        change(model)

    return run


def readers_by_depth(model: Decoder) -> None:
    """Meta Lingua before its issue 39."""
    sound(model, readers=math.sqrt(2 * (len(model.layers) + 1)))


def up_by_depth(model: Decoder) -> None:
    """torchtitan's and OLMo-core's Llama."""
    sound(model, up=math.sqrt(2 * len(model.layers)))


def writers_by_layer(model: Decoder) -> None:
    """sqrt(2 (l + 1)), for readers too: seen within one model."""
    sound(model)
    for i, layer in enumerate(model.layers):
        normal(layer.mixer.q.weight, (D * 2 * (i + 1)) ** -0.5)


def reused_seed(model: Decoder) -> None:
    sound(model)
    for layer in model.layers[:2]:
        torch.manual_seed(1)
        normal(layer.ffn.w1.weight, D**-0.5)


def reused_key(model: Decoder) -> None:
    sound(model)
    model.layers[1].ffn.w3.weight.data.copy_(-2 * model.layers[0].ffn.w1.weight).div_(2)


def repeated_half(model: Decoder) -> None:
    sound(model)
    model.head.weight.data[64:] = model.head.weight.data[:64]


def repeated_columns(model: Decoder) -> None:
    sound(model)
    model.head.weight.data[:, 32:] = model.head.weight.data[:, :32]


def unscaled_bounds(model: Decoder) -> None:
    """Lingua's o_proj: its std is divided, its bounds are not."""
    sound(model)
    factor = math.sqrt(2 * len(model.layers))
    for layer in model.layers:
        std = D**-0.5
        nn.init.trunc_normal_(layer.mixer.o.weight, std=std / factor, a=-3 * std, b=3 * std)


def narrow_bounds(model: Decoder) -> None:
    sound(model)
    nn.init.trunc_normal_(model.embedding.weight, std=1.0, a=-2.0, b=2.0)


def scaled_twice(model: Decoder) -> None:
    sound(model)
    model.layers[0].ffn.w1.weight.data.mul_(0.5).mul_(0.5)
    model.layers[0].ffn.w1.weight.data.mul_(4.0)


def quiet_gate(model: Decoder) -> None:
    sound(model)
    normal(model.layers[1].ffn.w1.weight, 0.02)


def loud_queries(model: Decoder) -> None:
    sound(model)
    normal(model.layers[1].mixer.q.weight, 3 * D**-0.5)


DEFECTS: dict[str, tuple[Defect, set[tuple[str, str]]]] = {
    "I01": (
        readers_by_depth,
        {("I01", f"layers.*.{n}.weight") for n in ("mixer.q", "mixer.k", "mixer.v", "ffn.w1", "ffn.w3")},
    ),
    "I01 by layer": (writers_by_layer, {("I01", "layers.*.mixer.q.weight")}),
    "I03 none": (unscaled_bounds, {("I03", "layers.*.mixer.o.weight")}),
    "I03 other": (narrow_bounds, {("I03", "embedding.weight")}),
    "I04": (lambda m: sound(m, skip=("layers.1.mixer.k.weight",)), {("I04", "layers.1.mixer.k.weight")}),
    "I05 rows": (repeated_half, {("I05", "head.weight")}),
    "I05 columns": (repeated_columns, {("I05", "head.weight")}),
    "I06 seed": (reused_seed, {("I06", "layers.1.ffn.w1.weight")}),
    "I06 key": (reused_key, {("I06", "layers.1.ffn.w3.weight")}),
    "I08": (scaled_twice, {("I08", "layers.0.ffn.w1.weight")}),
    "I09": (then(lambda m: nn.init.constant_(m.norm.weight, 1.1)), {("I09", "norm")}),
    "I10": (lambda m: sound(m, skip=("frequencies",)), {("I10", "frequencies")}),
    "I12": (then(lambda m: normal(m.head.weight, 1.0)), {("I12", "head.weight")}),
    "I13 attention": (loud_queries, {("I13", "layers.1.mixer")}),
    "I17": (up_by_depth, {("I17", "layers.*.ffn.w3.weight")}),
}


@pytest.mark.parametrize(("defect", "expected"), DEFECTS.values(), ids=DEFECTS.keys())
def test_a_defect_is_found_where_it_is_and_by_its_own_code(defect: Defect, expected: set[tuple[str, str]]) -> None:
    found = look(defect)
    assert grave(found) == expected
    assert {f.code for f in found.findings} <= {code for code, _ in expected} | {"I08"}
    assert found.failed
    (first, *_) = found.findings
    assert first.evidence
    assert first.expected
    assert first.suggestion


def test_evidence_has_numbers() -> None:
    evidence = {f.parameter: f.evidence for f in look(readers_by_depth).findings}["layers.*.mixer.q.weight"]
    assert "with 3 layers" in evidence
    assert "with 6: 0.75" in evidence or "with 6: 0.76" in evidence  # sqrt(4 / 7)
    assert "elements still hold the poison" in look(DEFECTS["I04"][0]).findings[0].evidence
    found = look(unscaled_bounds).findings[0]
    assert found.n == 3
    assert "7.348 std" in found.evidence
    assert found.expected == "3 std, as elsewhere"


def test_writers_without_depth_are_a_note_with_the_growth_that_comes_of_it() -> None:
    found = look(lambda model: sound(model, writers=False))
    assert {(f.code, f.severity) for f in found.findings} == {("I02", "note")}
    assert len(found.findings) == 2
    assert "in 6 additions, predicted" in found.findings[0].expected
    assert not found.failed


def writers_inverted(model: Decoder) -> None:
    """Multiplied by sqrt(2 L) where it should be divided."""
    sound(model)
    for layer in model.layers:
        normal(layer.ffn.w2.weight, 0.1 * math.sqrt(2 * len(model.layers)))


def writers_grow_by_layer(model: Decoder) -> None:
    sound(model)
    for i, layer in enumerate(model.layers):
        normal(layer.mixer.o.weight, 0.05 * math.sqrt(2 * (i + 1)))


def readers_grow(model: Decoder) -> None:
    sound(model)
    for layer in model.layers:
        normal(layer.mixer.v.weight, 0.05 * math.sqrt(2 * len(model.layers)))


@pytest.mark.parametrize(
    ("defect", "expected", "evidence"),
    [
        (writers_inverted, ("I02", "error", "layers.*.ffn.w2.weight"), "as L^0.5"),
        (writers_grow_by_layer, ("I02", "error", "layers.*.mixer.o.weight"), "std grows with the layer as (l+1)^0."),
        (readers_grow, ("I01", "error", "layers.*.mixer.v.weight"), "as L^0.5"),
    ],
)
def test_what_grows_with_depth_is_an_error(defect: Defect, expected: tuple[str, str, str], evidence: str) -> None:
    found = [f for f in look(defect).findings if f.code != "I08"]
    assert [(f.code, f.severity, f.parameter) for f in found] == [expected]
    assert evidence in found[0].evidence
    assert "at any depth" not in found[0].evidence


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ((0.001, 0.002), "std 0.1 at any depth"),
        ((0.02, 0.002), "std 0.1 with 3 layers and 0.102 with 6: 1.0202 +- 0.0020"),  # certain, though small
        ((0.3, 0.2), "std 0.1 with 3 layers and 0.135 with 6: 1.3499 +- 0.2700"),  # large, though uncertain
    ],
)
def test_a_std_is_the_same_at_any_depth_only_where_that_was_measured(change: tuple[float, float], text: str) -> None:
    scaling = Scaling(0.1, change, None)
    assert scaling.trend((3, 6), 4.0) is None
    assert scaling.constancy((3, 6), 4.0) == text


def test_one_of_two_writers_by_depth_is_a_warning() -> None:
    def half(model: Decoder) -> None:
        sound(model)
        for layer in model.layers:
            normal(layer.ffn.w2.weight, 0.1)

    found = look(half)
    assert grave(found) == {("I02", "layers.*.ffn.w2.weight")}
    assert "layers.*.mixer.o.weight is scaled" in found.findings[0].evidence


def test_a_branch_that_is_normed_needs_no_depth() -> None:
    class Normed(nn.Module):
        def __init__(self, inner: nn.Module, norm: nn.Module) -> None:
            super().__init__()
            self.inner, self.norm = inner, norm

        def forward(self, x: Tensor) -> Tensor:
            return self.norm(self.inner(x))

    def build(n_layers: int = 3) -> Decoder:
        model = Decoder(n_layers)
        for layer in model.layers:
            layer.mixer, layer.norm1 = Normed(layer.mixer, layer.norm1), nn.Identity()
            layer.ffn, layer.norm2 = Normed(layer.ffn, layer.norm2), nn.Identity()
        model.defect = lambda model: sound(model, writers=False)
        return model

    assert "I02" not in {f.code for f in audit(Factory("normed", build, {})).findings}


def test_tied_weights_filled_by_two_rules() -> None:
    def twice(model: Decoder) -> None:
        sound(model)
        normal(model.embedding.weight, 1.0)
        normal(model.head.weight, D**-0.5)

    found = look(twice, tied=True)
    assert grave(found) == {("I07", "embedding.weight")}
    assert "embedding.weight = head.weight" in found.findings[0].expected


def test_filled_twice_is_a_note() -> None:
    found = look(then(lambda m: nn.init.normal_(m.head.weight, std=0.125)))
    assert [(f.code, f.severity, f.parameter) for f in found.findings] == [("I08", "note", "head.weight")]
    assert found.findings[0].evidence.startswith("2 times: trunc_normal_(mean=0, std=0.125, a=-0.375, b=0.375), then")


def test_a_gate_in_its_linear_regime_is_a_note() -> None:
    found = look(quiet_gate)
    assert ("I13", "note", "layers.1.ffn.w1.weight") in {(f.code, f.severity, f.parameter) for f in found.findings}
    assert {f.code for f in found.findings} == {"I13", "I08"}


def test_an_epsilon_that_is_not_small() -> None:
    for std, severity in ((5e-3, "note"), (1e-3, "warning")):
        found = look(then(lambda m, std=std: normal(m.embedding.weight, std)))
        worst = [f for f in found.findings if f.code == "I14" and f.parameter == "layers.0.norm1"]
        assert [f.severity for f in worst] == [severity]
        assert {f.code for f in found.findings} <= {"I14", "I08"}


def test_an_offset_gain_of_one_is_two() -> None:
    found = look(then(lambda m: [nn.init.ones_(layer.norm2.weight) for layer in m.layers]), offset=1.0)
    assert grave(found) == {("I09", "layers.*.norm2")}
    assert found.findings[0].evidence == "effective gain 2"


def mean_square(x: Tensor) -> Tensor:
    return x.square().mean(-1, keepdim=True) + 1e-6


NORMS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "x rsqrt w": lambda x, w: x * torch.rsqrt(mean_square(x)) * w,
    "w x rsqrt": lambda x, w: w * x * torch.rsqrt(mean_square(x)),
    "x / sqrt w": lambda x, w: x / torch.sqrt(mean_square(x)) * w,
    "w x / sqrt": lambda x, w: w * x / torch.sqrt(mean_square(x)),
    "x / sqrt, cast": lambda x, w: w * (x.double() / mean_square(x.double()).sqrt()).float(),
    "x (1 / sqrt) w": lambda x, w: x * (1 / torch.sqrt(mean_square(x))) * w,
    "x pow w": lambda x, w: w * (x * mean_square(x).pow(-0.5)),
    "x / std w": lambda x, w: w * (x - x.mean(-1, keepdim=True)) / (x.std(-1, keepdim=True) + 1e-6),
}


@pytest.mark.parametrize("form", NORMS.values(), ids=NORMS.keys())
def test_a_norm_is_known_in_every_form(form: Callable[[Tensor, Tensor], Tensor]) -> None:
    class Written(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.empty(D))

        def forward(self, x: Tensor) -> Tensor:
            return form(x, self.weight)

    def build(gain: float) -> Callable[[int], Decoder]:
        def made(n_layers: int = 3) -> Decoder:
            model = Decoder(n_layers)
            for layer in model.layers:
                layer.norm2 = Written()
            model.defect = then(lambda m: [nn.init.constant_(layer.norm2.weight, gain) for layer in m.layers])
            return model

        return made

    assert grave(audit(Factory("sound", build(1.0), {}))) == set()
    found = audit(Factory("loud", build(5.0), {}))
    assert grave(found) == {("I09", "layers.*.norm2")}
    assert found.findings[0].evidence == "effective gain 5"


def test_a_power_of_many_exponents_is_no_root() -> None:
    class Powers(Decoder):
        def forward(self, tokens: Tensor) -> Tensor:
            logits = super().forward(tokens)
            return logits + 0 * logits.sigmoid().pow(torch.arange(1.0, VOCABULARY + 1))

    found = audit(Factory("powers", lambda n_layers=3: Powers(n_layers), {}))
    assert found.findings == []
    assert found.remarks == []


def test_an_epsilon_under_a_root() -> None:
    class Written(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x / torch.sqrt(x.square().mean(-1, keepdim=True) + 0.5)

    def build(n_layers: int = 3) -> Decoder:
        model = Decoder(n_layers)
        model.layers[0].norm1 = Written()
        return model

    (found,) = [f for f in audit(Factory("large", build, {})).findings if f.code == "I14"]
    assert found.parameter == "layers.0.norm1"
    assert found.evidence.startswith("epsilon 0.5 is 0.5")


def test_attention_logits_are_those_that_the_mask_shows_in_every_form() -> None:
    """A key far beyond others, which only the last query sees."""
    seen = torch.ones(8, 8, dtype=torch.bool).tril()
    bias = torch.zeros(8, 8).masked_fill(~seen, -math.inf)

    class Attend(nn.Module):
        def __init__(self, how: Callable[[Tensor, Tensor], Tensor]) -> None:
            super().__init__()
            self.embedding, self.q, self.k = nn.Embedding(8, 48), nn.Linear(48, 48), nn.Linear(48, 48)
            self.how = how

        def forward(self, tokens: Tensor) -> Tensor:
            h = self.embedding(tokens)
            return self.how(*(w(h).unflatten(-1, (3, 16)).transpose(1, 2) for w in (self.q, self.k)))

    forms = {
        "causal": lambda q, k: F.scaled_dot_product_attention(q, k, k, is_causal=True),
        "bool": lambda q, k: F.scaled_dot_product_attention(q, k, k, seen),
        "bias": lambda q, k: F.scaled_dot_product_attention(q, k, k, bias),
        "eager": lambda q, k: (q @ k.mT / 4 + bias).softmax(-1) @ k,
    }
    tokens = torch.arange(8)[None].repeat(2, 1)
    found = {}
    for name, how in forms.items():
        torch.manual_seed(1)
        model = Attend(how)
        with torch.no_grad():
            model.embedding.weight[-1] *= 20
        found[name] = trace(model, lambda model=model: model(tokens)).attention[""]
    with torch.no_grad():
        q, k = (w(model.embedding(tokens)).unflatten(-1, (3, 16)).transpose(1, 2) for w in (model.q, model.k))
        logits = q @ k.mT / 4
    median = float(logits[..., seen].transpose(0, 1).flatten(1).std(1).median())  # over heads
    assert found == pytest.approx(dict.fromkeys(forms, median), rel=1e-5)
    assert float(logits.std()) != pytest.approx(found["causal"], rel=0.1)


def test_a_decay_without_its_inverse_softplus() -> None:
    """Lingua's Hawk stores log(rad) where the forward pass takes softplus."""

    def run(model: Decoder) -> None:
        sound(model)
        for layer in model.layers:
            layer.mixer.decay.data.copy_(torch.log(torch.empty(D).uniform_(0.9, 0.999)))

    found = look(run, mixer="recurrent")
    assert grave(found) == {("I11", "layers.*.mixer")}
    assert "decay" in found.findings[0].evidence


def test_sixteen_bits() -> None:
    def build(n_layers: int = 3) -> Decoder:
        return Decoder(n_layers).to(torch.bfloat16)

    found = audit(Factory("half", build, {}))
    assert {f.code for f in found.findings} == {"I16"}
    assert found.failed
    assert "bfloat16" in found.remarks[0]


def with_optimizer(change: Callable[[list, Decoder], object]) -> Audit:
    def build(n_layers: int = 3):
        model = Decoder(n_layers)
        parameters = list(model.parameters())
        optimizers = [torch.optim.AdamW(parameters)]
        change(optimizers, model)
        return model, optimizers

    return audit(Factory("with optimizer", build, {}))


def test_optimizer_groups() -> None:
    assert with_optimizer(lambda optimizers, model: None).findings == []
    missing = with_optimizer(lambda o, model: o[0].param_groups[0]["params"].pop())
    assert grave(missing) == {("I15", "head.weight")}
    twice = with_optimizer(lambda o, model: o.append(torch.optim.SGD([model.norm.weight])))
    assert grave(twice) == {("I15", "norm.weight")}
    foreign = with_optimizer(lambda o, model: o.append(torch.optim.SGD([nn.Parameter(torch.ones(3))])))
    assert grave(foreign) == {("I15", "optimizer")}


class ByConstructor(nn.Module):
    """Initialised in the constructor, as nanoGPT: PyTorch's own defaults first, its rule over them."""

    def __init__(self, n_layers: int, forgotten: bool) -> None:
        super().__init__()
        self.decoder = Decoder(n_layers)
        sound(self.decoder)
        self.scale = nn.Parameter(torch.empty(D) if forgotten else torch.ones(D))

    def forward(self, tokens: Tensor) -> Tensor:
        return self.decoder(tokens) + 0 * self.scale.sum()


@pytest.mark.parametrize("forgotten", [False, True])
def test_a_model_that_only_its_constructor_initialises(forgotten: bool) -> None:
    def build(n_layers: int = 3) -> nn.Module:
        return ByConstructor(n_layers, forgotten)

    found = audit(Factory("by constructor", build, {}))
    assert {f.code for f in found.findings} == ({"I04"} if forgotten else set())
    assert "constructor" in found.remarks[0]


def test_reset_parameters_is_no_init_of_the_whole_model() -> None:
    """By PyTorch's convention it fills what its module holds itself, as FSDP relies on: here positions."""

    class Positions(ByConstructor):
        def __init__(self, n_layers: int) -> None:
            super().__init__(n_layers, forgotten=False)
            self.positions = nn.Parameter(torch.empty(32, D))
            self.reset_parameters()

        def reset_parameters(self) -> None:
            normal(self.positions, 0.02)

        def forward(self, tokens: Tensor) -> Tensor:
            return super().forward(tokens) + 0 * self.positions.sum()

    found = audit(Factory("positions", lambda n_layers=3: Positions(n_layers), {}))
    assert found.findings == []
    assert "constructor" in found.remarks[0]


def test_without_a_depth_or_an_embedding_it_says_what_it_cannot_see() -> None:
    found = audit(Factory("fixed", lambda: Decoder(2), {}))
    assert found.findings == []
    assert "its depth cannot be set" in found.remarks[0]
    found = audit(Factory("no tokens", lambda: nn.Linear(8, 8), {}))
    assert found.findings == []
    assert any("no embedding was found" in remark for remark in found.remarks)


def test_a_forward_pass_that_fails_leaves_the_rest() -> None:
    class Broken(Decoder):
        def forward(self, tokens: Tensor) -> Tensor:
            raise RuntimeError("not today")

    found = audit(Factory("broken", lambda n_layers=2: Broken(n_layers), {}))
    assert found.findings == []
    assert any("not today" in remark for remark in found.remarks)


def ours(scheme: str, norm: str) -> Factory:
    def build(n_layers: int = 3) -> nn.Module:
        sizes = {"d_model": D, "n_layers": n_layers, "vocab_size": VOCABULARY, "norm": norm}
        parts = {"mixer": {"n_heads": HEADS}, "ffn": {"type": "swiglu", "d_ff": HIDDEN}}
        config = DecoderConfig.model_validate(sizes | parts)
        return build_model(config, find_scheme(scheme), seed=n_layers, device=torch.device("cpu"))

    return Factory(scheme, build, {})


def test_deepnorm_is_a_note_where_norms_follow_additions() -> None:
    found = audit(ours("deepnorm", "post"), find_scheme("deepnorm"))
    assert {(f.code, f.severity) for f in found.findings} == {("I01", "note")}
    assert {f.parameter for f in found.findings} == {
        f"layers.*.{name}_proj.weight" for name in ("mixer.v", "ffn.gate", "ffn.up")
    }
    assert all("DeepNorm" in f.expected for f in found.findings)
    assert not found.failed


def test_other_scales_are_no_deepnorm() -> None:
    assert {f.code for f in audit(ours("lingua", "post")).findings if f.severity != Severity.NOTE} == set()
    faulty = audit(ours("lingua_before", "post"))  # L^-1/2
    assert ("I01", "layers.*.mixer.v_proj.weight") in grave(faulty)

    def quarter(model: Decoder) -> None:
        sound(model)
        for layer in model.layers:
            normal(layer.mixer.v.weight, 0.1 * len(model.layers) ** -0.25)

    assert grave(look(quarter)) == {("I01", "layers.*.mixer.v.weight")}  # pre-norm
    with pytest.raises(UserError, match="post-norm"):
        audit(ours("lingua", "pre"), find_scheme("deepnorm"))


def test_what_a_scheme_expects() -> None:
    def build(n_layers: int = 3) -> Decoder:
        return Decoder(n_layers)

    target = Factory("decoder", build, {})
    found = audit(target, find_scheme("olmo_core_llama"))
    assert {f.code for f in found.findings} == {"I00"}
    kinds = {f.parameter for f in found.findings}
    assert "layers.*.ffn.w3.weight" in kinds
    assert "head.weight" not in kinds  # d^-1/2 cut at 3 in both


def test_the_random_state_is_left_alone() -> None:
    torch.manual_seed(5)
    before = torch.random.get_rng_state()
    look()
    assert torch.equal(before, torch.random.get_rng_state())
    assert not torch.are_deterministic_algorithms_enabled()
