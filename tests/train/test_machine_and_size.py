"""What the machine is found to be, and how large a run is."""

import pytest
import torch

from isogloss.build import plan_model
from isogloss.config.base import UserError
from isogloss.models.registry import create_model
from isogloss.nn.multipliers import Multipliers
from isogloss.recipe import load_recipe
from isogloss.train import machine as module
from isogloss.train.display import duration
from isogloss.train.loop import TrainConfig
from isogloss.train.machine import find_machine, measure_peak
from isogloss.train.size import RunSize, parameters_by_part

CPU = torch.device("cpu")


@pytest.fixture
def rates(monkeypatch):
    """Pretend matrix products run at these rates, and that there is a compiler or none."""

    def set_rates(fp32: float, bf16: float, compiler: bool = True) -> None:
        monkeypatch.setattr(module, "measure_peak", lambda device, precision: bf16 if precision == "bf16" else fp32)
        monkeypatch.setattr(module, "compiler_found", lambda device: compiler)

    return set_rates


def config(**values) -> TrainConfig:
    return TrainConfig(steps=1, batch_size=1, device="cpu", **values)


def test_bf16_is_taken_where_it_is_measured_to_be_faster(rates) -> None:
    rates(1e11, 3e11)
    assert find_machine(config(), 1e9).precision == "bf16"
    rates(1e11, 0.5e11)
    assert find_machine(config(), 1e9).precision == "fp32"
    assert find_machine(config(precision="bf16"), 1e9).precision == "bf16"
    assert find_machine(config(float8="rowwise"), 1e9).precision == "bf16", "which float8 goes with"


def test_long_runs_are_compiled_where_a_compiler_is(rates) -> None:
    rates(1e11, 1e11)
    assert not find_machine(config(), 1e11).compiled
    assert find_machine(config(), 1e15).compiled
    assert find_machine(config(compile="on"), 1e9).compiled
    assert not find_machine(config(compile="off"), 1e15).compiled
    rates(1e11, 1e11, compiler=False)
    assert not find_machine(config(), 1e15).compiled
    with pytest.raises(UserError, match=r"install g\+\+"):
        find_machine(config(compile="on"), 1e15)


def test_a_measured_peak_is_a_rate() -> None:
    assert 1e8 < measure_peak(CPU, "fp32") < 1e15


def test_parts_add_up() -> None:
    recipe = load_recipe().with_vocabulary(2048)
    sites = [entry.site for entry in plan_model(recipe.model, recipe.init).plan.values()]
    parts = parameters_by_part(sites)
    with torch.device("meta"):
        expected = sum(p.numel() for p in create_model(recipe.model, Multipliers()).parameters())
    assert sum(parts.values()) == RunSize(parts, 1.0).n_parameters == expected


def test_durations() -> None:
    assert [duration(s) for s in (42, 400, 9000, 400_000)] == ["42 s", "7 min", "2.5 h", "4.6 days"]
