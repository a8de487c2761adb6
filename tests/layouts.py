"""Ways of splitting a model on the meta device over a mesh, for the tests of several rooms."""

from torch import nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import Replicate, Shard, distribute_tensor

from isogloss.models.decoder import Decoder
from isogloss.nn.roles import READERS, WRITERS, Role


def by_rows(model: Decoder, mesh: DeviceMesh) -> None:
    for layer in model.layers:
        fully_shard(layer, mesh=mesh)
    fully_shard(model, mesh=mesh)


def by_roles(model: Decoder, mesh: DeviceMesh) -> None:
    """As tensor parallelism does: readers by output, writers by input, the embedding by vocabulary."""
    for module in model.modules():
        for name, parameter in list(module.named_parameters(recurse=False)):
            role = module.__dict__["declared_roles"][name].role
            split = Shard(1) if role in WRITERS else Shard(0) if role in READERS | {Role.EMBEDDING} else Replicate()
            sharded = distribute_tensor(parameter, mesh, [split], src_data_rank=None)
            module.register_parameter(name, nn.Parameter(sharded))
