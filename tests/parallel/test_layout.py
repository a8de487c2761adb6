"""Who the ranks are, how they are laid out, and what is refused, with every reason."""

import math
from datetime import timedelta

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import ranks
from isogloss.config.base import UserError
from isogloss.models.decoder import DecoderConfig
from isogloss.parallel.context import positions_of
from isogloss.parallel.env import (
    ALONE,
    MissingRankError,
    Ranks,
    find_gpu,
    find_ranks,
    first_host,
    process_group,
    started_again,
)
from isogloss.parallel.first_rank import rank_0_first
from isogloss.parallel.mesh import Layout, ParallelConfig, Stretch, check_axes, find_axes
from isogloss.train.watchdog import COLD, HUNG

MODEL = DecoderConfig.model_validate(
    {"d_model": 32, "n_layers": 2, "vocab_size": 8, "mixer": {"n_heads": 4, "n_kv_heads": 2}, "ffn": {"type": "swiglu"}}
)


@given(st.integers(1, 4), st.integers(1, 4), st.integers(1, 4), st.integers(1, 4))
def test_shard_takes_what_is_left(replicate: int, shard: int, context: int, tensor: int) -> None:
    config = ParallelConfig(replicate=replicate, context=context, tensor=tensor)
    axes = find_axes(config, replicate * shard * context * tensor)
    assert (axes.shard, axes.data) == (shard, replicate * shard)


@pytest.mark.parametrize(
    ("given", "n_ranks", "fits"),
    [
        ({"tensor": 2}, 1, "replicate x context x tensor (2) must divide them"),
        ({"tensor": 3}, 4, "replicate x context x tensor (3) must divide them"),
        ({"shard": 2}, 4, "parallel.shard=4 fits"),
        ({"shard": 2, "tensor": 2}, 8, "parallel.shard=4 fits"),
    ],
)
def test_a_product_that_is_not_the_number_of_ranks_is_refused(given, n_ranks: int, fits: str) -> None:
    with pytest.raises(UserError) as error:
        find_axes(ParallelConfig(**given), n_ranks)
    assert f"but this run has {n_ranks}; launch as many, or change parallel: {fits}" in str(error.value)
    if fits.startswith("parallel.shard"):
        find_axes(ParallelConfig(**{**given, "shard": int(fits.split("=")[1].split()[0])}), n_ranks)


def refused(config: dict, n_ranks: int, seq_len: int = 64, batch_size: int = 8) -> str:
    with pytest.raises(UserError) as error:
        check_axes(find_axes(ParallelConfig(**config), n_ranks), MODEL, [Stretch(seq_len, batch_size)])
    return str(error.value)


def test_every_reason_is_given() -> None:
    assert "n_kv_heads (2) is not a multiple of parallel.tensor (4)" in refused({"tensor": 4}, 4)
    text = refused({"tensor": 3, "context": 2}, 12, batch_size=5)
    for reason in ("n_heads (4)", "n_kv_heads (2)", "d_ff (128)", "seq_len (64)", "2 x context x tensor", "batch_size"):
        assert reason in text
    check_axes(find_axes(ParallelConfig(tensor=2, context=2), 8), MODEL, [Stretch(64, 8)])


def test_every_stretch_is_checked_and_what_they_share_is_said_once() -> None:
    stretches = [Stretch(2, 3, " while warming up"), Stretch(64, 8)]
    with pytest.raises(UserError, match=r"batch_size \(3 while warming up\).*seq_len \(2 while warming up\)"):
        check_axes(find_axes(ParallelConfig(context=2), 4), MODEL, stretches)
    with pytest.raises(UserError) as error:
        check_axes(find_axes(ParallelConfig(tensor=3), 6), MODEL, stretches)
    assert str(error.value).count("n_heads") == 1
    assert "seq_len (64)" in str(error.value)


def test_each_rank_has_the_gpu_of_its_number_or_the_one_that_slurm_gives_it() -> None:
    rank = Ranks(rank=11, local_rank=3, world_size=16)
    torchrun, srun = {"RANK": "11"}, {"SLURM_PROCID": "11"}
    assert find_gpu(rank, 8, torchrun) == find_gpu(rank, 4, srun) == torch.device("cuda", 3)
    assert find_gpu(rank, 1, srun) == torch.device("cuda", 0)
    for n_gpus, environment in ((1, torchrun), (3, torchrun), (2, srun)):
        with pytest.raises(UserError, match=rf"number 3 .* sees {n_gpus} GPUs"):
            find_gpu(rank, n_gpus, environment)


def test_ranks_know_whether_they_are_started_again() -> None:
    counts = ({}, {"TORCHELASTIC_RESTART_COUNT": "0"}, {"TORCHELASTIC_RESTART_COUNT": "2"})
    assert [started_again(environment) for environment in counts] == [False, False, True]


@pytest.mark.parametrize("n_ranks", [1, 2, 4])
def test_pieces_of_a_row_are_all_of_it_with_equal_work(n_ranks: int) -> None:
    pieces = [positions_of(rank, n_ranks, 16) for rank in range(n_ranks)]
    assert sorted(torch.cat(pieces).tolist()) == list(range(16))
    assert len({int((piece + 1).sum()) for piece in pieces}) == 1, "keys that the causal mask lets queries see"


def test_ranks_by_torchrun_by_slurm_or_alone() -> None:
    torchrun = {"RANK": "3", "LOCAL_RANK": "1", "WORLD_SIZE": "4"}
    slurm = {"SLURM_PROCID": "5", "SLURM_LOCALID": "1", "SLURM_STEP_NUM_TASKS": "8"}
    assert find_ranks(torchrun | slurm) == Ranks(3, 1, 4)
    assert find_ranks(slurm) == Ranks(5, 1, 8)
    assert find_ranks({"SLURM_PROCID": "0", "SLURM_NTASKS": "8"}) == ALONE, "a batch script is one process"
    with pytest.raises(UserError, match="LOCAL_RANK=''"):
        find_ranks({"RANK": "3", "WORLD_SIZE": "4"})
    for wrong in ({"RANK": "4"}, {"RANK": "-1"}, {"LOCAL_RANK": "-1"}, {"WORLD_SIZE": "0"}, {"RANK": "abc"}):
        with pytest.raises(UserError, match="not a launcher's numbers"):
            find_ranks(torchrun | wrong)


def test_a_limit_of_any_size_is_a_limit() -> None:
    with pytest.raises(ValueError, match="525600"):
        ParallelConfig(timeout=1e300)
    assert ParallelConfig(timeout=525_600).patience == timedelta(days=4 * 365)


def test_a_process_that_is_alone_begins_no_group() -> None:
    with process_group("cpu") as ranks:
        assert ranks == ALONE
        assert not torch.distributed.is_initialized()
        assert rank_0_first(ranks, "anything", lambda: math.pi) == math.pi


def test_a_rank_that_waits_for_others_in_vain_says_so_and_may_be_started_again(monkeypatch) -> None:
    names = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
    for name, value in zip(names, ("0", "0", "2", "127.0.0.1", str(ranks.free_port())), strict=True):
        monkeypatch.setenv(name, value)
    arrival = ParallelConfig(timeout=0.01).arrival
    assert arrival == timedelta(minutes=0.01)
    with (
        pytest.raises(MissingRankError, match=r"rank 0 of 2 has waited 1 s \(parallel\.timeout\)") as missing,
        process_group("cpu", arrival=arrival),
    ):
        pass
    assert missing.value.exit_code == HUNG


@pytest.mark.parametrize(
    ("nodes", "host"),
    [("node[003-007,9],other", "node003"), ("a", "a"), ("a,b", "a"), ("n1-[2,3]-ib,n9", "n1-2-ib"), ("c[7]", "c7")],
)
def test_the_first_host_of_slurms_list(nodes: str, host: str) -> None:
    assert first_host(nodes) == host


def wait_as_asked(rank: int, n_ranks: int) -> None:
    config = ParallelConfig(context=2, timeout=2.0)
    group = Layout(find_axes(config, n_ranks), config, "cpu").context
    assert group is not None
    limit = group._get_backend(torch.device("cpu")).options._timeout  # pyright: ignore[reportAttributeAccessIssue]
    assert limit == config.patience
    assert limit.total_seconds() > 60 * config.timeout * COLD, "the watchdog, who knows who is behind, speaks before"


def test_the_groups_of_a_mesh_wait_as_long_as_they_are_asked_to() -> None:
    ranks.run(wait_as_asked, 2)
