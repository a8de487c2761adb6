"""What an initialisation leaves out is found, though it allocates memory; what it spoils is not called left out."""

import math
from collections.abc import Callable

import pytest
import torch
from torch import nn

from isogloss.audit.audit import Audit, audit
from isogloss.audit.factory import Factory
from isogloss.audit.findings import Severity
from models_of_audit import D, Decoder, sound

FORGOTTEN = "layers.1.ffn.w2.weight"


def of(start: Callable[[Decoder], object]) -> Audit:
    def build(n_layers: int = 2) -> nn.Module:
        model = Decoder(n_layers)
        model.defect = start
        return model

    return audit(Factory("model", build, {}))


def grave(found: Audit) -> set[tuple[str, str]]:
    return {(f.code, f.parameter) for f in found.findings if f.severity != Severity.NOTE}


def all_of_it(model: Decoder) -> None:
    model.to_empty(device="cpu")


def layer_by_layer(model: Decoder) -> None:
    for layer in model.layers:
        layer.to_empty(device="cpu")


def its_data(model: Decoder) -> None:
    for parameter in model.parameters():
        parameter.data = torch.empty_like(parameter)


def new_parameters(model: Decoder) -> None:
    for layer in model.layers:
        layer.ffn.w2.weight = nn.Parameter(torch.empty_like(layer.ffn.w2.weight))


@pytest.mark.parametrize("allocate", [all_of_it, layer_by_layer, its_data, new_parameters])
def test_memory_that_an_initialisation_allocates_is_poison_too(allocate: Callable[[Decoder], None]) -> None:
    def start(model: Decoder, skip: tuple[str, ...]) -> None:
        warm = [torch.ones_like(p) for p in model.parameters()]  # what the allocator would give again
        del warm
        allocate(model)
        sound(model, skip=skip)

    assert of(lambda model: start(model, ())).findings == []
    found = of(lambda model: start(model, (FORGOTTEN,)))
    assert grave(found) == {("I04", FORGOTTEN)}
    n = D * 96
    assert found.findings[0].evidence == f"{n:,} of {n:,} elements still hold the poison"
    assert not found.complete  # signals were not judged


def test_a_copy_of_uninitialised_memory_is_no_initialisation() -> None:
    def start(model: Decoder) -> None:
        sound(model)
        with torch.no_grad():
            model.layers[1].ffn.w2.weight.copy_(torch.empty(D, 96))

    assert grave(of(start)) == {("I04", FORGOTTEN)}


def test_a_buffer_that_is_emptied_after_it_was_filled_holds_garbage() -> None:
    def start(model: Decoder) -> None:
        sound(model)
        model.frequencies = torch.empty_like(model.frequencies)

    assert grave(of(start)) == {("I10", "frequencies")}


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_parameter_that_is_filled_with_what_is_not_finite(value: float) -> None:
    def start(model: Decoder) -> None:
        sound(model)
        with torch.no_grad():
            model.head.weight[0, :3] = value

    found = of(start)
    assert grave(found) == {("I18", "head.weight")}
    assert found.findings[0].evidence.startswith(f"3 of {128 * D:,} elements are NaN or infinite, after ")
    assert not found.complete


def test_a_logarithm_of_what_is_negative_is_not_called_left_out() -> None:
    def start(model: Decoder) -> None:
        sound(model)
        model.norm.weight.data.copy_(torch.randn(D).log())

    assert grave(of(start)) == {("I18", "norm.weight")}


def test_infinity_in_the_buffer_of_a_mask_is_sound() -> None:
    def start(model: Decoder) -> None:
        sound(model)
        model.frequencies.copy_(torch.tensor([0.0, -math.inf, 0.0, -math.inf]))

    assert of(start).findings == []
