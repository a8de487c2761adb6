"""Tensor parallelism with sequence parallelism (Shoeybi et al. 2019; Korthikanti et al. 2022), derived from roles.

Readers are split by output, writers by input, the embedding and the head by vocabulary. Between blocks each rank holds
a part of every row's positions, and norms those; it is gathered before a mixer or a feed-forward network reads it, and
what these write is summed and scattered again. PyTorch's DTensor does the communication.
"""

from typing import Any

from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor, Partial, Replicate, Shard
from torch.distributed.tensor.parallel import (
    ColwiseParallel,
    ParallelStyle,
    PrepareModuleInput,
    RowwiseParallel,
    SequenceParallel,
    parallelize_module,
)

from isogloss.config.base import UserError
from isogloss.models.decoder import Decoder
from isogloss.nn.roles import READERS, WRITERS, Declared, Role, declared_by
from isogloss.parallel.loss import VocabularyLoss

_BY_OUTPUT = READERS - {Role.ROUTER, Role.HEAD}
_POSITIONS, _HEADS = 1, 2


def split_layers(model: Decoder, mesh: DeviceMesh) -> None:
    """Split a model on the meta device over the tensor axis, in place.

    Raises:
        UserError: a layer holds a parameter that has no layout.
    """
    for index, block in enumerate(model.blocks()):
        plan: dict[str, ParallelStyle] = {}
        for name, module in block.named_modules():
            for attribute, said in declared_by(module).items():
                plan[name] = _style(f"layers.{index}.{name}.{attribute}", said, inner="." in name)
        whole = (Shard(_POSITIONS), None, None), (Replicate(), None, None)
        plan["mixer"] = PrepareModuleInput(input_layouts=whole[0], desired_input_layouts=whole[1])
        plan["ffn"] = PrepareModuleInput(input_layouts=Shard(_POSITIONS), desired_input_layouts=Replicate())
        parallelize_module(block, mesh, plan)
    outer: dict[str, ParallelStyle] = {
        "embedding": RowwiseParallel(
            input_layouts=Replicate(), output_layouts=Shard(_POSITIONS), use_local_output=False
        ),
        "norm": SequenceParallel(),
    }
    if model.head is not None:
        outer["head"] = ColwiseParallel()
    parallelize_module(model, mesh, outer)
    model.norm.register_forward_hook(_whole_rows)
    model.loss_kernel = VocabularyLoss(mesh.get_group(), model.vocab_size)


def _style(name: str, said: Declared, *, inner: bool) -> ParallelStyle:
    if said.role in _BY_OUTPUT:
        return ColwiseParallel()
    if said.role in WRITERS:
        return RowwiseParallel(output_layouts=Shard(_POSITIONS), use_local_output=False)
    if said.role == Role.NORM_GAIN:
        # Those of the stream norm a rank's positions, those inside a mixer its heads.
        return SequenceParallel(sequence_dim=_HEADS, use_local_output=True) if inner else SequenceParallel()
    raise UserError(
        f"parallel.tensor: {name} has the role {said.role}, which has no tensor-parallel layout; set parallel.tensor=1"
    )


def _whole_rows(module: nn.Module, inputs: Any, output: Any) -> Tensor:
    """What the head reads: all positions; its ranks' gradients, each of a part of the vocabulary, are summed."""
    assert isinstance(output, DTensor)
    return output.redistribute(placements=[Replicate()]).to_local(grad_placements=[Partial()])
