"""Zeros that meet zeros never change; zeros that have a gradient, or will have one, are sound."""

import pytest
import torch
from torch import Tensor, nn

from isogloss.audit.audit import Audit, audit
from isogloss.audit.factory import Factory
from isogloss.audit.findings import Severity
from models_of_audit import Decoder, FeedForward, Layer, sound

BLOCK = ("q.weight", "k.weight", "v.weight", "o.weight", "w1.weight", "w2.weight", "w3.weight")


def of(*zero: str, layer: type[Layer] = Layer) -> Audit:
    """A sound model whose parameters of these names are zero."""

    def start(model: Decoder) -> None:
        sound(model)
        for name, parameter in model.named_parameters():
            if name.endswith(zero):
                nn.init.zeros_(parameter)

    def build(n_layers: int = 2) -> nn.Module:
        model = Decoder(n_layers, layer=layer)
        model.defect = start
        return model

    return audit(Factory("model", build, {}))


def stuck(found: Audit) -> set[str]:
    assert {f.code for f in found.findings if f.severity != Severity.NOTE} <= {"I19"}
    return {name for f in found.findings if f.code == "I19" for name in f.parameter.split(", ")}


@pytest.mark.parametrize(
    "zero",
    [
        ("o.weight", "w2.weight"),
        ("head.weight",),
        ("head.weight", "o.weight", "w2.weight"),
        ("q.weight",),
        ("w1.weight",),
    ],
    ids=["writers", "head", "head and writers", "queries", "gates"],
)
def test_zeros_that_will_change_are_sound(zero: tuple[str, ...]) -> None:
    found = of(*zero)
    assert stuck(found) == set()
    assert not found.failed
    assert found.complete


@pytest.mark.parametrize(
    "zero",
    [BLOCK, ("q.weight", "k.weight"), ("v.weight", "o.weight"), ("w1.weight", "w3.weight")],
    ids=["all", "queries and keys", "values and their writer", "gate and up"],
)
def test_zeros_that_meet_zeros_are_an_error(zero: tuple[str, ...]) -> None:
    found = of(*zero)
    assert {name.rpartition(".weight")[0].rpartition(".")[2] for name in stuck(found)} == {
        name.removesuffix(".weight") for name in zero
    }
    assert found.failed
    assert "it cannot learn" in found.findings[0].evidence


def test_one_layer_is_enough() -> None:
    assert stuck(of("layers.1.ffn.w1.weight", "layers.1.ffn.w3.weight")) == {
        "layers.1.ffn.w1.weight",
        "layers.1.ffn.w3.weight",
    }


class Experts(nn.Module):
    """More of them than most batches of tokens reach."""

    def __init__(self) -> None:
        super().__init__()
        self.experts = nn.ModuleList(FeedForward() for _ in range(24))

    def forward(self, x: Tensor) -> Tensor:
        chosen = torch.arange(x.shape[1]) % 3
        return sum((chosen == i)[:, None] * expert(x) for i, expert in enumerate(self.experts))


class WithExperts(Layer):
    def __init__(self, mixer: str, offset: float) -> None:
        super().__init__(mixer, offset)
        self.ffn = Experts()


def test_experts_without_tokens_are_not_accused() -> None:
    assert stuck(of("w2.weight", layer=WithExperts)) == set()
    assert len(stuck(of("w1.weight", "w2.weight", "w3.weight", layer=WithExperts))) == 3 * 24


def test_a_backward_pass_that_fails_is_said() -> None:
    class OneWay(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x: Tensor) -> Tensor:
            return x.clone()

        @staticmethod
        def backward(ctx, gradient: Tensor) -> Tensor:
            raise NotImplementedError("no way back")

    class Forward(Layer):
        def forward(self, x: Tensor) -> Tensor:
            return OneWay.apply(super().forward(x))

    found = of("w2.weight", layer=Forward)
    assert stuck(found) == set()
    assert any("no way back" in remark for remark in found.remarks)
    assert not found.complete
