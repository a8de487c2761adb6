"""Ranks on GPUs, over NCCL, do what one GPU does: FSDP2, offload, checkpoints written beside the training.

The same on CPUs over gloo, so that what is run here is known to work: one rank by default, two under ISOGLOSS_FAULTS.
"""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import equality
import pytest
import torch
import torch.distributed as dist
from equality import CONFIG, Case, compare, make_layout

import ranks
from isogloss.build import materialise, plan_model
from isogloss.checkpoint.asynchronous import Saver
from isogloss.checkpoint.config import CheckpointConfig
from isogloss.checkpoint.load import newest_checkpoint
from isogloss.checkpoint.peers import join_peers
from isogloss.init.schemes import LinguaConfig
from isogloss.models.weights import model_tensors
from isogloss.optim.groups import AdamWConfig, create_optimizer
from isogloss.optim.state import allot_optimizer_tensors, optimizer_tensors
from isogloss.parallel.context import RankBatches
from isogloss.parallel.env import find_gpu, find_ranks, process_group
from isogloss.parallel.mesh import Layout
from isogloss.train.agreement import Found, agree
from isogloss.train.step import train_step

CASES = {
    1: {"FSDP": Case(1), "offloaded": Case(1, {"offload": True}), "bf16": Case(1, precision="bf16")},
    2: {
        "FSDP": Case(2),
        "copies": Case(2, {"replicate": 2}),
        "tensor": Case(2, {"tensor": 2}),
        "context": Case(2, {"context": 2}),
        "offloaded": Case(2, {"offload": True}),
        "recomputed": Case(2, recompute="selective"),
        "moments in bf16": Case(2, moments="bf16"),
        "bf16": Case(2, precision="bf16"),
    },
}
many = pytest.mark.skipif("ISOGLOSS_FAULTS" not in os.environ, reason="as tests/parallel: make faults")
PLACES = [
    pytest.param("cpu", 1),
    pytest.param("cpu", 2, marks=many),
    pytest.param("cuda", 1, marks=pytest.mark.gpu),
    pytest.param("cuda", 2, marks=pytest.mark.gpu(2)),
]
# A GPU's sums are rounded by their shapes: sqrt(4000) roundings of float32 at most, of losses near 5 nats.
ON_GPU = 2e-5


@contextmanager
def group(device: str, n_ranks: int) -> Iterator[None]:
    """The run's own process group; of one rank, which a run does without, one like it."""
    if n_ranks > 1:
        with process_group(device):
            yield
        return
    gpu = find_gpu(find_ranks(), torch.cuda.device_count()) if device == "cuda" else None
    backend = "cpu:gloo,cuda:nccl" if gpu else "gloo"
    dist.init_process_group(backend, device_id=gpu)
    yield
    dist.destroy_process_group()


def saved_and_loaded(layout: Layout, device: str, root: Path) -> dict[str, bool]:
    """Whether what is loaded is what was there when ``save`` was called, though it changed right afterwards."""
    planned = plan_model(CONFIG, LinguaConfig())
    model = materialise(planned, seed=0, device=torch.device(device), layout=layout)
    optimizer = create_optimizer(model, AdamWConfig(), planned.plan)
    rows = RankBatches(equality.Rows(), layout)
    train_step(model, optimizer, rows.batch(0), micro_batch_size=8, clip=1.0, precision="fp32", layout=layout)
    parts = {"model": model_tensors(model), "optimizer": optimizer_tensors(model, optimizer)}
    there = {part: {name: _own(t).cpu().clone() for name, t in tensors.items()} for part, tensors in parts.items()}
    with Saver(root, CheckpointConfig()) as saver:
        saver.save(1, parts, {})
        train_step(model, optimizer, rows.batch(1), micro_batch_size=8, clip=1.0, precision="fp32", layout=layout)
        moved = any(not torch.equal(_own(t).cpu(), there["model"][name]) for name, t in parts["model"].items())
    checkpoint = newest_checkpoint(root, print, join_peers())
    assert checkpoint is not None
    checkpoint.load_into("model", parts["model"])
    state = allot_optimizer_tensors(model, optimizer, checkpoint.shapes("optimizer"))
    checkpoint.load_into("optimizer", state)
    same = {
        part: all(torch.equal(_own(t).cpu(), there[part][name]) for name, t in tensors.items())
        for part, tensors in (("model", parts["model"]), ("optimizer", state))
    }
    return same | {"moved": moved, "placed": all(_own(t).device.type == device for t in state.values())}


def _own(tensor: Any) -> torch.Tensor:
    return tensor.detach().to_local() if hasattr(tensor, "to_local") else tensor.detach()


def work(rank: int, n_ranks: int, device: str, folder: str) -> None:
    with group(device, n_ranks):
        found: dict[str, Any] = {name: asdict(compare(case, device)) for name, case in CASES[n_ranks].items()}
        layout = make_layout(CASES[n_ranks]["FSDP"], device)
        found["checkpoint"] = saved_and_loaded(layout, device, Path(folder) / "checkpoints")
        found["agreed"] = agree(Found(rank, rank == n_ranks - 1, False))
    if rank == 0:
        (Path(folder) / "found.json").write_text(json.dumps(found))


@pytest.mark.parametrize(("device", "n_ranks"), PLACES)
def test_ranks_of_a_device_do_what_one_does(tmp_path: Path, device: str, n_ranks: int) -> None:
    processes = ranks.start(work, n_ranks, device, str(tmp_path), launched=True)
    assert ranks.end(processes) == [0] * n_ranks
    found = json.loads((tmp_path / "found.json").read_text())
    assert found.pop("checkpoint") == dict.fromkeys(("model", "optimizer", "moved", "placed"), True)
    assert found.pop("agreed") == [n_ranks - 1, True, False]
    for name, case in CASES[n_ranks].items():
        got = equality.Found(**found[name])
        assert got.same_start, name
        assert got.same_on_all_ranks, name
        if case.precision == "bf16":
            assert got.first_loss <= equality.FIRST_LOSS_BF16, name
            assert got.last_loss <= equality.LAST_LOSS_BF16, name
            continue
        assert got.first_loss <= (equality.FIRST_LOSS if device == "cpu" else ON_GPU), name
        assert got.first_norm <= (equality.FIRST_NORM if device == "cpu" else ON_GPU), name
        assert got.last_loss <= (equality.LAST_LOSS if device == "cpu" else ON_GPU), name
        if device == "cpu":
            assert got.weights <= equality.WEIGHTS, name
