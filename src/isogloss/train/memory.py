"""What a model keeps for its backward pass, counted by running one block and the loss without memory or arithmetic.

PyTorch's fake tensors have shapes, types and storages, but no numbers. A block is run on them once, for its shape and
the rows of a micro-batch: what autograd saves, and how many bytes live at the worst moment of the backward pass, are
those of real ones, for any mixer, norm and precision. Compiled blocks keep less.
"""

import weakref
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter

from isogloss.models.decoder import Decoder
from isogloss.models.protocol import IGNORED
from isogloss.models.registry import ModelConfig, create_model
from isogloss.nn.loss import LOGITS_PER_CHUNK, linear_cross_entropy
from isogloss.nn.multipliers import Multipliers
from isogloss.nn.precision import autocast


@dataclass(frozen=True)
class BlockMemory:
    """Bytes of a block beyond its weights, for a micro-batch.

    Args:
        kept: what autograd saves, the block's input included.
        weight_copies: of ``kept``, copies of weights in another type.
        input: the block's input alone: what full recomputation keeps.
        backward: the most that lives during its backward pass beyond ``kept``: new gradients and temporary tensors.
        shared: what all blocks share for a batch: rotations, masks.
    """

    kept: float
    weight_copies: float
    input: float
    backward: float
    shared: float


class LiveBytes(TorchDispatchMode):
    """Counts the bytes of storages that operations make while it is active: those alive, and the most there were."""

    def __init__(self) -> None:
        super().__init__()
        self.now = self.most = 0.0
        self._seen: set[int] = set()

    def __torch_dispatch__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Run an operation, and count the storages of its results that are new."""
        inputs = [t.untyped_storage()._cdata for t in tree_iter((args, kwargs)) if isinstance(t, Tensor)]
        results = func(*args, **(kwargs or {}))
        for result in tree_iter(results):
            if isinstance(result, Tensor):
                storage = result.untyped_storage()
                if storage._cdata not in self._seen and storage._cdata not in inputs:
                    self._add(storage)
        return results

    def _add(self, storage: torch.UntypedStorage) -> None:
        key, size = storage._cdata, float(storage.nbytes())
        self._seen.add(key)
        self.now += size
        self.most = max(self.most, self.now)

        def gone() -> None:
            self._seen.discard(key)
            self.now -= size

        weakref.finalize(storage, gone)


def block_memory(config: ModelConfig, rows: int, seq_len: int, precision: str, documents: bool) -> BlockMemory:
    """Count for one block of a model, ``rows`` rows of ``seq_len`` tokens.

    Args:
        config: of the model; one of its layers stands for all.
        rows: of a micro-batch, on one device.
        seq_len: T.
        precision: ``bf16`` or ``fp32``, of the products.
        documents: whether attention stays within documents.
    """
    with FakeTensorMode():
        block = _one_layer(config).blocks()[0]
        numbers = torch.zeros(rows, seq_len, dtype=torch.long) if documents else None
        with LiveBytes() as made:
            prepared = block.mixer.prepare(torch.arange(seq_len), seq_len, numbers, False)
            shared = made.now
        x = torch.zeros(rows, seq_len, config.d_model, requires_grad=True)
        live = LiveBytes()
        with live, autocast(torch.device("cpu"), precision):
            y, kept, copies = _run(block, lambda: block(x, prepared), prepared)
        live.most = 0.0
        after = live.now
        gradient = torch.zeros_like(y)
        with live:
            y.backward(gradient)
    size = float(rows * seq_len * config.d_model * 4)
    # The gradient of the output lives as well; the output itself is the next block's input, and counted there.
    return BlockMemory(kept, copies, size, max(live.most - after, 0.0) + size, shared)


def loss_memory(config: ModelConfig, n_tokens: int, precision: str, vocab_share: int = 1) -> float:
    """The most bytes that the head and the loss take for ``n_tokens`` tokens, the head's gradient included.

    Args:
        config: of the model.
        n_tokens: of a micro-batch, on one device.
        precision: of the products.
        vocab_share: over how many ranks the vocabulary is split.
    """
    assert config.vocab_size is not None
    n_vocab = -(-config.vocab_size // vocab_share)
    # All chunks are alike: three of them show the worst moment, and what lives from the first to the last is added.
    n_shown = min(n_tokens, 3 * max(1, LOGITS_PER_CHUNK // n_vocab))
    with FakeTensorMode():
        hidden = torch.zeros(n_shown, config.d_model, requires_grad=True)
        weight = torch.zeros(n_vocab, config.d_model, requires_grad=True)
        targets = torch.zeros(n_shown, dtype=torch.long)
        live = LiveBytes()
        with live, autocast(torch.device("cpu"), precision):
            total, _ = linear_cross_entropy(
                hidden, weight, targets, ignored=IGNORED, cap=config.logit_softcap, z_loss=config.z_loss
            )
        with live:
            total.backward()
    # For each further token the hidden state's gradient, and its product with the loss's own.
    return live.most + (n_tokens - n_shown) * 2 * config.d_model * 4.0


def _one_layer(config: ModelConfig) -> Decoder:
    return create_model(config.model_copy(update={"n_layers": 1}), Multipliers())


def _run(block: nn.Module, forward: Callable[[], Tensor], prepared: Any) -> tuple[Tensor, float, float]:
    """The block's output, the bytes that it keeps, and those of them that are copies of its weights."""
    weights = {p.untyped_storage()._cdata for p in block.parameters()}
    shared = {t.untyped_storage()._cdata for t in tree_iter(prepared) if isinstance(t, Tensor)}
    shapes = {p.shape for p in block.parameters()} | {p.shape[::-1] for p in block.parameters()}
    saved: dict[int, tuple[torch.UntypedStorage, bool]] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in weights | shared:
            saved[storage._cdata] = storage, tensor.shape in shapes and tensor.dtype == torch.bfloat16
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        y = forward()
    kept = float(sum(storage.nbytes() for storage, _ in saved.values()))
    copies = float(sum(storage.nbytes() for storage, copied in saved.values() if copied))
    return y, kept, copies
