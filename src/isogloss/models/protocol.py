"""What the training loop, the evaluation and the generator ask of a model, whatever its architecture.

Legend of shapes, used everywhere: B batch, T time, D model, H query heads, G key-value heads, C head dim, F ffn hidden,
V vocabulary.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from isogloss.config.base import UserError
from isogloss.models.ignored import IGNORED


@dataclass(frozen=True)
class Batch:
    """Rows of tokens with what each position must predict.

    Args:
        tokens: what the model reads.
        targets: what it must predict at each position; ``IGNORED`` where nothing counts.
        documents: the number of the document each token belongs to, counted within its row, rising from 0; ``None``
        where
            attention may cross documents.
        positions: where the tokens stand in their rows; ``None`` for all of the row, from 0.
    """

    tokens: Int[Tensor, "B T"]
    targets: Int[Tensor, "B T"]
    documents: Int[Tensor, "B T"] | None = None
    positions: Int[Tensor, " T"] | None = None

    def n_targets(self) -> int:
        """How many targets count."""
        return int((self.targets != IGNORED).sum())

    def split(self, rows: int) -> list["Batch"]:
        """Cut into micro-batches of at most ``rows`` rows, in order."""
        documents = [None] * len(self.tokens) if self.documents is None else self.documents.split(rows)
        return [
            Batch(*parts, self.positions)
            for parts in zip(self.tokens.split(rows), self.targets.split(rows), documents, strict=False)
        ]

    def pinned(self) -> "Batch":
        """The same batch in page-locked memory, from which a GPU copies while it computes."""
        documents, positions = (None if x is None else x.pin_memory() for x in (self.documents, self.positions))
        return Batch(self.tokens.pin_memory(), self.targets.pin_memory(), documents, positions)

    def to(self, device: torch.device) -> "Batch":
        """The same batch on another device."""

        def moved(tensor: Tensor | None) -> Tensor | None:
            return None if tensor is None else tensor.to(device, non_blocking=True)

        tokens, targets = (t.to(device, non_blocking=True) for t in (self.tokens, self.targets))
        return Batch(tokens, targets, moved(self.documents), moved(self.positions))


def as_ids(tokens: Any, what: str = "tokens") -> Int[Tensor, "B T"]:
    """Ids from a tensor or an array of any integers.

    Raises:
        UserError: they are no rows of whole numbers.
    """
    if not isinstance(tokens, Tensor):
        tokens = torch.as_tensor(tokens)
    if tokens.ndim != 2 or tokens.is_floating_point() or tokens.is_complex() or tokens.dtype == torch.bool:
        raise UserError(
            f"{what} must be rows of whole numbers, (B, T), got {tuple(tokens.shape)} of {tokens.dtype}; one row "
            "alone is tokens[None]"
        )
    return tokens if tokens.dtype in (torch.int32, torch.int64) else tokens.long()


def as_batch(value: Any) -> Batch:
    """A batch as it is, or from a pair of tokens and targets, each (B, T).

    Raises:
        UserError: it is neither.
    """
    if isinstance(value, Batch):
        return value
    if not isinstance(value, tuple | list) or len(value) != 2:
        raise UserError(
            f"a batch is a Batch(tokens, targets), or a pair of them, got a {type(value).__name__}; targets are what "
            "each position must predict, so the tokens one further on"
        )
    return Batch(as_ids(value[0]), as_ids(value[1], "targets").long())


@dataclass(frozen=True)
class LossOutput:
    """Sums over the targets that count; the caller divides by the global count.

    Args:
        total: what is minimised: the negative log-likelihood plus the z-loss, nats, differentiable.
        nll: the negative log-likelihood alone, nats, detached.
    """

    total: Float[Tensor, ""]
    nll: Float[Tensor, ""]


@runtime_checkable
class LanguageModel(Protocol):
    """What every registered model offers."""

    def __call__(self, tokens: Int[Tensor, "B T"], state: Any | None = None) -> Float[Tensor, "B T V"]:
        """Logits; with ``state`` the tokens continue what the state has seen, and the state is advanced in place."""
        ...

    @property
    def vocab_size(self) -> int:
        """V: ids below it can be read and predicted."""
        ...

    def loss(self, batch: Batch) -> LossOutput:
        """The loss summed over the targets of a batch."""
        ...

    def blocks(self) -> Iterable[nn.Module]:
        """The units of sharding, compiling and recomputing."""
        ...

    def flops_per_token(self, seq_len: int) -> int:
        """Floating-point operations of one training step per token, forward and backward."""
        ...

    def new_state(self, batch_size: int, max_len: int) -> Any:
        """An empty decoding state that holds up to ``max_len`` tokens a row."""
        ...
