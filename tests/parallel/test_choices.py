"""Each choice of ``parallel`` that a single rank has no use for changes how FSDP2 is asked to split the weights."""

from types import SimpleNamespace

import pytest
import torch

import isogloss.parallel.fsdp as module
from isogloss.build import plan_model
from isogloss.config.describe import leaf_paths
from isogloss.init.schemes import LinguaConfig
from isogloss.models.decoder import Decoder, DecoderConfig
from isogloss.parallel.mesh import Axes, Layout, ParallelConfig

CONFIG = DecoderConfig.model_validate({"d_model": 16, "n_layers": 2, "vocab_size": 8, "mixer": {"n_heads": 2}})
AXES = {"replicate", "shard", "context", "tensor"}
CHOICES = {"unit": 2**21, "reshard": "never", "reduce": "bf16", "offload": True}


@pytest.fixture
def asked(monkeypatch):
    """What FSDP2 is asked for, unit by unit."""

    def of(precision: str = "fp32", tied_head: bool = False, n_layers: int = 2, **choices) -> list[tuple[str, dict]]:
        calls: list[tuple[str, dict]] = []

        def record(unit, **options) -> SimpleNamespace:
            members = unit if isinstance(unit, list) else [unit]
            calls.append((" ".join(type(member).__name__ for member in members), options))
            return SimpleNamespace(set_unshard_in_backward=lambda needed: options.update(in_backward=needed))

        monkeypatch.setattr(module, "fully_shard", record)
        monkeypatch.setattr(module, "register_fsdp_forward_method", lambda model, name: calls.append((name, {})))
        layout: Layout = object.__new__(Layout)
        given = SimpleNamespace(axes=Axes(1, 2, 1, 1), config=ParallelConfig(**choices), weights="mesh", device="cpu")
        vars(layout).update(vars(given))
        model: Decoder = plan_model(
            CONFIG.model_copy(update={"tied_head": tied_head, "n_layers": n_layers}), LinguaConfig()
        ).model
        module.shard_weights(model, layout, precision)
        return calls

    return of


def test_every_choice_is_here() -> None:
    # What the timeout changes, tests/faults/launch shows.
    assert set(leaf_paths(ParallelConfig)) == AXES | set(CHOICES) | {"timeout"}


@pytest.mark.parametrize("name", CHOICES)
def test_it_changes_what_is_asked_for(asked, name: str) -> None:
    assert str(asked(unit=1)) != str(asked(**{"unit": 1} | {name: CHOICES[name]})), f"parallel.{name} is not read"


def test_repeating_changes_nothing(asked) -> None:
    assert [name for name, _ in asked()] == [name for name, _ in asked()]


def test_the_units(asked) -> None:
    def units(**choices) -> list[str]:
        return [name for name, _ in asked(**choices)][:-1]

    assert units(unit=1) == ["Block", "Block", "Embedding", "Decoder"]
    assert units(unit=1, tied_head=True) == ["Block", "Block", "Decoder"]
    assert units() == ["Block Block", "Decoder"]
    block = sum(p.numel() for p in plan_model(CONFIG, LinguaConfig()).model.blocks()[0].parameters())
    assert units(n_layers=5, unit=2 * block) == ["Block Block", "Block Block Block", "Decoder"]
    assert units(n_layers=5, unit=2 * block + 1) == units(n_layers=5, unit=2 * block)
    assert [len(unit.split()) for unit in units(n_layers=8, unit=8 * block // 3)] == [2, 3, 3, 1], "evenly"
    assert units(n_layers=5, unit=5 * block + 1) == ["Block Block Block Block Block", "Decoder"]


def test_what_the_backward_pass_needs_at_once_is_kept(asked) -> None:
    first, last, embedding, rest, _ = (options for _, options in asked(unit=1))
    assert first["reshard_after_forward"]
    assert not last["reshard_after_forward"]
    assert not rest["reshard_after_forward"]
    assert embedding["in_backward"] is False


def test_weights_are_gathered_in_the_products_type(asked) -> None:
    def of_blocks(precision: str):
        return asked(precision, unit=1)[0][1]["mp_policy"].param_dtype

    assert of_blocks("fp32") is None
    assert of_blocks("bf16") == torch.bfloat16
    assert asked("bf16", unit=1)[2][1]["mp_policy"].param_dtype is None, "the embedding opens the stream, in float32"
    assert not any(options["mp_policy"].cast_forward_inputs for _, options in asked("bf16")[:-1])
