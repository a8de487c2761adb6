"""Checkpoints of several ranks: any layout loads into any other, failures are agreed on, saves go on in background."""

import itertools
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import checkpoint_jobs as jobs
import isogloss.checkpoint.load as load
import ranks
from isogloss.checkpoint.consolidate import consolidate
from isogloss.checkpoint.load import load_checkpoint, newest_checkpoint
from isogloss.checkpoint.plan import Read

SAVED = {
    1: ["plain"],
    2: ["plain", "fsdp", "tensor_parallel"],
    4: ["fsdp", "hsdp", "tensor_parallel", "fsdp_and_tensor_parallel"],
}


@pytest.fixture(scope="module")
def saved(tmp_path_factory) -> dict[str, str]:
    """Layout and number of ranks -> folder of checkpoints."""
    roots: dict[str, str] = {}
    for n, layouts in SAVED.items():
        own = {layout: str(tmp_path_factory.mktemp(f"{layout}-{n}-")) for layout in layouts}
        ranks.run(jobs.save_layouts, n, own)
        roots |= {f"{layout} {n}": root for layout, root in own.items()}
    return roots


@pytest.mark.campaign(5)
@pytest.mark.parametrize("n", [2, 4])
def test_any_layout_loads_into_any_other(saved: dict[str, str], n: int) -> None:
    """Weights and moments, bit for bit."""
    ranks.run(jobs.load_layouts, n, list(saved.values()), SAVED[n])


@pytest.mark.campaign(5)
def test_any_layout_loads_into_one_process_and_consolidates(saved: dict[str, str], tmp_path: Path) -> None:
    expected = {name: tensor.detach() for name, tensor in jobs.model_tensors(jobs.build("plain", 1)).items()}
    for root in saved.values():
        found = newest_checkpoint(Path(root), pytest.fail)
        assert found is not None
        for part, meant in (("model", expected), ("optimizer", jobs.whole_moments())):
            tensors = found.tensors(part)
            assert tensors.keys() == meant.keys()
            assert all(torch.equal(tensors[name], meant[name]) for name in meant), root
        check_consolidated(consolidate(found, tmp_path / Path(root).name, 20_000, say=str), expected)


@pytest.mark.control(5)
def test_pieces_put_into_each_others_places_are_seen(saved: dict[str, str], tmp_path: Path, monkeypatch) -> None:
    plan = load.plan_load

    def exchanged(*arguments) -> list[Read]:
        reads = plan(*arguments)
        a, b = next(
            (a, b)
            for a, b in itertools.combinations(range(len(reads)), 2)
            if reads[a].target.shape == reads[b].target.shape and reads[a].file != reads[b].file
        )
        one, other = reads[a], reads[b]
        reads[a], reads[b] = replace(one, target=other.target), replace(other, target=one.target)
        return reads

    found = newest_checkpoint(Path(saved["fsdp 4"]), pytest.fail)
    assert found is not None
    right = found.tensors("model")
    monkeypatch.setattr(load, "plan_load", exchanged)
    wrong = found.tensors("model")
    assert any(not torch.equal(wrong[name], right[name]) for name in right)


def check_consolidated(files: list[Path], expected: dict[str, torch.Tensor]) -> None:
    from safetensors.torch import load_file

    shards = [path for path in files if path.suffix == ".safetensors"]
    assert len(shards) > 1
    assert shards[0].name == f"model-00001-of-{len(shards):05d}.safetensors"
    assert all(path.stat().st_size < 21_500 for path in shards)
    tensors = {name: tensor for path in shards for name, tensor in load_file(path).items()}
    assert tensors.keys() == expected.keys()
    assert all(torch.equal(tensors[name], expected[name]) for name in expected)


def test_no_rank_writes_what_another_does(saved: dict[str, str]) -> None:
    """Replicas are written once, and the work is shared."""
    found = load_checkpoint(Path(saved["hsdp 4"]) / "step-0000000001")
    sizes = [facts.size for name, facts in found.manifest.files.items() if name.startswith("model-")]
    whole = sum(t.nbytes for t in found.tensors("model").values())
    assert len(sizes) == 4
    assert max(sizes) < 0.5 * whole
    assert sum(sizes) < 1.3 * whole  # headers


@pytest.mark.campaign(10)
def test_a_failure_on_one_rank_is_raised_on_all(tmp_path: Path) -> None:
    ranks.run(jobs.failures, 2, str(tmp_path))


@pytest.mark.campaign(12)
def test_a_failure_in_the_background_is_raised_on_all_at_the_same_step(tmp_path: Path) -> None:
    ranks.run(jobs.fail_in_the_background, 2, str(tmp_path))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.campaign(12)
def test_saving_in_the_background_saves_what_was_there_at_the_call(tmp_path: Path) -> None:
    ranks.run(jobs.save_in_the_background, 2, str(tmp_path))
    for step in range(1, 5):
        found = load_checkpoint(tmp_path / f"step-{step:010d}")
        assert torch.equal(found.tensors("model")["w"], torch.arange(64.0).reshape(16, 4) + 100 * step)
