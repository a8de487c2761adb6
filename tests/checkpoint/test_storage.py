"""Safetensors files as the library itself reads them, written with one tensor in memory at a time."""

import hashlib
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from isogloss.checkpoint.layout import DTYPES
from isogloss.checkpoint.storage import file_order, open_tensors, write_tensors


def tensors_of_all_types() -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    found = {f"t{name}": torch.randn(3, 5, generator=generator).to(dtype) for name, dtype in DTYPES.items()}
    found |= {"scalar": torch.tensor(7.0), "empty": torch.empty(0, 4), "turned": torch.randn(4, 6).T}
    return found | {'a key with: "signs" é': torch.ones(2), "large": torch.randn(5_000_000)}


def test_the_library_reads_what_is_written(tmp_path: Path) -> None:
    tensors = tensors_of_all_types()
    shapes = file_order({key: (tensor.dtype, tuple(tensor.shape)) for key, tensor in tensors.items()})
    facts = write_tensors(tmp_path / "x.safetensors", shapes, (tensors[key] for key in shapes), {"format": "pt"})
    data = (tmp_path / "x.safetensors").read_bytes()
    assert (facts.size, facts.sha256) == (len(data), hashlib.sha256(data).hexdigest())
    found = load_file(tmp_path / "x.safetensors")
    assert found.keys() == tensors.keys()
    for key, tensor in tensors.items():
        assert found[key].dtype == tensor.dtype
        assert torch.equal(found[key].reshape(-1).view(torch.uint8), tensor.contiguous().reshape(-1).view(torch.uint8))
    with open_tensors(tmp_path / "x.safetensors") as source:
        assert source.metadata() == {"format": "pt"}
        assert torch.equal(source.read("turned", [1, 2], [3, 2]), tensors["turned"][1:4, 2:4])


def test_one_tensor_is_asked_for_at_a_time(tmp_path: Path) -> None:
    """When the third is asked for, the first is on its way to the disk."""
    path = tmp_path / "x.safetensors"
    shapes = {str(i): (torch.float32, (1_000_000,)) for i in range(4)}

    def one_by_one() -> Iterator[Tensor]:
        for i in range(4):
            assert path.stat().st_size >= 4_000_000 * (i - 1)
            yield torch.full((1_000_000,), float(i))

    write_tensors(path, shapes, one_by_one(), {})
    assert load_file(path)["3"][0] == 3


def test_a_tensor_that_is_not_what_was_planned_is_our_own_defect(tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match="w"):
        write_tensors(tmp_path / "x", {"w": (torch.float32, (2,))}, [torch.zeros(3)], {})
