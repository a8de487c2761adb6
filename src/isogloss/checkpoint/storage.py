"""Safetensors files, written piece by piece and read box by box: neither holds a file in memory.

A file is 8 bytes of the header's length, a JSON header with type, shape and place of each tensor, and the bytes
(https://github.com/huggingface/safetensors). The library writes only what is all in memory, so writing is done here; it
reads, and checks headers, itself.
"""

import hashlib
import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from isogloss.checkpoint.layout import DTYPE_NAMES, DTYPES, CorruptCheckpointError, FileFacts
from isogloss.durable import sync
from isogloss.headway import advance

_AT_ONCE = 1 << 24  # bytes


class _Hashed:
    """A stream that knows the checksum of what went through it."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream, self._sha256, self.size = stream, hashlib.sha256(), 0

    def write(self, data: Any) -> None:
        view = memoryview(data).cast("B")
        self._stream.write(view)
        self._sha256.update(view)
        self.size += len(view)

    def facts(self) -> FileFacts:
        return FileFacts(size=self.size, sha256=self._sha256.hexdigest())


def write_bytes(path: Path, data: bytes) -> FileFacts:
    """Write a small file, down to the disk."""
    with path.open("wb") as stream:
        hashed = _Hashed(stream)
        hashed.write(data)
        sync(stream)
    return hashed.facts()


Shape = tuple[torch.dtype, Sequence[int]]
"""Type and shape of a tensor that is not there yet."""


def write_tensors(
    path: Path, shapes: Mapping[str, Shape], tensors: Iterable[Tensor], metadata: Mapping[str, str]
) -> FileFacts:
    """Write a safetensors file, down to the disk, with 16 MiB of it in memory at a time.

    Args:
        path: the file.
        shapes: key -> type and shape, in the order of ``file_order``.
        tensors: the tensors in that order; each is asked for when it is to be written.
        metadata: strings for the header.
    """
    header: dict[str, Any] = {"__metadata__": dict(metadata)}
    place = 0
    for key, (dtype, shape) in shapes.items():
        end = place + math.prod(shape) * dtype.itemsize
        header[key] = {"dtype": DTYPE_NAMES[dtype], "shape": list(shape), "data_offsets": [place, end]}
        place = end
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as stream:
        hashed = _Hashed(stream)
        hashed.write(len(text).to_bytes(8, "little"))
        hashed.write(text)
        for (key, (dtype, shape)), tensor in zip(shapes.items(), tensors, strict=True):
            assert (tensor.dtype, list(tensor.shape)) == (dtype, list(shape)), key
            for data in _in_pieces(tensor):
                hashed.write(data.numpy())
                advance()
        sync(stream)
    assert hashed.size == 8 + len(text) + place
    return hashed.facts()


def file_order(shapes: Mapping[str, Shape]) -> dict[str, Shape]:
    """Wide types first, so that every tensor is aligned; then by name."""
    return dict(sorted(shapes.items(), key=lambda item: (-item[1][0].itemsize, item[0])))


def _in_pieces(tensor: Tensor) -> Iterator[Tensor]:
    if tensor.numel() == 0:
        return
    flat = tensor.detach().contiguous().reshape(-1).view(torch.uint8)
    for start in range(0, len(flat), _AT_ONCE):
        yield flat[start : start + _AT_ONCE].cpu()


class TensorFile:
    """An open safetensors file, whose header has been checked by the library."""

    def __init__(self, path: Path, handle: Any) -> None:
        self._path, self._handle = path, handle

    def shapes(self) -> dict[str, Shape]:
        """Key -> type and shape.

        Raises:
            CorruptCheckpointError: a type is not one that checkpoints have.
        """
        found = {}
        for key in sorted(self._handle.keys()):
            view = self._handle.get_slice(key)
            if view.get_dtype() not in DTYPES:
                raise CorruptCheckpointError(f"{self._path}: {key} has the unknown type {view.get_dtype()!r}")
            found[key] = (DTYPES[view.get_dtype()], view.get_shape())
        return found

    def metadata(self) -> dict[str, str]:
        """The header's strings."""
        return self._handle.metadata() or {}

    def read(self, key: str, offsets: Sequence[int], lengths: Sequence[int]) -> Tensor:
        """A box of a tensor."""
        if not offsets:
            return self._handle.get_tensor(key)
        return self._handle.get_slice(key)[tuple(slice(o, o + n) for o, n in zip(offsets, lengths, strict=True))]


@contextmanager
def open_tensors(path: Path) -> Iterator[TensorFile]:
    """Open a safetensors file.

    Raises:
        CorruptCheckpointError: it is none: its header is absurd, or its tensors overlap or reach beyond its end.
    """
    try:
        with safe_open(path, framework="pt") as handle:
            yield TensorFile(path, handle)
    except SafetensorError as error:
        raise CorruptCheckpointError(f"{path} is no whole safetensors file: {error}") from error
    except OSError as error:
        raise CorruptCheckpointError(f"{path} cannot be read: {error}") from error
