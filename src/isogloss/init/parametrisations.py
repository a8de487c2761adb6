"""Parametrisations: scales, multipliers and update factors that belong together, so that settings transfer to scale.

With m = d_model / base_width, n = n_layers / base_layers, for Adam:

=========== ========================= ======================================= ==================== ==================
            hidden matrices           forward                                 learning rate        decay, epsilon
=========== ========================= ======================================= ==================== ==================
mup         std m^-1/2                logits 1/m, attention sqrt(C0/C)        hidden 1/m           hidden decay m
mup_depth   std m^-1/2                the same, branches n^-1/2               hidden 1/(m sqrt n)  hidden decay m sqrt n
completep   std m^-1/2                the same, branches n^-alpha             hidden n^(alpha-1)/m, hidden decay m;
                                                                              gains n^(alpha-1)    eps m^-1 n^-alpha
u_mup       1 (fan_in^-1/2)           logits 1/d_model, branches (2L)^-1/2    hidden 1/fan_in,     decay kept per step
                                                                              embedding and gains
                                                                              d^-1/2
=========== ========================= ======================================= ==================== ==================

Sources: mup, Yang et al. 2022 (Tensor Programs V), table 8; mup_depth, Yang et al. 2023 (Tensor Programs VI);
completep, Dey et al. 2025; u_mup, Blake et al. 2024. CompleteP must not also divide writers by sqrt(2 L).
Embedding and head keep their std and rate in all but u_mup. u_mup is written in the form that Adam cannot tell from
the paper's: the multiplier fan_in^-1/2 of each product is put into the std and, squared, into the learning rate; and
without the rescaling of the stream at each layer, which the norms remove.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Literal

from pydantic import Field

from isogloss.init.formulas import Rules, by_fan_in, constant, decoder_rules, divided, fixed
from isogloss.init.rules import Update
from isogloss.init.scheme import Axis, Scheme
from isogloss.models.registry import ModelConfig
from isogloss.nn.multipliers import Multipliers
from isogloss.nn.roles import Role, Site

_KEPT = (
    "initial scale",
    "learning rate",
    "gains' rate",
    "embedding's scale",
    "embedding's rate",
    "head's rate",
    "attention scale",
    "decay",
    "stream",
    "logits",
)
"""What every parametrisation here keeps the same at every width."""

HIDDEN = frozenset({Role.QUERY, Role.KEY, Role.VALUE, Role.ATTENTION_OUT, Role.FFN_GATE, Role.FFN_UP, Role.FFN_DOWN})


class _WidthTransfer(Scheme):
    base_width: int = Field(default=256, gt=0)
    """The d_model at which all factors are 1."""
    base_head_dim: int = Field(default=64, gt=0)
    """The head_dim at which attention's logits are scaled as usual."""
    base_std: float = Field(default=0.02, gt=0)
    """Standard deviation of hidden matrices at base_width, and of the head at every width."""
    embedding_std: float = Field(default=1.0, gt=0)
    """Standard deviation of the embedding, at every width."""
    output_multiplier: float = Field(default=1.0, gt=0)
    """Of the logits, beside 1/m."""
    zero_head: bool = False
    """Start the head at zero: the loss starts at ln V, and coordinate checks of the logits are clean."""

    def _width(self, model: ModelConfig) -> float:
        return model.d_model / self.base_width

    def rules(self, model: ModelConfig) -> Rules:
        """Role -> rule."""
        m = self._width(model)
        hidden = divided(fixed(self.base_std), lambda site: (m**0.5, f"sqrt({m:g})"))
        head = constant(0.0) if self.zero_head else fixed(self.base_std)
        return decoder_rules(fixed(self.embedding_std), hidden, hidden, head)

    def multipliers(self, model: ModelConfig) -> Multipliers:
        """Logits by 1/m, attention by 1/head_dim."""
        head_dim = model.mixer.heads(model.d_model).head_dim
        return Multipliers(
            logits=self.output_multiplier / self._width(model), attention=(self.base_head_dim / head_dim) ** 0.5
        )

    def update(self, site: Site, model: ModelConfig) -> Update:
        """Hidden matrices learn at 1/m, and decay by the same share a step as at base_width."""
        m = self._width(model)
        return Update(lr=1 / m, weight_decay=m) if site.role in HIDDEN else Update()

    def promises(self, axis: Axis) -> Mapping[str, float]:
        """Nothing changes with the width."""
        return dict.fromkeys(_KEPT, 0.0) if axis == "width" else {}


class MuPConfig(_WidthTransfer):
    """Maximal update parametrisation: learning rates transfer across width."""

    type: Literal["mup"]


class _DepthTransfer(_WidthTransfer):
    base_layers: int = Field(default=4, gt=0)
    """The n_layers at which all factors are 1."""

    def _depth(self, model: ModelConfig) -> float:
        return model.n_layers / self.base_layers


class MuPDepthConfig(_DepthTransfer):
    """Depth-muP: branches by n^-1/2."""

    type: Literal["mup_depth"]

    def multipliers(self, model: ModelConfig) -> Multipliers:
        """As muP's, and branches by n^-1/2."""
        base = super().multipliers(model)
        return replace(base, branch=self._depth(model) ** -0.5)

    def update(self, site: Site, model: ModelConfig) -> Update:
        """Hidden matrices learn at 1/(m sqrt n)."""
        base = super().update(site, model)
        if site.role not in HIDDEN:
            return base
        root = self._depth(model) ** 0.5
        return Update(lr=base.lr / root, weight_decay=base.weight_decay * root)

    def promises(self, axis: Axis) -> Mapping[str, float]:
        """Nothing changes with the width; with the depth what a branch writes falls, and gains learn faster."""
        if axis == "width":
            return super().promises(axis)
        return dict.fromkeys(_KEPT, 0.0) | {"branch": -0.5, "gains' rate": 0.5}


class CompletePConfig(_DepthTransfer):
    """CompleteP: every layer keeps learning features as depth grows (alpha = 1)."""

    type: Literal["completep"]
    alpha: float = Field(default=1.0, ge=0.5, le=1.0)
    """Branches are multiplied by n^-alpha."""

    def multipliers(self, model: ModelConfig) -> Multipliers:
        """As muP's, and branches by n^-alpha."""
        base = super().multipliers(model)
        return replace(base, branch=self._depth(model) ** -self.alpha)

    def update(self, site: Site, model: ModelConfig) -> Update:
        """Within the blocks, rates by n^(alpha-1) and epsilon by n^-alpha; matrices as in muP."""
        if site.layer is None:
            return Update(eps=1 / self._width(model))
        m, n = self._width(model), self._depth(model)
        rate, eps = n ** (self.alpha - 1), n**-self.alpha / m
        if site.role in HIDDEN:
            return Update(lr=rate / m, weight_decay=m, eps=eps)
        return Update(lr=rate, eps=eps)

    def promises(self, axis: Axis) -> Mapping[str, float]:
        """As muP's, epsilon too; with the depth what a branch writes falls, and with alpha < 1 the decay a step."""
        if axis == "width":
            return {**super().promises(axis), "epsilon": 0.0}
        return dict.fromkeys(_KEPT, 0.0) | {"branch": -self.alpha, "decay": self.alpha - 1, "epsilon": 0.0}


class UnitMuPConfig(Scheme):
    """u-muP: unit scales, so that no base width has to be chosen."""

    type: Literal["u_mup"]
    residual_ratio: float = Field(default=1.0, gt=0)
    """How loud all branches together are beside the embedding."""

    def rules(self, model: ModelConfig) -> Rules:
        """Role -> rule."""
        why = "the paper draws N(0, 1) and multiplies the product by fan_in^-1/2"
        hidden = by_fan_in(why=why)
        return decoder_rules(fixed(1.0), hidden, hidden, fixed(1.0))

    def multipliers(self, model: ModelConfig) -> Multipliers:
        """Logits by 1/d_model, attention by 1/head_dim, branches by (2 L)^-1/2."""
        head_dim = model.mixer.heads(model.d_model).head_dim
        branch = self.residual_ratio * (2 * model.n_layers) ** -0.5
        return Multipliers(logits=1 / model.d_model, attention=head_dim**-0.5, branch=branch)

    def update(self, site: Site, model: ModelConfig) -> Update:
        """Hidden matrices fan_in^-1 (fan_in^-1/2 of the paper's, and its multiplier), (2 L)^-1/2 in the blocks.

        The paper's norms have no gains; here they learn like rows of the embedding, also of size 1: at the head's rate,
        of order 1, they would change by their own size in every step.
        """
        if site.role in HIDDEN:
            lr = (2 * model.n_layers) ** -0.5 / site.fan_in
        elif site.role == Role.HEAD:
            lr = 1.0
        else:
            lr = model.d_model**-0.5
        return Update(lr=lr, weight_decay=1 / lr)

    def promises(self, axis: Axis) -> Mapping[str, float]:
        """As muP's, but rows of the embedding and gains learn at d^-1/2; with the depth as depth-muP's."""
        if axis == "width":
            return dict.fromkeys(_KEPT, 0.0) | {"embedding's rate": -0.5, "gains' rate": -0.5}
        return dict.fromkeys(_KEPT, 0.0) | {"branch": -0.5, "gains' rate": 0.5}
