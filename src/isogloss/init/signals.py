"""The signals of a model at its initialisation: what is predicted and what is measured, in the same words."""

from collections.abc import Sequence
from dataclasses import dataclass

SILENT = 1e-36
"""Below it float32 has few digits or none: no signal."""


@dataclass(frozen=True)
class Signals:
    """Root-mean-square sizes per component, layer by layer.

    Args:
        stream: of the residual stream: after the embedding, then after each layer; n_layers + 1 numbers.
        mixer_write: of what each layer's mixer adds to the stream, multiplier included.
        ffn_write: of what each layer's feed-forward network adds.
        gradient: of the loss's gradient with respect to ``stream``, over that at the last layer.
        attention_logit_std: of each layer's attention logits.
        logit_std: of the output's logits.
        loss: the mean over positions of log-sum-exp of the logits less their mean, nats: the expected loss at
            initialisation, without the noise of the targets. Of trained weights the cross-entropy.
        attention_logit_spread: the relative standard deviation of attention_logit_std from one model to another,
            predicted only. Where tokens have become alike, a head's logits are all one draw.
    """

    stream: tuple[float, ...]
    mixer_write: tuple[float, ...]
    ffn_write: tuple[float, ...]
    gradient: tuple[float, ...]
    attention_logit_std: tuple[float, ...]
    logit_std: float
    loss: float
    attention_logit_spread: tuple[float, ...] = ()

    @property
    def embedding_share(self) -> float:
        """How much of the last stream's power is the embedding's own; nothing of a silent one."""
        return min(1.0, (self.stream[0] / self.stream[-1]) ** 2) if self.stream[-1] else 0.0

    @property
    def gradient_ratio(self) -> float:
        """The gradient at the embedding over that at the last layer."""
        return self.gradient[0]


def over_last(gradients: Sequence[float]) -> tuple[float, ...]:
    """Gradients layer by layer over that at the last; all 0 where none arrives there, from a head of zeros."""
    return tuple(g / gradients[-1] if gradients[-1] else 0.0 for g in gradients)
