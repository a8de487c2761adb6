"""The output of a plan in closed form: logits, loss, and what the loss's gradient does to a token's own logit."""

import math

import torch
from jaxtyping import Float
from torch import Tensor

from isogloss.init.gaussian import WIDEST, W, Z, expected_log_sum, normal_logits
from isogloss.models.registry import ModelConfig
from isogloss.nn.multipliers import Multipliers

N_POSITIONS = 5
"""At which logits and loss are predicted: those of the shortest stream, of the longest, and between."""


class Head:
    """Logits of a stream, given its power at each position and how much of the token's own embedding is in it.

    With a tied head, the token that was read has a logit of its own: ``d s_E^2 own / r_L`` in the mean, spread by the
    rest of the stream and by the length of its row.

    Args:
        config: of the model, vocabulary resolved.
        multipliers: of the scheme.
        weight: the mean square of an element of the head.
        power: the stream's, each position's.
        own: the factor of the token's own embedding in it.
    """

    def __init__(
        self,
        config: ModelConfig,
        multipliers: Multipliers,
        weight: float,
        power: Float[Tensor, "B T"],
        own: Float[Tensor, "B T"],
    ) -> None:
        assert config.vocab_size is not None
        self._n_vocab, self._tied, self._cap = config.vocab_size, config.tied_head, config.logit_softcap
        self.norm = (power + config.norm_eps).sqrt()
        self.unit = config.d_model * weight * multipliers.logits / self.norm
        """The own logit for a stream that is the embedding."""
        self.std = (config.d_model * weight * power).sqrt() / self.norm * multipliers.logits
        self.mean = own * self.unit
        rest = 1 - own.square() * weight / self.norm.square()
        self.spread = (self.std.square() * rest + 2 / config.d_model * self.mean.square()).clamp_min(0).sqrt()

    def signals(self) -> tuple[float, float]:
        """The logits' standard deviation and the loss, ``E ln sum e^y`` less the mean logit, over some positions."""
        order = self.norm.flatten().argsort()
        chosen = order[torch.linspace(0, len(order) - 1, min(len(order), N_POSITIONS)).round().long()]
        shapes = torch.stack([x.detach().flatten()[chosen] for x in (self.std, self.mean, self.spread)], -1)
        found = {shape: self._at(*map(float, shape)) for shape in {_digits(shape) for shape in shapes.tolist()}}
        stds, losses = zip(*(found[_digits(shape)] for shape in shapes.tolist()), strict=True)
        return sum(stds) / len(stds), sum(losses) / len(losses)

    def _at(self, std: float, mean: float, spread: float) -> tuple[float, float]:
        y, _, log_density = normal_logits(std**2)
        z, density = torch.linspace(-WIDEST, WIDEST, len(y), dtype=torch.float64), log_density.exp()
        kinds = [(self._n_vocab - self._tied, self._capped(y), log_density)]
        if self._tied:
            kinds.append((1, self._capped(mean + spread * z), log_density))
        first, second = (
            sum(n * float((density * values**power).sum()) for n, values, _ in kinds) / self._n_vocab
            for power in (1, 2)
        )
        return math.sqrt(max(0.0, second - first**2)), float(expected_log_sum(kinds)) - first

    def own_share(self) -> Float[Tensor, "B T"]:
        """The root mean square of the gradient with respect to the own logit: its probability, less of a capped one."""
        y, _, log_density = normal_logits(float(self.std.detach().mean()) ** 2)
        others = float(expected_log_sum([(max(1, self._n_vocab - 1), self._capped(y), log_density)]))
        drawn = self.mean[..., None] + self.spread[..., None] * Z
        slope = 1.0 if self._cap is None else 1 - torch.tanh(drawn / self._cap).square()
        return (W * ((self._capped(drawn) - others).sigmoid() * slope).square()).sum(-1).sqrt()

    def _capped(self, y: Tensor) -> Tensor:
        return y if self._cap is None else self._cap * torch.tanh(y / self._cap)


def _digits(values: list[float]) -> tuple[str, ...]:
    return tuple(f"{value:.6g}" for value in values)
