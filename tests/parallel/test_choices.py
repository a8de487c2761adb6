"""Each choice of ``parallel`` that a single rank has no use for changes how FSDP2 is asked to split the weights."""

from types import SimpleNamespace

import pytest
import torch

import isogloss.parallel.fsdp as module
from isogloss.build import plan_model
from isogloss.config.describe import leaf_paths
from isogloss.init.schemes import LinguaConfig
from isogloss.models.decoder import Decoder, DecoderConfig
from isogloss.parallel.mesh import Layout, ParallelConfig

CONFIG = DecoderConfig.model_validate({"d_model": 16, "n_layers": 2, "vocab_size": 8, "mixer": {"n_heads": 2}})
AXES = {"replicate", "shard", "context", "tensor"}
CHOICES = {"reshard": "never", "gather": "bf16", "reduce": "bf16", "offload": True}


@pytest.fixture
def asked(monkeypatch):
    """What FSDP2 is asked for, unit by unit."""

    def of(precision: str = "fp32", tied_head: bool = False, **choices) -> list[tuple[str, dict]]:
        calls: list[tuple[str, dict]] = []

        def record(unit, **options) -> None:
            calls.append((type(unit).__name__, options))

        monkeypatch.setattr(module, "fully_shard", record)
        monkeypatch.setattr(module, "register_fsdp_forward_method", lambda model, name: calls.append((name, {})))
        layout: Layout = object.__new__(Layout)
        vars(layout).update(vars(SimpleNamespace(config=ParallelConfig(**choices), weights="mesh", device="cpu")))
        model: Decoder = plan_model(CONFIG.model_copy(update={"tied_head": tied_head}), LinguaConfig()).model
        module.shard_weights(model, layout, precision)
        return calls

    return of


def test_every_choice_is_here() -> None:
    # What the timeout changes, tests/faults/launch shows.
    assert set(leaf_paths(ParallelConfig)) == AXES | set(CHOICES) | {"timeout"}


@pytest.mark.parametrize("name", CHOICES)
def test_it_changes_what_is_asked_for(asked, name: str) -> None:
    assert str(asked()) != str(asked(**{name: CHOICES[name]})), f"parallel.{name} is not read"


def test_repeating_changes_nothing(asked) -> None:
    assert [name for name, _ in asked()] == [name for name, _ in asked()]


def test_the_units(asked) -> None:
    assert [name for name, _ in asked()] == ["Block", "Block", "Embedding", "Decoder", "loss"]
    assert [name for name, _ in asked(tied_head=True)] == ["Block", "Block", "Decoder", "loss"]


def test_weights_are_gathered_in_the_products_type_unless_told_otherwise(asked) -> None:
    def of_blocks(*given, **choices):
        return asked(*given, **choices)[0][1]["mp_policy"].param_dtype

    assert of_blocks("fp32") is None
    assert of_blocks("bf16") == torch.bfloat16
    assert of_blocks("bf16", gather="fp32") is None
    assert asked("bf16")[2][1]["mp_policy"].param_dtype is None, "the embedding opens the stream, in float32"
    assert not any(options["mp_policy"].cast_forward_inputs for _, options in asked("bf16")[:-1])
