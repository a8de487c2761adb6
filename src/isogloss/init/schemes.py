"""Schemes: role -> rule. The whole recipe of a scheme can be read on this page.

``lingua`` is Meta Lingua's initialisation as corrected in its pull request 47: only what writes into the residual
stream is scaled by depth. ``lingua_before`` is what it was before: the factor divided queries, keys, values and the
inputs of the feed-forward network too. It is kept so that the defect can be shown.

With d the width, f the fan-in, l the layer from 0, L the layers and s = base_std (fan-in^-1/2 if not given):

=================== ============================ =======================
role                lingua                       lingua_before
=================== ============================ =======================
embedding           embedding_std or s, d^-1/2   the same
query, key, value   s                            s / F
attention_out       s / F                        s / F
ffn_gate, ffn_up    s                            s / F
ffn_down            s / F                        s / F
head                s                            s
norm_gain           1                            1
=================== ============================ =======================

F = 1 (disabled), sqrt(2 (L + 1)) (global), sqrt(2 (l + 1)) (current), d / 4096 (dim_ratio: narrower models get *wider*
writers). All normals are cut at three of their own standard deviations. Where Lingua's code differs from this page it
is a slip there: its cut of attention_out is that of the undivided std, and its base_std never reaches embedding and
head.
"""

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Annotated, Literal

from pydantic import Field

from isogloss.config.base import Config
from isogloss.init.rules import Constant, Normal, Rule
from isogloss.nn.roles import Role, Site

Rules = dict[Role, Callable[[Site], Rule]]


class _LinguaBase(Config):
    depth_factor: Literal["disabled", "global", "current", "dim_ratio"] = "global"
    """F: disabled 1, global sqrt(2(n_layers+1)), current sqrt(2(layer+1)), dim_ratio d_model/4096."""
    base_std: float | None = Field(default=None, ge=0)
    """Standard deviation of every matrix before the depth factor; fan_in^-1/2 if not given."""
    embedding_std: float | None = Field(default=None, ge=0)
    """Standard deviation of the embedding; base_std, or d_model^-1/2, if not given."""

    def _embedding(self, site: Site) -> Rule:
        d_model = site.fan_out
        for std in (self.embedding_std, self.base_std):
            if std is not None:
                return Normal(std, f"{std:g}")
        return Normal(d_model**-0.5, f"{d_model}^-0.5")

    def _plain(self, site: Site) -> Normal:
        if self.base_std is not None:
            return Normal(self.base_std, f"{self.base_std:g}")
        return Normal(site.fan_in**-0.5, f"{site.fan_in}^-0.5")

    def _scaled(self, site: Site, d_model: int) -> Normal:
        plain = self._plain(site)
        assert site.layer is not None, f"{site.name} stands in no layer"
        match self.depth_factor:
            case "disabled":
                return plain
            case "global":
                factor, text = math.sqrt(2 * (site.n_layers + 1)), f"sqrt(2*({site.n_layers}+1))"
            case "current":
                factor, text = math.sqrt(2 * (site.layer + 1)), f"sqrt(2*({site.layer}+1))"
            case "dim_ratio":
                factor, text = d_model / 4096, f"({d_model}/4096)"
        return Normal(plain.std / factor, f"{plain.text}/{text}")

    def _gain(self, site: Site) -> Rule:
        return Constant(1.0, "1")

    def _writer(self, site: Site) -> Rule:
        return self._scaled(site, d_model=site.fan_out)


class LinguaConfig(_LinguaBase):
    """Meta Lingua, corrected: only writers of the residual stream are divided by the depth factor."""

    type: Literal["lingua"] = "lingua"

    def rules(self) -> Rules:
        """Role -> rule."""
        return {
            Role.EMBEDDING: self._embedding,
            Role.QUERY: self._plain,
            Role.KEY: self._plain,
            Role.VALUE: self._plain,
            Role.ATTENTION_OUT: self._writer,
            Role.FFN_GATE: self._plain,
            Role.FFN_UP: self._plain,
            Role.FFN_DOWN: self._writer,
            Role.HEAD: self._plain,
            Role.NORM_GAIN: self._gain,
        }


class LinguaBeforeConfig(_LinguaBase):
    """Meta Lingua before its correction: the depth factor divides readers as well. A defect, kept to be shown."""

    type: Literal["lingua_before"] = "lingua_before"

    def rules(self) -> Rules:
        """Role -> rule."""
        return {
            Role.EMBEDDING: self._embedding,
            Role.QUERY: self._reader,
            Role.KEY: self._reader,
            Role.VALUE: self._reader,
            Role.ATTENTION_OUT: self._writer,
            Role.FFN_GATE: self._reader,
            Role.FFN_UP: self._reader,
            Role.FFN_DOWN: self._writer,
            Role.HEAD: self._plain,
            Role.NORM_GAIN: self._gain,
        }

    def _reader(self, site: Site) -> Rule:
        why = "the defect: a reader of the residual stream, scaled by depth like a writer"
        return replace(self._scaled(site, d_model=site.fan_in), why=why)


SchemeConfig = Annotated[LinguaConfig | LinguaBeforeConfig, Field(discriminator="type")]
Scheme = LinguaConfig | LinguaBeforeConfig
