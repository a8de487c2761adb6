"""What a GPU must do as a CPU does: the same initial weights, the same attention, and runs that move between them."""

import os
from pathlib import Path

import pytest
import torch
from rich.console import Console

from isogloss.build import build_model
from isogloss.init.schemes import LinguaConfig
from isogloss.models.decoder import DecoderConfig
from isogloss.nn.attention import attend, create_mask
from isogloss.recipe import load_recipe
from isogloss.run.train import train
from isogloss.train.display import Display
from isogloss.train.metrics import read_metrics

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")]


def run(recipe: Path, *overrides: str) -> tuple[dict, str]:
    """Train with heads of 16 channels, the least that flex takes."""
    console = Console(record=True, width=120, file=open(os.devnull, "w"))  # noqa: PTH123, SIM115
    summary = train(load_recipe(str(recipe), ["model.d_model=32", *overrides]), Display(console))
    return summary, console.export_text()


def losses(recipe: Path, name: str) -> list[float]:
    records = read_metrics(recipe.parent / f"runs/{name}/metrics.jsonl")
    return [record["loss"] for record in records if record["kind"] == "train"]


@pytest.mark.parametrize("within_document", [True, False])
def test_it_trains_in_bf16_as_a_cpu_in_fp32(tiny: Path, within_document: bool) -> None:
    settings = ["train.steps=3", f"data.within_document={str(within_document).lower()}"]
    summary, _ = run(tiny, "train.device=cuda", "train.precision=bf16", *settings)
    run(tiny, "train.device=cpu", "name=cpu", *settings)
    assert summary["machine"]["device"] == "cuda"
    assert summary["machine"]["precision"] == "bf16"
    assert summary["steps"] == 3
    assert summary["skipped_steps"] == 0
    assert len(losses(tiny, "tiny")) == 3
    assert losses(tiny, "tiny") == pytest.approx(losses(tiny, "cpu"), rel=0.02)


@pytest.mark.parametrize("scaling", ["tensorwise", "rowwise"])
def test_projections_in_float8_are_near_a_cpus(tiny: Path, scaling: str) -> None:
    """The GPU's own products beside emulated ones: they differ in how sums are rounded."""
    needed = (8, 9) if scaling == "tensorwise" else (9, 0)
    if torch.cuda.get_device_capability() < needed:
        pytest.skip(f"needs compute capability {needed}")
    settings = ["train.steps=3", "train.precision=bf16", f"train.float8={scaling}"]
    settings += ["data.seq_len=32", "model.ffn.d_ff=64"]
    run(tiny, "train.device=cuda", *settings)
    run(tiny, "train.device=cpu", "name=cpu", *settings)
    assert losses(tiny, "tiny") == pytest.approx(losses(tiny, "cpu"), rel=0.02)


def ordered(values: torch.Tensor) -> torch.Tensor:
    """Integers that count float32 numbers in their order, so that neighbours differ by 1."""
    bits = values.cpu().view(torch.int32).long()
    return torch.where(bits < 0, -(bits & 0x7FFFFFFF), bits)


def test_initial_weights_are_the_cpus_to_one_unit_in_the_last_place() -> None:
    config = DecoderConfig.model_validate(
        {
            "d_model": 128,
            "n_layers": 2,
            "vocab_size": 1000,
            "mixer": {"n_heads": 4, "qk_norm": True},
            "ffn": {"type": "swiglu", "d_ff": 344},
        }
    )
    cpu, cuda = (
        dict(build_model(config, LinguaConfig(), seed=5, device=torch.device(name)).named_parameters())
        for name in ("cpu", "cuda")
    )
    assert cpu.keys() == cuda.keys()
    for name, expected in cpu.items():
        found = cuda[name].detach()
        assert found.is_cuda
        assert found.dtype == torch.float32
        assert (ordered(found) - ordered(expected.detach())).abs().max() <= 1, name


@pytest.mark.parametrize("n_kv_heads", [4, 2])
@pytest.mark.parametrize("window", [None, 40])
def test_flex_is_sdpa_forward_and_backward(n_kv_heads: int, window: int | None) -> None:
    rows, length, channels = 2, 160, 32  # not whole blocks of 128
    generator = torch.Generator().manual_seed(0)
    shapes = [(rows, heads, length, channels) for heads in (4, n_kv_heads, n_kv_heads, 4)]
    q, k, v, upstream = (torch.randn(shape, generator=generator).cuda() for shape in shapes)
    boundaries = torch.zeros(rows, length, dtype=torch.int64)
    boundaries[0, [1, 70, 128]] = 1
    boundaries[1, 33] = 1
    documents = boundaries.cumsum(1).cuda()
    positions = torch.arange(length, device="cuda")
    results = {}
    for backend in ("sdpa", "flex"):
        inputs = (q.clone().requires_grad_(), k.clone().requires_grad_(), v.clone().requires_grad_())
        mask = create_mask(backend, positions, positions, window, documents)
        y = attend(*inputs, mask, backend=backend, scale=channels**-0.5, cap=None)
        results[backend] = [y, *torch.autograd.grad(y, inputs, upstream)]
    for name, expected, found in zip(("y", "dq", "dk", "dv"), results["sdpa"], results["flex"], strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-3, msg=lambda m, name=name: f"{name}: {m}")


@pytest.mark.parametrize(("first", "then"), [("cuda", "cpu"), ("cpu", "cuda")])
def test_a_run_moves_between_devices(tiny: Path, first: str, then: str) -> None:
    run(tiny, f"train.device={first}", "train.steps=3", "optim.schedule.type=constant")
    summary, text = run(tiny, f"train.device={then}", "train.steps=6", "optim.schedule.type=constant")
    assert "resuming after step 3" in text
    assert f"train.device: {first} -> {then}" in text
    assert summary["machine"]["device"] == then
    assert summary["skipped_steps"] == 0
    run(tiny, f"train.device={first}", "train.steps=6", "optim.schedule.type=constant", "name=stayed")
    assert losses(tiny, "tiny") == pytest.approx(losses(tiny, "stayed"), rel=1e-3)
