"""What a block asks of a sequence mixer."""

from typing import Any, Protocol, runtime_checkable

from jaxtyping import Float, Int
from torch import Tensor


@runtime_checkable
class Mixer(Protocol):
    """Maps (B, T, D) to (B, T, D), mixing positions; never a later one into an earlier.

    Attributes:
        config: frozen; layers of equal configs share what ``prepare`` gives.
        compiled: whether the block that holds it is compiled (`isogloss.build` says so).
    """

    config: Any
    compiled: bool

    def check_device(self, device: str) -> None:
        """Refuse to train on a device (``cpu``, ``cuda``) where a kernel that the config names cannot.

        Raises:
            UserError: with what to set instead.
        """
        ...

    def prepare(
        self, positions: Int[Tensor, " T"], n_keys: int, documents: Int[Tensor, "B T"] | None, decoding: bool
    ) -> Any:
        """What layers of this config share for a batch, such as masks.

        Args:
            positions: where the tokens stand.
            n_keys: how many tokens there are so far, these included.
            documents: the tokens' documents; ``None`` where mixing may cross them.
            decoding: a cache goes with the tokens.
        """
        ...

    def __call__(self, x: Float[Tensor, "B T D"], prepared: Any, cache: Any = None) -> Float[Tensor, "B T D"]:
        """Mix; with a ``cache`` the tokens continue what it has seen, and it is advanced in place."""
        ...

    def new_cache(self, batch_size: int, max_len: int) -> Any:
        """What decoding carries for this layer: empty, for up to ``max_len`` tokens a row."""
        ...

    def flops_per_token(self, n_keys: int) -> int:
        """Operations of a forward pass per token, beyond those of the weights, in a row of ``n_keys`` tokens."""
        ...
