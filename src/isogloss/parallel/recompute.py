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


def recompute_blocks(model: Decoder, what: Recompute) -> None:
    """Let the blocks of a model, not yet compiled, recompute what is not kept."""
    if what == "none":
        return
    # When such a block is compiled PyTorch warns, on each rank, of operations in place; in training a block has none.
    logging.getLogger("torch._higher_order_ops.wrap").addFilter(_is_of_concern)
    contexts = {} if what == "full" else {"context_fn": partial(create_selective_checkpoint_contexts, _policy)}
    for block in model.blocks():
        # No block draws random numbers: there is no generator's state to put back.
        block.recompute = partial(checkpoint, use_reentrant=False, preserve_rng_state=False, **contexts)


def _is_of_concern(record: logging.LogRecord) -> bool:
    return "context_fn is passed to torch.utils.checkpoint" not in record.getMessage()


def _policy(context: Any, operation: Any, *arguments: Any, **keywords: Any) -> CheckpointPolicy:
    return CheckpointPolicy.MUST_SAVE if operation in KEPT else CheckpointPolicy.PREFER_RECOMPUTE
