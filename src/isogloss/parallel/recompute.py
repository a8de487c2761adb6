"""Recomputing a block in the backward pass instead of keeping what is inside it.

none        keep everything
selective   keep what products, attention kernels and transfers between ranks give; recompute what is cheap
full        keep the block's input only (Chen et al. 2016): about a third more operations
"""

import logging
from functools import partial
from typing import Any, Literal

import torch
from torch.utils.checkpoint import CheckpointPolicy, checkpoint, create_selective_checkpoint_contexts

from isogloss.models.decoder import Decoder

Recompute = Literal["none", "selective", "full"]

_aten, _transfer = torch.ops.aten, torch.ops._c10d_functional
KEPT = frozenset(
    {
        _aten.mm.default,
        _aten.bmm.default,
        _aten.addmm.default,
        _aten._scaled_mm.default,
        _aten._scaled_dot_product_flash_attention_for_cpu.default,
        _aten._scaled_dot_product_flash_attention.default,
        _aten._scaled_dot_product_efficient_attention.default,
        _aten._scaled_dot_product_cudnn_attention.default,
        torch.ops.higher_order.flex_attention,
        _transfer.all_gather_into_tensor.default,
        _transfer.reduce_scatter_tensor.default,
    }
)
"""Operations whose results ``selective`` keeps."""

_WARNS = logging.getLogger("torch._higher_order_ops.wrap")
# Compiled, `torch.utils.checkpoint` with a ``context_fn`` says on every rank, whatever is in the block, that operations
# in place might get lost (pytorch/pytorch#113737). Blocks have none, as tests/parallel/test_recompute.py sees to.
_OF_OPERATIONS_IN_PLACE = "Detected that context_fn is passed"


def recompute_blocks(model: Decoder, what: Recompute) -> None:
    """Let the blocks of a model, not yet compiled, recompute what is not kept."""
    if what == "none":
        return
    contexts = {} if what == "full" else {"context_fn": partial(create_selective_checkpoint_contexts, _policy)}
    if contexts:
        _WARNS.addFilter(_is_of_use)
    for block in model.blocks():
        # No block draws random numbers: there is no generator's state to put back.
        block.recompute = partial(checkpoint, use_reentrant=False, preserve_rng_state=False, **contexts)


def _policy(context: Any, operation: Any, *arguments: Any, **keywords: Any) -> CheckpointPolicy:
    return CheckpointPolicy.MUST_SAVE if operation in KEPT else CheckpointPolicy.PREFER_RECOMPUTE


def _is_of_use(record: logging.LogRecord) -> bool:
    return _OF_OPERATIONS_IN_PLACE not in record.getMessage()
