"""Who writes which piece, and who reads what from which: decided by the planners of PyTorch's distributed checkpoints.

``DefaultSavePlanner`` knows the boxes that a rank holds of a DTensor in any layout, and gives boxes that several hold
to the one with the least to write; ``DefaultLoadPlanner`` cuts what a rank needs from boxes of any other layout. They
are called in the order that ``torch.distributed.checkpoint.planner`` documents. ``save`` and ``load`` beside them are
not used: they pickle plans and metadata, and their failures reach only who catches ``BaseException``.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.distributed.checkpoint.default_planner import DefaultLoadPlanner, DefaultSavePlanner
from torch.distributed.checkpoint.metadata import (
    ChunkStorageMetadata,
    Metadata,
    MetadataIndex,
    TensorProperties,
    TensorStorageMetadata,
)
from torch.distributed.checkpoint.planner import SavePlan, TensorWriteData, WriteItem, WriteItemType

from isogloss.checkpoint.layout import DTYPE_NAMES, DTYPES, Piece, StoredTensor, piece_key, shard_name
from isogloss.checkpoint.peers import Peers

Parts = Mapping[str, Mapping[str, Tensor]]
"""Part name -> tensor name -> tensor; plain, or a DTensor."""


@dataclass(frozen=True)
class OwnPiece:
    """A piece that this rank writes: where it goes, and the local tensor that is to be there."""

    file: str
    key: str
    tensor: Tensor


@dataclass(frozen=True)
class SharedPlan:
    """What all ranks write together, and which of it is this rank's; with what it was made from, to be used again."""

    parts: dict[str, dict[str, StoredTensor]]
    own: list[OwnPiece]
    local: list[list[Any]]
    items: list[WriteItem]

    @property
    def n_bytes(self) -> int:
        """Of all tensors, over all ranks."""
        tensors = [tensor for part in self.parts.values() for tensor in part.values()]
        return sum(math.prod(tensor.shape) * DTYPES[tensor.dtype].itemsize for tensor in tensors)


def plan_save(parts: Parts, peers: Peers, former: SharedPlan | None = None) -> SharedPlan:
    """Agree on who writes what. Collective; nothing is copied: the own pieces are views of live tensors.

    Args:
        parts: part name -> named tensors.
        peers: who save together.
        former: the last plan, on all ranks or none; it holds as long as no rank's tensors have other shapes or places.
    """
    planner = DefaultSavePlanner(flatten_state_dict=False, flatten_sharded_tensors=False)
    flat = {f"{part}/{name}": tensor.detach() for part, tensors in parts.items() for name, tensor in tensors.items()}
    planner.set_up_planner(flat, is_coordinator=peers.rank == 0)
    local = [_to_json(item) for item in planner.create_local_plan().items if not _is_empty(item)]
    if former is not None and peers.all(local == former.local):
        return SharedPlan(former.parts, _own_pieces(planner, former.items, peers), local, former.items)
    # Every rank makes the whole plan from the same messages, so nothing needs to be sent back.
    everyone = peers.gather(local)
    plans, metadata = planner.create_global_plan([SavePlan([_from_json(v) for v in values]) for values in everyone])
    writer = {(item.index.fqn, item.index.offset): rank for rank, plan in enumerate(plans) for item in plan.items}
    stored: dict[str, dict[str, StoredTensor]] = {part: {} for part in parts}
    for path, tensor in metadata.state_dict_metadata.items():
        assert isinstance(tensor, TensorStorageMetadata)
        part, _, name = path.partition("/")
        stored[part][name] = StoredTensor(
            dtype=DTYPE_NAMES[tensor.properties.dtype],
            shape=list(tensor.size),
            pieces=[
                Piece(
                    offsets=list(chunk.offsets),
                    sizes=list(chunk.sizes),
                    file=shard_name(part, writer[path, chunk.offsets], peers.n_ranks),
                )
                for chunk in tensor.chunks
            ],
        )
    items = planner.finish_plan(plans[peers.rank]).items
    return SharedPlan(stored, _own_pieces(planner, items, peers), local, items)


def _own_pieces(planner: DefaultSavePlanner, items: list[WriteItem], peers: Peers) -> list[OwnPiece]:
    found = []
    for item in items:
        part, _, name = item.index.fqn.partition("/")
        data, tensor = item.tensor_data, planner.resolve_data(item)
        assert data is not None
        assert isinstance(tensor, Tensor)
        key = piece_key(name, data.size, data.chunk.offsets, data.chunk.sizes)
        found.append(OwnPiece(shard_name(part, peers.rank, peers.n_ranks), key, tensor.detach()))
    return found


@dataclass(frozen=True)
class Read:
    """A box of a piece to copy, and the view of a live tensor to copy it to."""

    file: str
    key: str
    offsets: list[int]
    lengths: list[int]
    target: Tensor


def plan_load(stored: Mapping[str, StoredTensor], targets: Mapping[str, Tensor]) -> list[Read]:
    """What this rank must read to fill its share of some tensors. Names and shapes must fit already."""
    planner = DefaultLoadPlanner(flatten_state_dict=False, flatten_sharded_tensors=False)
    metadata = Metadata(
        {
            name: TensorStorageMetadata(
                TensorProperties(DTYPES[tensor.dtype]),
                torch.Size(tensor.shape),
                [ChunkStorageMetadata(torch.Size(p.offsets), torch.Size(p.sizes)) for p in tensor.pieces],
            )
            for name, tensor in stored.items()
        }
    )
    planner.set_up_planner({name: tensor.detach() for name, tensor in targets.items()}, metadata)
    plan = planner.finish_plan(planner.create_global_plan([planner.create_local_plan()])[0])
    pieces = {
        (name, *piece.offsets): piece for name, t in stored.items() for piece in t.pieces if math.prod(piece.sizes)
    }
    reads = []
    for item in plan.items:
        name, tensor = item.storage_index.fqn, stored[item.storage_index.fqn]
        offsets = list(item.storage_index.offset or ())
        piece = pieces[(name, *offsets)]
        key = piece_key(name, tensor.shape, piece.offsets, piece.sizes)
        target = planner.resolve_tensor(item)
        reads.append(Read(piece.file, key, list(item.storage_offsets), list(item.lengths), target))
    return reads


def _is_empty(item: WriteItem) -> bool:
    """Whether it is the share of a rank that has nothing of a tensor: uneven cuts leave such."""
    data = item.tensor_data
    assert data is not None, f"{item.index.fqn} is no tensor"
    return math.prod(data.chunk.sizes) == 0 and math.prod(data.size) > 0


def _to_json(item: WriteItem) -> list[Any]:
    data = item.tensor_data
    assert data is not None
    dtype = DTYPE_NAMES[data.properties.dtype]
    whole = item.type == WriteItemType.TENSOR
    return [item.index.fqn, dtype, list(data.size), list(data.chunk.offsets), list(data.chunk.sizes), whole]


def _from_json(value: list[Any]) -> WriteItem:
    name, dtype, size, offsets, sizes, whole = value
    chunk = ChunkStorageMetadata(torch.Size(offsets), torch.Size(sizes))
    data = TensorWriteData(chunk, TensorProperties(DTYPES[dtype]), torch.Size(size))
    kind = WriteItemType.TENSOR if whole else WriteItemType.SHARD
    return WriteItem(MetadataIndex(name, offsets), kind, tensor_data=data)
