"""What the machine is found to be, and how large a run is."""

import time

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
def processor(monkeypatch):
    """Pretend to run on a processor with some features, where there is a compiler or none."""

    def pretend(*features: str, compiler: bool = True) -> None:
        monkeypatch.setattr(module, "processor_features", lambda: frozenset(features))
        monkeypatch.setattr(module, "compiler_found", lambda device: compiler)

    return pretend


def config(**values) -> TrainConfig:
    return TrainConfig(steps=1, batch_size=1, device="cpu", **values)


def test_bf16_is_taken_where_the_processor_has_units_for_it(processor) -> None:
    for feature in ("amx_bf16", "avx512_bf16", "bf16"):
        processor("avx2", feature)
        assert find_machine(config(), 1e9).precision == "bf16"
    processor("avx2", "avx512f", "avx512_vnni")
    assert find_machine(config(), 1e9).precision == "fp32"
    assert find_machine(config(precision="bf16"), 1e9).precision == "bf16"
    assert find_machine(config(float8="rowwise"), 1e9).precision == "bf16", "which float8 goes with"


def test_no_measurement_has_a_part_in_any_decision(monkeypatch) -> None:
    def measured(device, precision: str) -> float:
        raise AssertionError("a decision was measured")

    monkeypatch.setattr(module, "measure_peak", measured)
    monkeypatch.setattr(module, "_measure_peak", measured)
    monkeypatch.setattr(time, "perf_counter", measured)
    for n_flops in (0.0, 1e12, 1e15, 1e20):
        assert find_machine(config(), n_flops) == find_machine(config(), n_flops)


def test_features_are_those_that_the_system_lists_or_else_those_that_pytorch_reports(tmp_path, monkeypatch) -> None:
    listed = tmp_path / "cpuinfo"
    monkeypatch.setattr(module, "CPUINFO", listed)
    found = module.processor_features.__wrapped__
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx2": True, "amx_bf16": False}, raising=False)
    assert found() == {"avx2"}
    listed.write_text("processor\t: 0\nflags\t\t: fpu avx2 avx512_bf16\nbogomips\t: 5\n")
    assert found() == {"fpu", "avx2", "avx512_bf16"}
    listed.write_text("Features\t: fp asimd bf16\n")
    assert found() == {"fp", "asimd", "bf16"}


def test_long_runs_are_compiled_where_a_compiler_is(processor, monkeypatch) -> None:
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    processor("amx_bf16")
    assert not find_machine(config(), 4.88e13).compiled, "stdlib-small"
    assert find_machine(config(), 5.85e14).compiled, "stdlib-hour"
    assert find_machine(config(compile="on"), 1e9).compiled
    assert not find_machine(config(compile="off"), 1e15).compiled
    processor()
    assert not find_machine(config(), 1e11).compiled
    assert find_machine(config(), 1e15).compiled
    processor("amx_bf16", compiler=False)
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
