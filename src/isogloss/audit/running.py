"""One forward pass of a foreign model on random tokens, and why there is none where it fails."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from isogloss.audit.built import Target
from isogloss.audit.foreign import foreign
from isogloss.audit.operations import in_plain_operations
from isogloss.audit.stream import trace
from isogloss.audit.trace import Trace
from isogloss.config.base import UserError

N_ROWS, N_TOKENS = 2, 32
"""Of the batch of random tokens."""
OTHER_N_TOKENS = 48
"""Where something else is ``N_TOKENS`` long as well, so that the axis of time cannot be told."""


class Pass:
    """A model's forward pass.

    Args:
        target: knows how the model is called.
        model: is brought to float32.
    """

    def __init__(self, target: Target, model: nn.Module) -> None:
        self.target, self.model = target, model
        self.failure: str | None = None
        self.tokens = torch.empty(0, dtype=torch.int64)

    def seen(self) -> Trace | None:
        """Its trace; ``None`` where it cannot be run, with ``failure`` set."""
        self.model.float().eval()
        n_vocab = self.target.n_tokens(self.model)
        if n_vocab is None and (n_vocab := self._count_tokens()) is None:
            return None
        try:
            with foreign("its forward pass failed"):
                found = self._trace(n_vocab, N_TOKENS)
        except UserError as error:
            self.failure = f"{error}{self._blame()}"
            return None
        if found.ambiguous:
            try:
                with foreign("with more tokens"):
                    return self._trace(n_vocab, OTHER_N_TOKENS)
            except UserError:
                self._draw(n_vocab, N_TOKENS)
        return found

    def _count_tokens(self) -> int | None:
        """How many tokens it knows, by the lookups that two of them make in its parameters."""
        try:
            with foreign("it cannot be run on tokens"):
                embeddings = self._trace(2, N_TOKENS).embeddings
        except UserError as error:
            self.failure = f"no embedding was found, and {error}{self._blame()}"
            return None
        if not embeddings:
            self.failure = "no embedding was found: nothing looks its tokens up in a parameter"
        return min(embeddings.values(), default=None)

    def logits(self) -> Tensor:
        """The logits of the tokens that were last drawn, with gradients where they are enabled."""
        with foreign("run"), in_plain_operations():
            return _logits(self.target.logits(self.model, self.tokens))

    def _trace(self, n_vocab: int, n_tokens: int) -> Trace:
        self._draw(n_vocab, n_tokens)
        return trace(self.model, lambda: _logits(self.target.logits(self.model, self.tokens)), self.tokens)

    def _draw(self, n_vocab: int, n_tokens: int) -> None:
        generator = torch.Generator().manual_seed(0)
        self.tokens = torch.randint(n_vocab, (N_ROWS, n_tokens), generator=generator)

    def _blame(self) -> str:
        """Who is at fault, where the pass works while nobody follows it."""
        if not self.tokens.numel():
            return ""
        try:
            with torch.no_grad():
                self.logits()
        except UserError:
            return ""
        return " as the audit follows it; by itself it works"


def _logits(output: Any) -> Tensor:
    """A tensor, the first of a tuple, or what is called logits."""
    if isinstance(output, tuple | list):
        output = output[0]
    elif isinstance(output, Mapping):
        output = output["logits"]
    elif not isinstance(output, Tensor):
        output = output.logits
    if not isinstance(output, Tensor) or output.ndim != 3:
        raise TypeError(f"it returns a {type(output).__name__}, not logits of shape (rows, tokens, vocabulary)")
    return output
