"""Sharded weights are the parts of the unsharded ones, bit for bit, in every layout and on any number of ranks.

Four processes go through all layouts, in process groups of one to four of them.
"""

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import checkpoint_wrapper
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor, Shard, distribute_tensor
from torch.distributed.tensor.placement_types import _StridedShard
from torch.nn.parallel import DistributedDataParallel

import ranks
from isogloss.build import build_model
from isogloss.init.apply import fill, initialise
from isogloss.init.fingerprint import ReplicasDifferError, fingerprint
from isogloss.init.plan import Entry, plan_init
from isogloss.init.schemes import LinguaConfig
from isogloss.init.verify import verify_weights
from isogloss.mixers.attention import AttentionConfig
from isogloss.models.decoder import Decoder, DecoderConfig
from isogloss.models.registry import create_model
from isogloss.nn.feed_forward import SwiGLUConfig
from isogloss.nn.multipliers import Multipliers
from isogloss.nn.roles import declared_tensors
from layouts import by_roles, by_rows

# Odd sizes: the vocabulary and the hidden width divide by no number of ranks.
CONFIG = DecoderConfig(
    d_model=36, n_layers=2, mixer=AttentionConfig(n_heads=2), ffn=SwiGLUConfig(d_ff=49), vocab_size=101
)
Q_PROJ, DOWN_PROJ = "layers.0.mixer.q_proj.weight", "layers.0.ffn.down_proj.weight"


def planned() -> tuple[Decoder, dict[str, Entry]]:
    with torch.device("meta"):
        model = create_model(CONFIG, Multipliers())
    return model, plan_init(model, LinguaConfig(), CONFIG)


def tensors(model: nn.Module) -> dict[str, torch.Tensor]:
    return {site.name: tensor for site, tensor in declared_tensors(model)}


def fsdp(model: Decoder, n: int) -> nn.Module:
    by_rows(model, init_device_mesh("cpu", (n,)))
    return model


def hsdp(model: Decoder, n: int) -> nn.Module:
    by_rows(model, init_device_mesh("cpu", (2, n // 2), mesh_dim_names=("replicate", "shard")))
    return model


def tensor_parallel(model: Decoder, n: int) -> nn.Module:
    by_roles(model, init_device_mesh("cpu", (n,)))
    return model


def fsdp_and_tensor_parallel(model: Decoder, n: int) -> nn.Module:
    mesh = init_device_mesh("cpu", (2, n // 2), mesh_dim_names=("fsdp", "tensor"))
    by_roles(model, mesh["tensor"])
    by_rows(model, mesh["fsdp"])
    assert isinstance(tensors(model)[Q_PROJ].placements[0], _StridedShard)
    return model


def ddp(model: Decoder, n: int) -> nn.Module:
    return DistributedDataParallel(model.to_empty(device="cpu"))


LAYOUTS = [
    *((fsdp, n) for n in (1, 2, 3, 4)),
    *((tensor_parallel, n) for n in (2, 4)),
    (fsdp_and_tensor_parallel, 4),
    (hsdp, 4),
    (ddp, 2),
]


def check(rank: int, n_ranks: int, store: str) -> None:
    whole = build_model(CONFIG, LinguaConfig(), seed=5, device=torch.device("cpu"))
    prints = fingerprint(whole)
    for layout, n in LAYOUTS:
        if rank < n:
            method = f"file://{store}-{layout.__name__}-{n}"
            dist.init_process_group("gloo", init_method=method, rank=rank, world_size=n)
            check_layout(layout, n, tensors(whole), prints)
            dist.barrier()
            dist.destroy_process_group()


def check_layout(layout, n: int, expected: dict[str, torch.Tensor], prints: dict[str, str]) -> None:
    where = f"{layout.__name__} on {n}"
    model, plan = planned()
    model = layout(model, n)
    model.to_empty(device="cpu")
    initialise(model, plan, seed=5)
    own = tensors(model)
    for name, tensor in own.items():
        assert isinstance(tensor, DTensor) == (layout is not ddp)
        full = tensor.full_tensor() if isinstance(tensor, DTensor) else tensor
        assert torch.equal(full, expected[name]), f"{name}, {where}"
    assert fingerprint(model) == prints, where
    assert verify_weights(model, plan) == [], where
    if layout is not fsdp:
        # The last norm is held more than once: one last bit of the last rank's.
        norm = own["norm.weight"]
        local = norm.to_local() if isinstance(norm, DTensor) else norm.detach()
        change = int(dist.get_rank() == n - 1)
        local.view(torch.int32)[-1] ^= change
        found = {(f.parameter, f.test) for f in verify_weights(model, plan)}
        assert ("norm.weight", "replicas") in found, where
        with pytest.raises(ReplicasDifferError, match=r"norm\.weight"):
            fingerprint(model)
        local.view(torch.int32)[-1] ^= change
    if isinstance(local := own[Q_PROJ], DTensor):
        # What PyTorch's own initialisation does: every rank draws the same numbers, of the right std.
        std = plan[Q_PROJ].rule.std
        torch.manual_seed(0)
        nn.init.trunc_normal_(local.to_local(), std=std, a=-3 * std, b=3 * std)
        found = {(f.parameter, f.test) for f in verify_weights(model, plan)}
        assert found == ({(Q_PROJ, "shards")} if n > 1 else set()), where
        now = fingerprint(model)
        assert {name for name in now if now[name] != prints[name]} == {Q_PROJ}, where
    if layout is fsdp:
        # By columns, which FSDP does not do; with four ranks and five columns one of them has nothing.
        for shape, rows in ((expected[DOWN_PROJ].shape, slice(None)), ((36, 5), slice(5))):
            sharded = distribute_tensor(torch.zeros(shape), init_device_mesh("cpu", (n,)), [Shard(1)])
            fill(sharded, plan[DOWN_PROJ], seed=5)
            assert torch.equal(sharded.full_tensor(), expected[DOWN_PROJ][:, rows]), where


@pytest.mark.campaign(7)
@pytest.mark.control(7)
def test_shards_are_parts_of_the_whole(tmp_path) -> None:
    assert ranks.end(ranks.start(check, 4, str(tmp_path / "store"), launched=True)) == [0] * 4


def test_wrappers_change_nothing() -> None:
    prints = fingerprint(build_model(CONFIG, LinguaConfig(), seed=5, device=torch.device("cpu")))
    for wrap in (checkpoint_wrapper, torch.compile, lambda layer: torch.compile(checkpoint_wrapper(layer))):
        model, plan = planned()
        for index, layer in enumerate(model.layers):
            model.layers[index] = wrap(layer)
        model.to_empty(device="cpu")
        names = {name for name, _ in model.named_parameters()}
        assert names != set(prints)  # wrapped names are not the canonical ones
        initialise(model, plan, seed=5)
        assert fingerprint(model) == prints
        assert fingerprint(torch.compile(model)) == prints
        assert verify_weights(model, plan) == []
        initialise(model, plan, seed=6)
        assert fingerprint(model) != prints
