"""Constants that a parametrisation puts into the forward pass beside its initial scales (muP, CompleteP, DeepNorm)."""

from dataclasses import astuple, dataclass


@dataclass(frozen=True)
class Multipliers:
    """``x_0 = embedding * E[tokens]``, ``x' = residual * x + branch * f(x)``, ``logits = W (logits * h)``.

    Args:
        embedding: of the embedding's rows.
        branch: of what a sublayer adds to the stream.
        residual: of the stream that it is added to.
        attention: of attention's logits, beside ``head_dim^-1/2``.
        logits: of what the head reads.
    """

    embedding: float = 1.0
    branch: float = 1.0
    residual: float = 1.0
    attention: float = 1.0
    logits: float = 1.0

    @property
    def all_one(self) -> bool:
        """Whether the forward pass is the plain one."""
        return all(value == 1.0 for value in astuple(self))
