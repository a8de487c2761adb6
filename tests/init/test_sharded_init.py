"""Sharded weights are the parts of the unsharded ones, bit for bit, on any number of ranks."""

import os

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, Shard, distribute_tensor

from isogloss.build import build_model
from isogloss.init.apply import fill, initialise
from isogloss.init.plan import plan_init
from isogloss.init.schemes import LinguaConfig
from isogloss.init.verify import verify_weights
from isogloss.mixers.attention import AttentionConfig
from isogloss.models.decoder import DecoderConfig
from isogloss.models.registry import create_model
from isogloss.nn.feed_forward import SwiGLUConfig
from isogloss.nn.multipliers import Multipliers
from isogloss.nn.roles import declared_tensors

# Odd sizes: no dimension divides evenly.
CONFIG = DecoderConfig(
    d_model=36, n_layers=2, mixer=AttentionConfig(n_heads=2), ffn=SwiGLUConfig(d_ff=49), vocab_size=101
)


def check(rank: int, world_size: int, store: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=world_size)
    mesh = init_device_mesh("cpu", (world_size,))
    with torch.device("meta"):
        model = create_model(CONFIG, Multipliers())
    plan = plan_init(model, LinguaConfig(), CONFIG)
    for layer in model.layers:
        fully_shard(layer, mesh=mesh)
    fully_shard(model, mesh=mesh)
    model.to_empty(device="cpu")
    initialise(model, plan, seed=5)
    whole = build_model(CONFIG, LinguaConfig(), seed=5, device=torch.device("cpu"))
    expected = {site.name: t for site, t in declared_tensors(whole)}
    for site, tensor in declared_tensors(model):
        assert isinstance(tensor, DTensor)
        assert torch.equal(tensor.full_tensor(), expected[site.name]), f"{site.name} by rows on {world_size}"
    assert verify_weights(model, plan) == []
    # What PyTorch's own initialisation does: every rank draws the same numbers, of the right std.
    name = "layers.0.mixer.q_proj.weight"
    std = plan[name].rule.std
    torch.manual_seed(0)
    torch.nn.init.trunc_normal_(model.layers[0].mixer.q_proj.weight.to_local(), std=std, a=-3 * std, b=3 * std)
    found = {(f.parameter, f.test) for f in verify_weights(model, plan)}
    assert found == ({(name, "shards")} if world_size > 1 else set())
    # Split by columns, as tensor parallelism splits writers.
    name = "layers.0.ffn.down_proj.weight"
    sharded = distribute_tensor(torch.zeros_like(expected[name]), mesh, [Shard(1)])
    module = torch.nn.Module()
    module.register_parameter("weight", torch.nn.Parameter(sharded))
    fill(module.weight, plan[name], seed=5)
    assert torch.equal(module.weight.full_tensor(), expected[name])
    dist.barrier()
    dist.destroy_process_group()
    os._exit(0)  # gloo's threads may abort an ordinary exit


@pytest.mark.parametrize("world_size", [1, 2])
def test_shards_are_parts_of_the_whole(world_size: int, tmp_path) -> None:
    context = mp.spawn(check, (world_size, str(tmp_path / "store")), nprocs=world_size, join=False)
    while not context.join():
        pass
