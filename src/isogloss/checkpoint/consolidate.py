"""One part of a checkpoint as plain safetensors files of whole tensors, as other programs read them.

Several files bear Hugging Face's names, ``model-00001-of-00003.safetensors``, and ``model.safetensors.index.json`` says
what is where. One tensor is in memory at a time.
"""

import json
import math
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from torch import Tensor

from isogloss.checkpoint.layout import shard_name
from isogloss.checkpoint.load import Checkpoint
from isogloss.checkpoint.plan import plan_load
from isogloss.checkpoint.storage import Shape, file_order, open_tensors, write_bytes, write_tensors
from isogloss.config.base import UserError
from isogloss.config.quantity import count, size
from isogloss.durable import whole_folder


def consolidate(
    checkpoint: Checkpoint, folder: str | Path, max_bytes: int, part: str = "model", say: Callable[[str], None] = print
) -> list[Path]:
    """Write one part as whole tensors.

    Args:
        checkpoint: verified, however many ranks wrote it.
        folder: a new one; there whole, or not at all.
        max_bytes: of tensors in a file; a tensor that is larger has a file of its own.
        part: which.
        say: hears of each file.

    Raises:
        UserError: the folder is there already, or the checkpoint has no such part.
    """
    folder = Path(folder)
    if folder.exists():
        raise UserError(f"{folder} is there already; choose another name, or move it away")
    shapes = file_order(checkpoint.shapes(part))
    if not shapes:
        raise UserError(f"{checkpoint.folder} has no {part}; it has {', '.join(checkpoint.index.parts)}")
    groups = _split(shapes, max_bytes)
    places: dict[str, str] = {}
    with whole_folder(folder) as aside:
        for number, group in enumerate(groups):
            name = shard_name(part, number, len(groups))
            write_tensors(aside / name, group, _whole(checkpoint, part, group), {"format": "pt"})
            places |= dict.fromkeys(group, name)
            say(f"{folder / name}: {count(len(group), 'tensor')}, {size(_size(group))}")
        if len(groups) > 1:
            index = {"metadata": {"total_size": _size(shapes)}, "weight_map": places}
            write_bytes(aside / f"{part}.safetensors.index.json", json.dumps(index, indent=2).encode())
    return sorted(folder.iterdir())


def _split(shapes: dict[str, Shape], max_bytes: int) -> list[dict[str, Shape]]:
    groups: list[dict[str, Shape]] = [{}]
    for name, shape in shapes.items():
        if groups[-1] and _size(groups[-1]) + _size({name: shape}) > max_bytes:
            groups.append({})
        groups[-1][name] = shape
    return groups


def _whole(checkpoint: Checkpoint, part: str, shapes: dict[str, Shape]) -> Iterator[Tensor]:
    for name, (dtype, shape) in shapes.items():
        tensor = torch.empty(tuple(shape), dtype=dtype)
        for read in plan_load({name: checkpoint.index.parts[part][name]}, {name: tensor}):
            with open_tensors(checkpoint.folder / read.file) as source:
                read.target.copy_(source.read(read.key, read.offsets, read.lengths))
        yield tensor


def _size(shapes: dict[str, Shape]) -> int:
    return sum(math.prod(shape) * dtype.itemsize for dtype, shape in shapes.values())
