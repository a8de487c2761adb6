"""What a GPU must do as a CPU does: the same step and initial weights, the same attention, runs that move between them.

Where it is cheap the test itself also runs on a CPU, and under ISOGLOSS_FAULTS all of it does. Runs are processes of
their own: while tests run, the shapes in signatures are checked, and those checks cannot be compiled.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import equality
import pytest
import torch
from equality import Case

from isogloss.build import build_model
from isogloss.data.prefetch import Prefetcher
from isogloss.init.schemes import LinguaConfig
from isogloss.models.decoder import DecoderConfig
from isogloss.models.inference import inference
from isogloss.models.protocol import Batch
from isogloss.nn import attention as kernels
from isogloss.nn.attention import attend, create_mask
from isogloss.train.metrics import read_metrics

CUDA = pytest.param("cuda", marks=pytest.mark.gpu)
DEVICES = ["cpu", CUDA]
slow = pytest.mark.skipif("ISOGLOSS_FAULTS" not in os.environ, reason="slow on a CPU: make faults")
IN_A_CAMPAIGN = [pytest.param("cpu", marks=slow), CUDA]


def run(recipe: Path, *overrides: str) -> tuple[dict, str]:
    """Train with heads of 16 channels, the least that flex takes; the summary and what was said."""
    command = [sys.executable, "-m", "isogloss", "train", str(recipe), "model.d_model=32", *overrides]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    name = next((word.removeprefix("name=") for word in overrides if word.startswith("name=")), "tiny")
    return json.loads((recipe.parent / f"runs/{name}/summary.json").read_text()), done.stdout


def losses(recipe: Path, name: str, kind: str = "train") -> list[float]:
    records = read_metrics(recipe.parent / f"runs/{name}/metrics.jsonl")
    return [record["loss"] for record in records if record["kind"] == kind]


def alone(program: str) -> None:
    """Call a function of this file in a process whose functions can be compiled."""
    paths = os.pathsep.join([str(Path(__file__).parent), *sys.path])
    command = [sys.executable, "-c", f"import {Path(__file__).stem} as tests; tests.{program}"]
    done = subprocess.run(command, env=os.environ | {"PYTHONPATH": paths}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("case", [Case(1), Case(1, moments="bf16")], ids=["", "moments in bf16"])
def test_a_step_is_that_of_a_cpu(device: str, case: Case) -> None:
    expected, found = (equality.train(case, None, n_steps=2, device=name).steps for name in ("cpu", device))
    for a, b in zip(expected, found, strict=True):
        assert (b.n_targets, b.nonfinite) == (a.n_targets, "")
        assert b.loss == pytest.approx(a.loss, rel=1e-5)
        assert b.grad_norm == pytest.approx(a.grad_norm, rel=1e-4)


@pytest.mark.parametrize("device", IN_A_CAMPAIGN)
@pytest.mark.parametrize("compiled", ["on", "off"])
@pytest.mark.parametrize("within_document", [True, False])
def test_it_trains_in_bf16_as_a_cpu_in_fp32(tiny: Path, device: str, within_document: bool, compiled: str) -> None:
    settings = ["train.steps=3", f"data.within_document={str(within_document).lower()}", "watch.validate_every=2"]
    summary, _ = run(tiny, f"train.device={device}", "train.precision=bf16", f"train.compile='{compiled}'", *settings)
    run(tiny, "train.device=cpu", "name=cpu", *settings)
    assert summary["machine"]["device"] == device
    assert summary["machine"]["precision"] == "bf16"
    assert summary["steps"] == 3
    assert summary["skipped_steps"] == 0
    for kind, n in (("train", 3), ("validation", 2)):
        assert len(losses(tiny, "tiny", kind)) == n
        assert losses(tiny, "tiny", kind) == pytest.approx(losses(tiny, "cpu", kind), rel=0.02)


@pytest.mark.gpu
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


@pytest.mark.parametrize("device", DEVICES)
def test_initial_weights_are_the_cpus_to_one_unit_in_the_last_place(device: str) -> None:
    config = DecoderConfig.model_validate(
        {
            "d_model": 128,
            "n_layers": 2,
            "vocab_size": 1000,
            "mixer": {"n_heads": 4, "qk_norm": True},
            "ffn": {"type": "swiglu", "d_ff": 344},
        }
    )
    cpu, there = (
        dict(build_model(config, LinguaConfig(), seed=5, device=torch.device(name)).named_parameters())
        for name in ("cpu", device)
    )
    assert cpu.keys() == there.keys()
    for name, expected in cpu.items():
        found = there[name].detach()
        assert found.device.type == device
        assert found.dtype == torch.float32
        assert (ordered(found) - ordered(expected.detach())).abs().max() <= 1, name


def compare_kernels(device: str, backends: list[str]) -> None:
    """Forward and backward of each, beside the first."""
    rows, length, channels = 2, 160, 32  # not whole blocks of 128
    generator = torch.Generator().manual_seed(0)
    boundaries = torch.zeros(rows, length, dtype=torch.int64)
    boundaries[0, [1, 70, 128]] = 1
    boundaries[1, 33] = 1
    documents = boundaries.cumsum(1).to(device)
    positions = torch.arange(length, device=device)
    # The second half's queries alone, as a rank that shares rows has them; and all of them.
    for n_kv_heads, window, queries, within in (
        (4, None, positions, documents),
        (2, 40, positions, documents),
        (2, None, positions, None),
        (2, None, positions[80:], documents),
        (4, 40, positions[80:], None),
    ):
        shapes = [(rows, 4, len(queries), channels), *[(rows, n_kv_heads, length, channels)] * 2]
        q, k, v = (torch.randn(shape, generator=generator).to(device) for shape in shapes)
        upstream = torch.randn(shapes[0], generator=generator).to(device)
        of_queries = None if within is None else within[:, -len(queries) :]
        results = {}
        for backend in backends:
            inputs = (q.clone().requires_grad_(), k.clone().requires_grad_(), v.clone().requires_grad_())
            mask = create_mask(backend, queries, positions, window, of_queries, within)
            y = attend(*inputs, mask, backend=backend, scale=channels**-0.5, cap=None)
            results[backend] = [y, *torch.autograd.grad(y, inputs, upstream)]
        for backend in backends[1:]:
            for name, a, b in zip(("y", "dq", "dk", "dv"), results[backends[0]], results[backend], strict=True):
                torch.testing.assert_close(
                    b, a, rtol=1e-3, atol=1e-3, msg=lambda m, name=f"{backend} {name}": f"{name}: {m}"
                )


def test_kernels_of_a_cpu_agree_forward_and_backward() -> None:
    compare_kernels("cpu", ["plain", "sdpa"])


@pytest.mark.gpu
def test_kernels_of_a_gpu_agree_forward_and_backward() -> None:
    alone("compare_kernels('cuda', ['plain', 'sdpa', 'flex'])")


def validate_compiled(device: str, length: int) -> None:
    """A compiled model reads documents without keeping the scores of all pairs of positions."""
    config = DecoderConfig.model_validate(
        {"d_model": 128, "n_layers": 1, "vocab_size": 50, "mixer": {"n_heads": 8, "backend": "flex"}}
    )
    model = build_model(config, LinguaConfig(), seed=0, device=torch.device(device), compiled=True)
    tokens = torch.zeros(1, length, dtype=torch.int64)
    batch = Batch(tokens, tokens, torch.arange(length)[None] // 100)
    with inference(model, "fp32") as there:
        before = torch.cuda.memory_allocated() if device == "cuda" else 0
        assert bool(model.loss(batch.to(there)).nll.isfinite())
        most = torch.cuda.max_memory_allocated() - before if device == "cuda" else 0
    assert most < 4 * 8 * length**2 / 2, f"{most / 2**20:.0f} MiB"


@pytest.mark.parametrize("device", IN_A_CAMPAIGN)
def test_validation_keeps_no_scores(device: str) -> None:
    alone(f"validate_compiled('{device}', {256 if device == 'cpu' else 8192})")


def compare_masks(device: str) -> None:
    """Those of rows long enough for the making of a mask to be compiled, beside those written out."""
    written_out = kernels.WRITTEN_OUT_UP_TO
    for length, window in ((4096, None), (4096, 300), (6144, None)):
        positions = torch.arange(length, device=device)
        for n_documents in (3, 40):
            documents = (positions * n_documents // length).expand(2, length)
            kernels.WRITTEN_OUT_UP_TO = written_out
            found = kernels.block_mask(positions, positions, window, documents)
            kernels.WRITTEN_OUT_UP_TO = 2**40
            expected = kernels.block_mask(positions, positions, window, documents)
            assert torch.equal(found.to_dense(), expected.to_dense())


@pytest.mark.gpu
def test_masks_whose_making_is_compiled() -> None:
    alone("compare_masks('cuda')")


class Numbered:
    def batch(self, step: int) -> Batch:
        tokens = torch.full((2, 8), step)
        return Batch(tokens, tokens + 1, None, torch.arange(8))


@pytest.mark.parametrize("device", DEVICES)
def test_batches_made_ahead_reach_the_device(device: str) -> None:
    with Prefetcher(Numbered(), last_step=20, pinned=device == "cuda") as ahead:
        for step in range(20):
            made = ahead.batch(step)
            assert made.tokens.is_pinned() == (device == "cuda")
            there = made.to(torch.device(device))
            del made  # its memory may be used again; the copy is still the right one
            assert there.tokens.device.type == device
            assert there.documents is None
            assert there.positions is not None
            assert there.positions.tolist() == list(range(8))
            assert there.tokens.unique().tolist() == [step]
            assert there.targets.unique().tolist() == [step + 1]


@pytest.mark.parametrize(
    ("first", "then"),
    [
        pytest.param("cuda", "cpu", marks=pytest.mark.gpu),
        pytest.param("cpu", "cuda", marks=pytest.mark.gpu),
        pytest.param("cpu", "cpu", marks=slow),
    ],
)
def test_a_run_moves_between_devices(tiny: Path, first: str, then: str) -> None:
    run(tiny, f"train.device={first}", "train.steps=3", "optim.schedule.type=constant")
    summary, text = run(tiny, f"train.device={then}", "train.steps=6", "optim.schedule.type=constant")
    assert "resuming after step 3" in text
    assert (f"train.device: {first} -> {then}" in text) == (first != then)
    assert summary["machine"]["device"] == then
    assert summary["skipped_steps"] == 0
    run(tiny, f"train.device={first}", "train.steps=6", "optim.schedule.type=constant", "name=stayed")
    assert losses(tiny, "tiny") == pytest.approx(losses(tiny, "stayed"), rel=1e-3)
