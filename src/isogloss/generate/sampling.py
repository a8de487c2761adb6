"""Choosing the next token from logits.

The model's distribution is changed in this order (that of Hugging Face's transformers), each filter working on what the
one before it left:

1. temperature T: ``p_i ~ exp(l_i / T)``; at T = 0 the likeliest token is taken and nothing below applies;
2. top-k (Fan et al. 2018, section 3.3): the k likeliest tokens;
3. top-p, the nucleus (Holtzman et al. 2020, equation 2): the fewest likeliest tokens whose probability, out of what
   top-k left, reaches p;
4. min-p (Nguyen et al. 2024, section 3): tokens at least ``min_p`` times as likely as the likeliest.

Equally likely tokens rank by their id, the lower first. As each filter keeps the first few of that one ranking, the
result is the first n of it, and a token is drawn from these by inverting their cumulative distribution at one uniform
number. All of it happens in float64 on the CPU: the same logits and seed give the same token on every device.
"""

from collections.abc import Sequence
from typing import Annotated

import torch
from jaxtyping import Float, Int
from pydantic import BeforeValidator, Field
from torch import Tensor

from isogloss.config.base import Config, UserError
from isogloss.config.lists import listed


class SamplingConfig(Config):
    """How text is written: what is drawn, and when to stop."""

    temperature: float = Field(default=1.0, ge=0, allow_inf_nan=False)
    """Divides the logits; 0 takes the likeliest token, 1 samples the model as it is."""
    top_k: int | None = Field(default=None, gt=0)
    """Keep only this many of the likeliest tokens."""
    top_p: float | None = Field(default=None, gt=0, le=1)
    """Keep the fewest likeliest tokens whose probability reaches this."""
    min_p: float | None = Field(default=None, ge=0, le=1)
    """Keep tokens at least this many times as likely as the likeliest."""
    max_tokens: int = Field(default=256, gt=0)
    """Stop after this many tokens."""
    max_context: int = Field(default=65_536, gt=0)
    """Refuse prompts that, with ``max_tokens``, are longer than this: memory and time grow with them."""
    stop: Annotated[tuple[Annotated[str, Field(min_length=1)], ...], BeforeValidator(listed)] = ()
    """Stop where one of these strings has been written; it is not part of the text."""
    seed: int = Field(default=0, ge=0, lt=2**64)
    """Equal seeds write equal texts."""


def choose(logits: Float[Tensor, "B V"], config: SamplingConfig, generator: torch.Generator) -> Int[Tensor, " B"]:
    """One id a row, on the CPU; the module's docstring says how.

    Args:
        logits: on any device; minus infinity for an id that must not be chosen.
        config: how to choose.
        generator: on the CPU; advanced by one number a row, unless the temperature is 0.

    Raises:
        UserError: a row holds NaN or plus infinity, or nothing but minus infinity.
    """
    logits = logits.double().cpu()
    highest = logits.amax(-1, keepdim=True)
    if not bool(highest.isfinite().all()):  # amax hands on NaN
        raise UserError(
            "the model gives logits that are not finite, so no token can be chosen: its weights are damaged or its "
            "training diverged; take an earlier checkpoint"
        )
    if config.temperature == 0:
        return logits.argmax(-1)
    # The highest logit is taken off first, so that no temperature, however low, overflows.
    weights = ((logits - highest) / config.temperature).exp()
    ranked, ids = weights.sort(dim=-1, descending=True, stable=True)
    cumulative = kept_weights(ranked, config).cumsum(-1)
    draw = torch.rand(len(logits), 1, dtype=torch.float64, generator=generator) * cumulative[:, -1:]
    # The first token whose cumulative weight exceeds the draw: never one of weight 0, wherever it stands.
    rank = torch.searchsorted(cumulative, draw, right=True)
    # Rounding can put the draw at the very total; then the last token of the kept ones is meant.
    last = torch.searchsorted(cumulative, cumulative[:, -1:].contiguous())
    return ids.gather(-1, torch.minimum(rank, last)).squeeze(-1)


def kept_weights(ranked: Float[Tensor, "B V"], config: SamplingConfig) -> Float[Tensor, "B V"]:
    """Weights (probabilities but for a factor) sorted downwards, with 0 in place of what a filter takes away."""
    if config.top_k is not None:
        ranked = torch.where(torch.arange(ranked.shape[-1]) < config.top_k, ranked, 0.0)
    if config.top_p is not None:
        cumulative = ranked.cumsum(-1)
        # A token stays if those before it do not yet reach p; the first always stays.
        before = torch.cat((torch.zeros_like(cumulative[:, :1]), cumulative[:, :-1]), dim=-1)
        ranked = torch.where(before < config.top_p * cumulative[:, -1:], ranked, 0.0)
    if config.min_p is not None:
        ranked = torch.where(ranked >= config.min_p * ranked[:, :1], ranked, 0.0)
    return ranked


class StopScanner:
    """Lets text through up to the first stop string that is completed, however the text is cut into pieces.

    What could be the beginning of a stop string is held back until more text decides.
    """

    def __init__(self, stop: Sequence[str]) -> None:
        self._stop = stop
        self._held = ""
        self.stopped = False

    def push(self, text: str) -> str:
        """The text that is now certain not to belong to a stop string; ``stopped`` says whether one has come."""
        text = self._held + text
        # The first to be completed, not the first to begin: else the result would depend on how the text is cut.
        found = [(start + len(stop), start) for stop in self._stop if (start := text.find(stop)) >= 0]
        if found:
            self.stopped, self._held = True, ""
            return text[: min(found)[1]]
        cut = len(text) - self._longest_beginning(text)
        self._held = text[cut:]
        return text[:cut]

    def close(self) -> str:
        """What was held back, once no more text comes."""
        held, self._held = self._held, ""
        return held

    def _longest_beginning(self, text: str) -> int:
        """The length of the longest end of ``text`` with which a stop string begins."""
        longest = max((len(stop) for stop in self._stop), default=1) - 1
        for length in range(min(longest, len(text)), 0, -1):
            if any(stop.startswith(text[-length:]) for stop in self._stop):
                return length
        return 0
