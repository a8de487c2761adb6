"""What stands in a checkpoint's folder, and the checked form of its two lists.

step-0000001000/
  model.safetensors        of one process; of several: model-00001-of-00004.safetensors, what each rank wrote
  optimizer.safetensors
  index.json               where each piece of each tensor is
  state.json               what else a resume needs
  manifest.json            size and SHA-256 of all the others; written last

A piece is a box of a tensor: its offsets and sizes. Its key in a file is the tensor's name if it is all of it, and else
``name@offset,offset``. What is read from a folder is distrusted: names cannot leave it, boxes must tile their tensors.
"""

import itertools
import json
import math
import re
import stat
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar

import torch
from pydantic import BaseModel, ValidationError

from isogloss.config.base import UserError
from isogloss.config.stored import MAX_JSON_BYTES, Count, Stored, first_problem

FORMAT = 2
NAME = re.compile(r"step-(\d{10})")
ASIDE = ".aside-"  # what is being written or deleted
INDEX, STATE, MANIFEST = "index.json", "state.json", "manifest.json"
_FILE = re.compile(r"[A-Za-z0-9_-]+\.(safetensors|json)")
_MOST_CUTS = 6  # dimensions: a mesh of ranks has fewer
_PICKLES = (".metadata", ".pt", ".pth", ".ckpt", ".pkl", ".pickle", ".distcp", ".bin")

DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
"""Names of types in safetensors' headers."""
DTYPE_NAMES = {dtype: name for name, dtype in DTYPES.items()}


class CorruptCheckpointError(UserError):
    """A checkpoint is not what was written."""


class Piece(Stored):
    """A box of a tensor, and the file that holds it."""

    offsets: list[Count]
    sizes: list[Count]
    file: str


class StoredTensor(Stored):
    """A tensor as it was before it was cut."""

    dtype: str
    shape: list[Count]
    pieces: list[Piece]


class Index(Stored):
    """Where each piece of each tensor is: part -> name -> tensor."""

    format: int
    step: Count
    parts: dict[str, dict[str, StoredTensor]]


class FileFacts(Stored):
    """What a file must be."""

    size: Count
    sha256: str


class Manifest(Stored):
    """The files of a checkpoint."""

    format: int
    step: Count
    files: dict[str, FileFacts]


_Listing = TypeVar("_Listing", Index, Manifest)


def folder_name(step: int) -> str:
    """Of the checkpoint of a step."""
    return f"step-{step:010d}"


def shard_name(part: str, rank: int, n_ranks: int) -> str:
    """The file in which a rank keeps its pieces of a part."""
    return f"{part}.safetensors" if n_ranks == 1 else f"{part}-{rank + 1:05d}-of-{n_ranks:05d}.safetensors"


def piece_key(name: str, shape: Sequence[int], offsets: Sequence[int], sizes: Sequence[int]) -> str:
    """A piece's key in its file."""
    return name if list(sizes) == list(shape) else f"{name}@{','.join(map(str, offsets))}"


def checkpoint_folders(root: Path) -> dict[int, Path]:
    """Step -> folder of all that are named like a checkpoint, whole or not.

    Raises:
        UserError: there is something else in the root's place.
    """
    if not root.is_dir():
        if root.exists() or root.is_symlink():
            raise UserError(f"{root} is not a folder, where the checkpoints should be; move it away")
        return {}
    return {int(match[1]): path for path in root.iterdir() if (match := NAME.fullmatch(path.name)) and path.is_dir()}


def has_checkpoints(root: Path) -> bool:
    """Whether there are any, whole or not.

    Raises:
        UserError: there is something else in the folder's place.
    """
    return bool(checkpoint_folders(root))


def read_json(path: Path) -> bytes:
    """The bytes of a small file of a checkpoint.

    Raises:
        CorruptCheckpointError: it is missing, no plain file, or absurdly large.
    """
    size = plain_size(path)
    if size > MAX_JSON_BYTES:
        raise CorruptCheckpointError(f"{path} is damaged: {size:,} bytes are no list of a checkpoint")
    return path.read_bytes()


def plain_size(path: Path) -> int:
    """Bytes of a file; a link or a pipe in its place is refused, for it could lead anywhere or never end.

    Raises:
        CorruptCheckpointError: it is missing, or no plain file.
    """
    try:
        found = path.lstat()
    except FileNotFoundError:
        raise CorruptCheckpointError(f"{path} is missing: {path.parent} is not a whole checkpoint") from None
    except OSError as error:
        raise CorruptCheckpointError(f"{path} cannot be read: {error.strerror}") from error
    if not stat.S_ISREG(found.st_mode):
        raise CorruptCheckpointError(f"{path} is not a plain file")
    return found.st_size


def refuse_pickles(folder: Path) -> None:
    """Raise if a folder holds what PyTorch would unpickle: its own checkpoints, or those of ``torch.save``.

    Raises:
        CorruptCheckpointError: naming the file.
    """
    for path in sorted(folder.iterdir()):
        if path.name.endswith(_PICKLES):
            raise CorruptCheckpointError(
                f"{path} is a pickle, which runs whatever code it holds when it is read; no checkpoint of this program "
                "has one and it is not read. If you trust who wrote it, convert it to safetensors yourself, with a "
                "program of your own, and import that"
            )


def parse_json(path: Path, data: bytes) -> dict[str, Any]:
    """The names and values of a small file of a checkpoint.

    Raises:
        CorruptCheckpointError: it holds none; what it holds instead is said.
    """
    try:
        values = json.loads(data.decode())
    except json.JSONDecodeError as error:
        what = f"no JSON from line {error.lineno}, column {error.colno} on" if data.strip() else "empty"
        raise CorruptCheckpointError(f"{path} is damaged: its {len(data):,} bytes are {what}") from error
    except UnicodeDecodeError as error:
        raise CorruptCheckpointError(f"{path} is damaged: no text at byte {error.start:,} of {len(data):,}") from error
    except RecursionError as error:
        raise CorruptCheckpointError(f"{path} is damaged: it is nested without end") from error
    except ValueError as error:  # a number of thousands of digits
        raise CorruptCheckpointError(f"{path} is damaged: {error}") from error
    if not isinstance(values, dict):
        raise CorruptCheckpointError(f"{path} is damaged: it holds no names")
    return values


def parse_manifest(path: Path, data: bytes, step: int) -> Manifest:
    """Check a manifest.

    Raises:
        CorruptCheckpointError: it is no manifest, of another format or step, or names a file outside its folder.
    """
    found = _parse(path, data, Manifest, step)
    for name in found.files:
        if not _FILE.fullmatch(name):  # stricter than `inside`; `plain_size` refuses links
            raise CorruptCheckpointError(f"{path} names a file outside its folder: {name!r}")
    for name in (INDEX, STATE):
        if name not in found.files:
            raise CorruptCheckpointError(f"{path} is damaged: it lists no {name}")
    return found


def parse_state(path: Path, data: bytes, step: int, schema: type[BaseModel] | None) -> dict[str, Any]:
    """Check a state.

    Args:
        path: the file.
        data: its content.
        step: of its checkpoint; the schema's validators find it in their context.
        schema: of the states of whoever saves; names and values alone are checked if not given.

    Raises:
        CorruptCheckpointError: it is not of the schema.
    """
    values = parse_json(path, data)
    if schema is not None:
        try:
            schema.model_validate_json(data, strict=True, context={"step": step})
        except ValidationError as error:
            raise CorruptCheckpointError(f"{path} is damaged: {first_problem(error)}") from error
    return values


def parse_index(path: Path, data: bytes, manifest: Manifest) -> Index:
    """Check an index: every file is one of the manifest's, every tensor is tiled by its pieces.

    Raises:
        CorruptCheckpointError: it is not so.
    """
    found = _parse(path, data, Index, manifest.step)
    for part, tensors in found.parts.items():
        for name, tensor in tensors.items():
            wrong = _flaw(tensor, manifest)
            if wrong:
                raise CorruptCheckpointError(f"{path} is damaged: {part}: {name}: {wrong}")
    return found


def _parse(path: Path, data: bytes, kind: type[_Listing], step: int) -> _Listing:
    values = parse_json(path, data)
    if "format" not in values:
        raise CorruptCheckpointError(f"{path} is damaged: it does not say which format of checkpoints it is of")
    if values["format"] != FORMAT:
        raise CorruptCheckpointError(
            f"{path} has checkpoint format {values['format']!r}, this version reads {FORMAT}; load it with the version "
            "that wrote it"
        )
    try:
        found = kind.model_validate(values)
    except (ValidationError, RecursionError) as error:
        what = first_problem(error) if isinstance(error, ValidationError) else str(error)
        raise CorruptCheckpointError(f"{path} is damaged: {what}") from error
    if found.step != step:
        raise CorruptCheckpointError(f"{path} is of step {found.step}, its folder of step {step}: it is another's")
    return found


def _flaw(tensor: StoredTensor, manifest: Manifest) -> str | None:
    """What is wrong with the pieces of a tensor."""
    shape = tensor.shape
    if tensor.dtype not in DTYPES:
        return f"type {tensor.dtype!r} is unknown"
    for piece in tensor.pieces:
        if piece.file not in manifest.files or not piece.file.endswith(".safetensors"):
            return f"the manifest lists no file {piece.file!r}"
        if not len(piece.offsets) == len(piece.sizes) == len(shape):
            return f"a piece at {piece.offsets} of a tensor of shape {shape}"
        for offset, size, whole in zip(piece.offsets, piece.sizes, shape, strict=True):
            if offset + size > whole:
                return f"the piece at {piece.offsets} reaches out of shape {shape}"
    cut = [dim for dim, size in enumerate(shape) if any(piece.sizes[dim] != size for piece in tensor.pieces)]
    if len(cut) > _MOST_CUTS:
        return f"it is cut along {len(cut)} dimensions, more than {_MOST_CUTS}"
    return None if _tiled(tensor, cut) else "its pieces leave gaps, or overlap"


def _tiled(tensor: StoredTensor, cut: Sequence[int]) -> bool:
    """Whether each element of a tensor is in one piece, in time that is linear in the pieces.

    Differentiated once along each dimension, the indicator of a box is a sum of signed points at its corners, and the
    points determine it. So the pieces' indicators add up to the whole's if and only if their corners do.
    """
    corners: Counter[tuple[int, ...]] = Counter()
    boxes = [(piece.offsets, piece.sizes, 1) for piece in tensor.pieces if math.prod(piece.sizes)]
    if math.prod(tensor.shape):
        boxes.append(([0] * len(tensor.shape), tensor.shape, -1))
    for offsets, sizes, sign in boxes:
        for ends in itertools.product((0, 1), repeat=len(cut)):
            corner = tuple(offsets[dim] + end * sizes[dim] for dim, end in zip(cut, ends, strict=True))
            corners[corner] += sign * (-1) ** sum(ends)
    return not any(corners.values())
