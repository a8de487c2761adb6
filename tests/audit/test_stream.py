"""Readers and writers are known however a branch is added, however a weight is made, whatever else happens."""

import math
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.attention.flex_attention import flex_attention
from torch.nn.utils import parametrizations

from isogloss.audit.audit import Audit, audit
from isogloss.audit.factory import Factory
from isogloss.audit.findings import Severity
from models_of_audit import HEADS, HIDDEN, VOCABULARY, D, Decoder, Layer, normal, sound


def of(model: Callable[[int], nn.Module]) -> Audit:
    def build(n_layers: int = 3) -> nn.Module:
        return model(n_layers)

    return audit(Factory("model", build, {}))


def grave(found: Audit) -> set[tuple[str, str]]:
    return {(f.code, f.parameter) for f in found.findings if f.severity != Severity.NOTE}


def unscaled_down(model: Decoder) -> None:
    sound(model)
    for layer in model.layers:
        normal(layer.ffn.w2.weight, HIDDEN**-0.5)


def readers_by_depth(model: Decoder) -> None:
    sound(model, readers=math.sqrt(2 * len(model.layers)))


READERS = {("I01", f"layers.*.{name}.weight") for name in ("mixer.q", "mixer.k", "mixer.v", "ffn.w1", "ffn.w3")}
UNSCALED = {("I02", "layers.*.ffn.w2.weight")}


def check(make: Callable[[int], Decoder]) -> None:
    """Sound it has no finding; its slips are found."""

    def slipped(defect: Callable[[Decoder], None]) -> Callable[[int], nn.Module]:
        def build(n_layers: int) -> nn.Module:
            model = make(n_layers)
            model.defect = defect
            return model

        return build

    found = of(make)
    assert found.findings == []
    assert found.complete, found.remarks
    assert grave(of(slipped(unscaled_down))) == UNSCALED
    assert grave(of(slipped(readers_by_depth))) >= READERS


def everywhere(x: Tensor) -> Tensor:
    return torch.arange(x.shape[0] * x.shape[1])


def scattered(x: Tensor, branch: Tensor) -> Tensor:
    index = torch.arange(x.shape[1])[None, :, None].expand_as(branch)
    return x + torch.zeros_like(x).scatter_add_(1, index, branch)


def assigned(x: Tensor, branch: Tensor) -> Tensor:
    made, even = torch.empty_like(x), torch.arange(x.shape[1]) % 2 == 0
    made[:, even], made[:, ~even] = branch[:, even], branch[:, ~even]
    return x + made


def rows(x: Tensor, branch: Tensor) -> Tensor:
    out = x.clone().flatten(0, 1)
    out[everywhere(x)] += branch.flatten(0, 1)
    return out.view_as(x)


def chosen(x: Tensor, branch: Tensor) -> Tensor:
    made, even = torch.zeros_like(x), (torch.arange(x.shape[1]) % 2 == 0)[:, None]
    made = torch.where(even, made + branch, made)
    return x + torch.where(even, made, made + branch)


ADDITIONS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "zeros_like +=": lambda x, b: x + torch.zeros_like(x).add_(b),
    "zeros index_add": lambda x, b: (
        x + torch.zeros_like(x).flatten(0, 1).index_add(0, everywhere(x), b.flatten(0, 1)).view_as(x)
    ),
    "index_add to the stream": lambda x, b: x.flatten(0, 1).index_add(0, everywhere(x), b.flatten(0, 1)).view_as(x),
    "scatter_add": scattered,
    "assigned": assigned,
    "rows +=": rows,
    "where": chosen,
    "lerp": lambda x, b: torch.lerp(x, x + 2 * b, 0.5),
    "addcmul": lambda x, b: torch.addcmul(x, b, torch.full_like(b, 0.5)),
    "alpha": lambda x, b: x.add(b, alpha=0.5),
    "difference": lambda x, b: x - b,
    "in double": lambda x, b: (x.double() + b.double()).float(),
    "by head": lambda x, b: (x.unflatten(-1, (HEADS, -1)) + b.unflatten(-1, (HEADS, -1))).flatten(2),
    "channels first": lambda x, b: (x.mT + b.mT).mT,
}


@pytest.mark.parametrize("add", ADDITIONS.values(), ids=ADDITIONS.keys())
def test_a_writer_is_known_however_it_is_added(add: Callable[[Tensor, Tensor], Tensor]) -> None:
    class Added(Layer):
        def forward(self, x: Tensor) -> Tensor:
            x = x + self.mixer(self.norm1(x))
            return add(x, self.ffn(self.norm2(x)))

    check(lambda n_layers: Decoder(n_layers, layer=Added))


def test_a_product_that_adds_to_the_stream_in_one_operation() -> None:
    class Fused(Layer):
        def forward(self, x: Tensor) -> Tensor:
            x, ffn = x + self.mixer(self.norm1(x)), self.ffn
            h = self.norm2(x)
            hidden = F.silu(ffn.w1(h)) * ffn.w3(h)
            return torch.addmm(x.flatten(0, 1), hidden.flatten(0, 1), ffn.w2.weight.T).view_as(x)

    check(lambda n_layers: Decoder(n_layers, layer=Fused))


def smeared(x: Tensor, gate: nn.Linear) -> Tensor:
    return torch.cat([x[:, :1], x[:, 1:] + torch.sigmoid(gate(x[:, 1:])) * x[:, :-1]], 1)


STREAMS: dict[str, tuple[int, Callable[[Tensor, nn.Linear], Tensor]]] = {
    "smear": (1, smeared),
    "raw gate": (1, lambda x, gate: x + gate(x) * torch.roll(x, 1, 1)),
    "modulated": (D, lambda x, gate: x * (1 + torch.tanh(gate(x)))),
    "projected": (D, lambda x, gate: gate(x)),
    "normed and projected": (D, lambda x, gate: F.gelu(gate(F.layer_norm(x, (D,))))),
}


@pytest.mark.parametrize(("width", "change"), STREAMS.values(), ids=STREAMS.keys())
def test_arithmetic_on_the_stream_before_the_layers_does_not_end_it(
    width: int, change: Callable[[Tensor, nn.Linear], Tensor]
) -> None:
    class Changed(Decoder):
        def __init__(self, n_layers: int) -> None:
            super().__init__(n_layers)
            self.gate = nn.Linear(D, width, bias=False)

        def forward(self, tokens: Tensor) -> Tensor:
            x = change(self.embedding(tokens), self.gate)
            for layer in self.layers:
                x = layer(x)
            return self.head(self.norm(x))

    check(Changed)


class Gated(Layer):
    def __init__(self, mixer: str, offset: float) -> None:
        super().__init__(mixer, offset)
        self.gate = nn.Linear(D, D, bias=False)


class Highway(Gated):
    def forward(self, x: Tensor) -> Tensor:
        x = x + self.mixer(self.norm1(x))
        kept = torch.sigmoid(self.gate(x))
        return kept * x + (1 - kept) * self.ffn(self.norm2(x))


class Modulated(Gated):
    def forward(self, x: Tensor) -> Tensor:
        x = x + self.mixer(self.norm1(x))
        return x * (1 + torch.tanh(self.gate(x))) + self.ffn(self.norm2(x))


@pytest.mark.parametrize("layer", [Highway, Modulated])
def test_a_gate_in_each_layer_is_said_not_to_be_judged(layer: type[Layer]) -> None:
    check(lambda n_layers: Decoder(n_layers, layer=layer))
    assert any("layers.*.gate.weight" in limit for limit in of(lambda n: Decoder(n, layer=layer)).limits)


def test_where_no_writer_is_found_no_depth_is_judged_and_it_is_said() -> None:
    class Mixed(Layer):
        """The stream and a branch, mixed by a matrix: no addition."""

        def forward(self, x: Tensor) -> Tensor:
            x = torch.stack([x, self.mixer(self.norm1(x))]).sum(0)
            return torch.stack([x, self.ffn(self.norm2(x))]).sum(0)

    found = of(lambda n_layers: Decoder(n_layers, layer=Mixed))
    assert found.findings == []
    assert not found.complete
    assert any("nothing about depth was judged" in remark for remark in found.remarks)


def test_a_branch_that_leads_nowhere_is_named() -> None:
    class Half(Layer):
        def forward(self, x: Tensor) -> Tensor:
            x = x + self.mixer(self.norm1(x))
            return torch.stack([x, self.ffn(self.norm2(x))]).sum(0)

    found = of(lambda n_layers: Decoder(n_layers, layer=Half))
    assert found.findings == []
    (remark,) = found.remarks
    assert "layers.*.ffn.w2.weight" in remark
    assert "layers.*.mixer.o.weight" not in remark
    assert not found.complete


class OwnEmbedding(Decoder):
    """Not one of PyTorch's modules."""

    def __init__(self, n_layers: int, look_up: Callable[[Tensor, Tensor], Tensor]) -> None:
        super().__init__(n_layers)
        self.embedding = nn.ParameterDict({"weight": torch.empty(VOCABULARY, D)})
        self.look_up = look_up

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.look_up(self.embedding["weight"], tokens)
        for layer in self.layers:
            x = layer(x)
        return self.head(self.norm(x))


LOOKUPS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "index": lambda w, t: w[t],
    "F.embedding": lambda w, t: F.embedding(t, w),
    "transposed": lambda w, t: w.T[:, t].permute(1, 2, 0),
    "index_select": lambda w, t: w.index_select(0, t.flatten()).view(*t.shape, -1),
    "gather": lambda w, t: w.gather(0, t.flatten()[:, None].expand(-1, D)).view(*t.shape, -1),
    "one-hot": lambda w, t: F.one_hot(t, VOCABULARY).float() @ w,
}


@pytest.mark.parametrize("look_up", LOOKUPS.values(), ids=LOOKUPS.keys())
def test_an_embedding_is_known_by_its_lookup(look_up: Callable[[Tensor, Tensor], Tensor]) -> None:
    found = of(lambda n_layers: OwnEmbedding(n_layers, look_up))
    assert found.ran
    assert found.findings == []
    assert {row.kind: row.role for row in found.rows}["embedding.weight"] == "embedding"

    def slipped(n_layers: int) -> nn.Module:
        model = OwnEmbedding(n_layers, look_up)
        model.defect = readers_by_depth
        return model

    assert grave(of(slipped)) == READERS


class Flex(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        for name in ("q", "k", "v", "o"):
            setattr(self, name, nn.Linear(D, D, bias=False))

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (w(x).unflatten(-1, (HEADS, -1)).transpose(1, 2) for w in (self.q, self.k, self.v))
        return self.o(flex_attention(q, k, v).transpose(1, 2).flatten(2))


def test_flex_attention_is_followed_on_a_cpu() -> None:
    class WithFlex(Layer):
        def __init__(self, mixer: str, offset: float) -> None:
            super().__init__(mixer, offset)
            self.mixer = Flex()

    check(lambda n_layers: Decoder(n_layers, layer=WithFlex))
    roles = {row.kind: row.role for row in of(lambda n: Decoder(n, layer=WithFlex)).rows}
    assert roles["layers.*.mixer.v.weight"] == "value"


def test_a_compiled_part_runs_as_it_is_written() -> None:
    class Compiled(Layer):
        def forward(self, x: Tensor) -> Tensor:
            return torch.compile(super().forward)(x)

    check(lambda n_layers: Decoder(n_layers, layer=Compiled))


def test_the_fast_path_of_multi_head_attention_hides_nothing() -> None:
    class Torch(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.attention = nn.MultiheadAttention(D, HEADS, bias=False, batch_first=True)

        def forward(self, x: Tensor) -> Tensor:
            return self.attention(x, x, x, need_weights=False)[0]

    class WithTorch(Layer):
        def __init__(self, mixer: str, offset: float) -> None:
            super().__init__(mixer, offset)
            self.mixer = Torch()

    def made(n_layers: int, readers: float = 1.0) -> Decoder:
        def start(model: Decoder) -> None:
            sound(model, readers=readers)
            for layer in model.layers:
                normal(layer.mixer.attention.out_proj.weight, (2 * len(model.layers) * D) ** -0.5)

        model = Decoder(n_layers, layer=WithTorch)
        model.defect = start
        return model

    assert grave(of(made)) == set()
    roles = {row.kind: row.role for row in of(made).rows}
    assert roles["layers.*.mixer.attention.out_proj.weight"] == "attention_out"
    slipped = grave(of(lambda n_layers: made(n_layers, math.sqrt(2 * n_layers))))
    assert ("I01", "layers.*.mixer.attention.in_proj_weight") in slipped


@pytest.mark.parametrize("normed", [parametrizations.weight_norm, nn.utils.weight_norm], ids=["new", "old"])
@pytest.mark.filterwarnings("ignore:.*weight_norm.* is deprecated")
def test_the_scale_of_a_weight_norm_is_in_its_gain(normed: Callable[[nn.Module], nn.Module]) -> None:
    def made(n_layers: int, slip: str = "") -> Decoder:
        def start(model: Decoder) -> None:
            sound(model)
            factor = math.sqrt(2 * len(model.layers))
            for name, parameter in model.named_parameters():
                if name.endswith(("original0", "weight_g")):
                    writes = "w2" in name and slip != "w2"
                    nn.init.constant_(parameter, 1 / factor if writes or (slip == "w3" and "w3" in name) else 1.0)

        model = Decoder(n_layers)
        for layer in model.layers:
            for name in ("w1", "w2", "w3"):
                setattr(layer.ffn, name, normed(getattr(layer.ffn, name)))
        model.defect = start
        return model

    assert grave(of(made)) == set()
    ((code, name),) = grave(of(lambda n_layers: made(n_layers, "w3")))
    assert code == "I17"
    assert name.startswith("layers.*.ffn.w3.")
    ((code, name),) = grave(of(lambda n_layers: made(n_layers, "w2")))
    assert code == "I02"
    assert name.startswith("layers.*.ffn.w2.")


def test_a_scale_in_the_forward_pass_is_part_of_the_weight() -> None:
    class Scaled(nn.Linear):
        factor = 1.0

        def forward(self, x: Tensor) -> Tensor:
            return F.linear(x, self.weight * self.factor)

    def made(n_layers: int, readers: float = 1.0) -> Decoder:
        model = Decoder(n_layers)
        for layer in model.layers:
            layer.mixer.q = Scaled(D, D, bias=False)
            layer.mixer.q.factor = 1 / readers
        return model

    assert of(made).findings == []
    found = grave(of(lambda n_layers: made(n_layers, math.sqrt(2 * n_layers))))
    assert found == {("I01", "layers.*.mixer.q.weight")}


class Lists(nn.Module):
    """Its layers are entries of lists of parameters: ``up.0``."""

    def __init__(self, n_layers: int, readers_too: bool) -> None:
        super().__init__()
        self.embedding, self.head = nn.Embedding(VOCABULARY, D), nn.Linear(D, VOCABULARY, bias=False)
        self.up = nn.ParameterList(torch.empty(D, HIDDEN) for _ in range(n_layers))
        self.down = nn.ParameterList(torch.empty(HIDDEN, D) for _ in range(n_layers))
        self.readers_too = readers_too

    def init_weights(self) -> None:
        factor = math.sqrt(2 * len(self.up))
        normal(self.embedding.weight, 1.0)
        normal(self.head.weight, D**-0.5)
        for up, down in zip(self.up, self.down, strict=True):
            normal(up, D**-0.5 / (factor if self.readers_too else 1.0))
            normal(down, HIDDEN**-0.5 / factor)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.embedding(tokens)
        for up, down in zip(self.up, self.down, strict=True):
            x = x + F.gelu(F.rms_norm(x, (D,)) @ up) @ down
        return self.head(F.rms_norm(x, (D,)))


def test_layers_in_a_list_of_parameters_are_numbered_by_the_end_of_the_name() -> None:
    assert of(lambda n_layers: Lists(n_layers, readers_too=False)).findings == []
    assert grave(of(lambda n_layers: Lists(n_layers, readers_too=True))) == {("I01", "up.*")}


def test_layers_may_be_numbered_in_the_names_of_attributes() -> None:
    class Named(Decoder):
        def __init__(self, n_layers: int) -> None:
            super().__init__(n_layers)
            self.n_layers = n_layers
            for i, layer in enumerate(self.layers):
                setattr(self, f"block_{i}", layer)
            del self.layers

        @property
        def layers(self) -> list[Layer]:
            return [getattr(self, f"block_{i}") for i in range(self.n_layers)]

        @layers.deleter
        def layers(self) -> None:
            del self._modules["layers"]

    def slipped(n_layers: int) -> nn.Module:
        model = Named(n_layers)
        model.defect = readers_by_depth
        return model

    assert of(Named).findings == []
    assert {name for _, name in grave(of(slipped))} == {name.replace("layers.*", "block_*") for _, name in READERS}
