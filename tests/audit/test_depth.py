"""Evidence of depth: from a second model that is deeper, for kinds that stand in enough layers."""

import math
from collections.abc import Callable

import pytest
from torch import Tensor, nn

from isogloss.audit.audit import Audit, audit
from isogloss.audit.factory import Factory
from isogloss.audit.findings import Severity
from models_of_audit import HIDDEN, D, Decoder, FeedForward, Layer, normal, sound


def of(make: Callable[[int], nn.Module], n: int = 4) -> Audit:
    def build(n_layers: int = n) -> nn.Module:
        return make(n_layers)

    return audit(Factory("model", build, {}))


def grave(found: Audit) -> set[tuple[str, str]]:
    return {(f.code, f.parameter) for f in found.findings if f.severity != Severity.NOTE}


class Other(FeedForward):
    """Under other names, so of another kind."""

    def __init__(self) -> None:
        super().__init__()
        self.out, self.w2 = self.w2, nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return self.out(nn.functional.silu(self.w1(x)) * self.w3(x))


def by_layer(model: Decoder) -> None:
    """Writers divided by sqrt(2 (l + 1)), as OLMo has it."""
    sound(model)
    for i, layer in enumerate(model.layers):
        normal(layer.mixer.o.weight, (2 * (i + 1) * D) ** -0.5)
        normal((layer.ffn.out if isinstance(layer.ffn, Other) else layer.ffn.w2).weight, (2 * (i + 1) * HIDDEN) ** -0.5)


def with_other(others: Callable[[int, int], bool], start: Callable[[Decoder], None]) -> Callable[[int], nn.Module]:
    def make(n_layers: int) -> nn.Module:
        model = Decoder(n_layers)
        for i, layer in enumerate(model.layers):
            if others(i, n_layers):
                layer.ffn = Other()
        model.defect = start
        return model

    return make


@pytest.mark.parametrize(
    ("others", "n"),
    [
        (lambda i, n: i == 0, 4),
        (lambda i, n: i < 2, 4),
        (lambda i, n: i == n - 1, 4),
        (lambda i, n: i % 2 == 0, 4),
        (lambda i, n: False, 2),
        (lambda i, n: False, 1),
    ],
    ids=["first", "two", "last", "every other", "two layers", "one layer"],
)
def test_a_kind_in_fewer_than_three_layers_is_not_accused_where_writers_follow_the_layer(
    others: Callable[[int, int], bool], n: int
) -> None:
    found = of(with_other(others, by_layer), n)
    assert {f.code for f in found.findings} <= {"I08"}


def test_a_first_layer_that_was_left_out_is_accused_where_writers_follow_the_depth() -> None:
    def start(model: Decoder) -> None:
        sound(model)
        normal(model.layers[0].ffn.out.weight, HIDDEN**-0.5)

    found = of(with_other(lambda i, n: i == 0, start))
    assert grave(found) == {("I02", "layers.0.ffn.out.weight")} or grave(found) == {("I02", "layers.*.ffn.out.weight")}


@pytest.mark.parametrize(
    "actual",
    [lambda n: 4, lambda n: min(n, 4), lambda n: max(n // 2, 4)],
    ids=["fixed", "capped", "halved"],
)
def test_a_depth_that_is_ignored_is_a_warning_and_no_evidence(actual: Callable[[int], int]) -> None:
    def make(n_layers: int) -> nn.Module:
        model = Decoder(actual(n_layers))
        model.defect = lambda model: sound(model, writers=False)
        return model

    found = of(make)
    assert [(f.code, f.severity, f.parameter) for f in found.findings] == [("I20", "warning", "depth")]
    assert found.findings[0].evidence == "with 4 and with 8 it has the same 4 layers"
    assert any("nothing about depth was judged" in remark for remark in found.remarks)
    assert not found.complete
    assert found.depths is None


class Repeated(Decoder):
    """One layer, run as often as the depth says."""

    def __init__(self, n_layers: int, readers: bool) -> None:
        super().__init__(1)
        self.n_layers = n_layers

        def start(model: Decoder) -> None:
            sound(model, readers=math.sqrt(2 * n_layers) if readers else 1.0)
            for weight in (model.layers[0].mixer.o.weight, model.layers[0].ffn.w2.weight):
                normal(weight, (2 * n_layers * weight.shape[1]) ** -0.5)

        self.defect = start

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.embedding(tokens)
        for _ in range(self.n_layers):
            x = self.layers[0](x)
        return self.head(self.norm(x))


def test_layers_that_share_their_weights_are_deeper_where_they_run_more_often() -> None:
    found = of(lambda n_layers: Repeated(n_layers, readers=False))
    assert {f.code for f in found.findings} <= {"I08"}
    assert found.depths == (4, 8)
    assert ("I01", "layers.0.mixer.q.weight") in grave(of(lambda n_layers: Repeated(n_layers, readers=True))) or (
        "I01",
        "layers.*.mixer.q.weight",
    ) in grave(of(lambda n_layers: Repeated(n_layers, readers=True)))


def test_a_list_of_layers_of_fixed_length_is_not_judged() -> None:
    class Two(Decoder):
        """A decoder of two layers behind an encoder that grows."""

        def __init__(self, n_layers: int) -> None:
            super().__init__(n_layers)
            self.tail = nn.ModuleList(Layer("attention", 0.0) for _ in range(2))

        def forward(self, tokens: Tensor) -> Tensor:
            x = self.embedding(tokens)
            for layer in (*self.layers, *self.tail):
                x = layer(x)
            return self.head(self.norm(x))

    def start(model: Decoder) -> None:
        sound(model)
        for layer in model.tail:
            normal(layer.mixer.o.weight, (4 * D) ** -0.5)
            normal(layer.ffn.w2.weight, (4 * HIDDEN) ** -0.5)

    def make(n_layers: int) -> nn.Module:
        model = Two(n_layers)
        model.defect = start
        return model

    found = of(make)
    assert {f.code for f in found.findings} <= {"I08"}
    assert any("tail.*.ffn.w2.weight" in limit for limit in found.limits)
