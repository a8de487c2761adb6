"""What a model takes beyond its weights, counted by running one block and the loss without memory or arithmetic.

PyTorch's fake tensors have shapes, types and storages, but no numbers. A block is run on them once, for its shape and
the rows of a micro-batch: the bytes that live after the forward pass, and at the worst moment of the backward pass, are
those of real ones, for any mixer, norm, precision and way of recomputing. Compiled blocks keep less.
"""

import weakref
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter

from isogloss.models.decoder import Decoder
from isogloss.models.protocol import IGNORED
from isogloss.models.registry import ModelConfig, create_model
from isogloss.nn.loss import linear_cross_entropy, rows_per_chunk
from isogloss.nn.multipliers import Multipliers
from isogloss.nn.precision import autocast


@dataclass(frozen=True)
class BlockMemory:
    """Bytes of a block beyond its weights, for a micro-batch.

    Args:
        kept: what lives between its forward and its backward pass, its input included.
        backward: the most that lives in its backward pass beyond that: gradients, temporary and recomputed tensors.
        shared: what all blocks share for a batch: rotations, masks.
    """

    kept: float
    backward: float
    shared: float


class LiveBytes(TorchDispatchMode):
    """Counts the bytes of storages that operations make while it is active: those alive, and the most there were."""

    def __init__(self) -> None:
        super().__init__()
        self.now = self.most = 0.0
        self._alive: set[int] = set()

    def __torch_dispatch__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Run an operation, and count the storages of its results that are new."""
        given = {t.untyped_storage()._cdata for t in tree_iter((args, kwargs)) if isinstance(t, Tensor)}
        results = func(*args, **(kwargs or {}))
        for result in tree_iter(results):
            if isinstance(result, Tensor):
                storage = result.untyped_storage()
                if storage._cdata not in self._alive | given:
                    self._add(storage)
        return results

    def _add(self, storage: torch.UntypedStorage) -> None:
        key, size = storage._cdata, float(storage.nbytes())
        self._alive.add(key)
        self.now += size
        self.most = max(self.most, self.now)

        def gone() -> None:
            self._alive.discard(key)
            self.now -= size

        weakref.finalize(storage, gone)


def block_memory(
    config: ModelConfig,
    rows: int,
    seq_len: int,
    precision: str,
    *,
    documents: bool = False,
    gathered: bool = False,
    prepare: Callable[[Decoder], None] = lambda model: None,
) -> BlockMemory:
    """Count for one block of a model, ``rows`` rows of ``seq_len`` tokens.

    Args:
        config: of the model; one of its layers stands for all.
        rows: of a micro-batch, on one device.
        seq_len: T.
        precision: ``bf16`` or ``fp32``, of the products.
        documents: whether attention stays within documents.
        gathered: whether weights come in the products' type, as FSDP gathers them; otherwise autocast makes copies.
        prepare: what is done to the model, of one block, before it runs, such as to let it recompute.
    """
    with FakeTensorMode():
        model = create_model(config.model_copy(update={"n_layers": 1}), Multipliers())
        block = model.blocks()[0]
        if gathered and precision == "bf16":
            for module in block.modules():  # fake tensors are not swapped in place by .to()
                for name, parameter in list(module.named_parameters(recurse=False)):
                    setattr(module, name, torch.nn.Parameter(parameter.to(torch.bfloat16)))
        prepare(model)
        numbers = torch.zeros(rows, seq_len, dtype=torch.long) if documents else None
        with LiveBytes() as made:
            shared = block.mixer.prepare(torch.arange(seq_len), seq_len, numbers, False)
        n_shared = made.now
        x = torch.zeros(rows, seq_len, config.d_model, requires_grad=True)
        size = float(x.untyped_storage().nbytes())
        live = LiveBytes()
        with live, autocast(torch.device("cpu"), precision):
            y = block(x, shared)
        gradient = torch.zeros_like(y)
        kept = live.now - size  # the output is the next block's input
        live.most = live.now
        with live:
            y.backward(gradient)
        # The gradient of the output lives as well.
        return BlockMemory(kept + size, live.most - kept, n_shared)


def loss_memory(config: ModelConfig, n_tokens: int, precision: str, vocab_ranks: int = 1, device: str = "cpu") -> float:
    """The most bytes that the head and the loss take for ``n_tokens`` tokens, the head's gradient included.

    Args:
        config: of the model.
        n_tokens: of a micro-batch, on one device.
        precision: of the products.
        vocab_ranks: over how many ranks the vocabulary is split.
        device: ``cpu`` or ``cuda``, where it would be.
    """
    assert config.vocab_size is not None
    n_vocab = -(-config.vocab_size // vocab_ranks)
    # All chunks are alike: three of them show the worst moment, and what lives from the first to the last is added.
    rows = rows_per_chunk(n_vocab, device)
    n_shown = min(n_tokens, 3 * rows)
    with FakeTensorMode():
        hidden = torch.zeros(n_shown, config.d_model, requires_grad=True)
        weight = torch.zeros(n_vocab, config.d_model, requires_grad=True)
        targets = torch.zeros(n_shown, dtype=torch.long)
        live = LiveBytes()
        with live, autocast(torch.device("cpu"), precision):
            total, _ = linear_cross_entropy(
                hidden, weight, targets, ignored=IGNORED, cap=config.logit_softcap, z_loss=config.z_loss, rows=rows
            )
        with live:
            total.backward()
    # For each further token the hidden state's gradient, and its product with the loss's own.
    return live.most + (n_tokens - n_shown) * 2 * config.d_model * 4.0
