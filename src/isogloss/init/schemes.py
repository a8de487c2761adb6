"""Schemes: role -> rule, with their sources. The whole recipe of a scheme can be read here or in parametrisations.py.

With d the width, f the hidden width, l the layer from 0, L the layers; "cut" is at three of a rule's own standard
deviations, others are not cut. Norms' gains are 1.

================== ============= ================= ========================= ============================= ==========
scheme             embedding     q, k, v           o                         gate, up | down               head
================== ============= ================= ========================= ============================= ==========
lingua             d^-.5 cut     d^-.5 cut         d^-.5/F cut               d^-.5 | f^-.5/F cut           d^-.5 cut
lingua_before      the same      d^-.5/F           d^-.5/F                   d^-.5/F | f^-.5/F             d^-.5 cut
gpt2               .02           .02               .02/sqrt(2L)              .02 | .02/sqrt(2L)            .02
megatron           s_e           s                 s/sqrt(2L)                s | s/sqrt(2L)                s
gpt_neox           sqrt(2/5d)    sqrt(2/5d)        2/(L sqrt d)              sqrt(2/5d) | 2/(L sqrt d)     sqrt(2/5d)
spike_no_more      1             sqrt(2/5d)        sqrt(2/5d)/sqrt(2L)       the same                      sqrt(2/5d)
torchtitan_llama3  1             .02               .02/sqrt(2(l+1))          .02, **up as down** | as o    d^-.5 cut
olmo_mitchell      d^-.5 cut     d^-.5 cut         d^-.5/sqrt(2(l+1))        d^-.5 | f^-.5/sqrt(2(l+1))    d^-.5 cut
olmo_normal        .02 cut       .02 cut           .02 cut                   .02 cut                       .02 cut
olmo_core_llama    1             .02 cut           .02/sqrt(2L)              .02, **up as down** | as o    d^-.5 cut
open_lm            d^-.5 cut     d^-.5 cut         d^-.5/sqrt(2(l+1))        d^-.5 | f^-.5/sqrt(2(l+1))    d^-.5 cut
hf_default         .02           .02               .02                       .02                           .02
t5                 1             (d C)^-.5, d^-.5  (H C)^-.5                 d^-.5 | f^-.5                 d^-.5
palm               1             d^-.5             (H C)^-.5                 d^-.5 | f^-.5                 d^-.5
nanochat           .8            d^-.5 uniform     0                         .4 d^-.5 uniform | 0          .001
deepnorm           d^-.5 x sqrt d  Xavier, v /(8L)^.25  Xavier/(8L)^.25      Xavier/(8L)^.25               d^-.5
spectral           1             fan_in^-.5 min(1, sqrt(fan_out/fan_in)) for every matrix
================== ============= ================= ========================= ============================= ==========

F = 1 (disabled), sqrt(2(L+1)) (global), sqrt(2(l+1)) (current), d/4096 (dim_ratio: narrower models get *wider*
writers). Where Meta Lingua's code differs from its row it is a slip there: its cut of o is that of the undivided std,
and its base_std never reaches embedding and head.
"""

import math
from dataclasses import replace
from typing import Annotated, Literal

from pydantic import Field

from isogloss.config.base import UserError
from isogloss.init.formulas import (
    Formula,
    Rules,
    by_fan_in,
    by_width,
    constant,
    decoder_rules,
    depth,
    depth_so_far,
    divided,
    fixed,
    uniform_by_fan_in,
    xavier,
)
from isogloss.init.parametrisations import CompletePConfig, MuPConfig, MuPDepthConfig, UnitMuPConfig
from isogloss.init.rules import Normal
from isogloss.init.scheme import Scheme
from isogloss.models.registry import ModelConfig
from isogloss.nn.multipliers import Multipliers
from isogloss.nn.roles import Site

UP_IS_A_READER = "a slip of the source, kept: up_proj reads the stream, and is scaled by depth like a writer"


class _Lingua(Scheme):
    depth_factor: Literal["disabled", "global", "current", "dim_ratio"] = "global"
    """F: disabled 1, global sqrt(2(n_layers+1)), current sqrt(2(layer+1)), dim_ratio d_model/4096."""
    base_std: float | None = Field(default=None, ge=0)
    """Standard deviation of every matrix before the depth factor; fan_in^-1/2 if not given."""
    embedding_std: float | None = Field(default=None, ge=0)
    """Standard deviation of the embedding; base_std, or d_model^-1/2, if not given."""
    cut: float | None = Field(default=3.0, gt=0)
    """Normals are cut at so many standard deviations; null for no cut."""
    compensated: bool = False
    """Widen normals before the cut, so that they have their nominal standard deviation after it."""

    def _base(self) -> Formula:
        return by_fan_in(self.cut) if self.base_std is None else fixed(self.base_std, self.cut)

    def _embedding(self) -> Formula:
        stds = [std for std in (self.embedding_std, self.base_std) if std is not None]
        return fixed(stds[0], self.cut) if stds else by_width(self.cut)

    def _factor(self, model: ModelConfig, site: Site) -> tuple[float, str]:
        match self.depth_factor:
            case "global":
                return math.sqrt(2 * (site.n_layers + 1)), f"sqrt(2*({site.n_layers}+1))"
            case "current":
                return depth_so_far(site)
            case _:  # dim_ratio
                return model.d_model / 4096, f"({model.d_model}/4096)"

    def _divided(self, model: ModelConfig, why: str = "") -> Formula:
        if self.depth_factor == "disabled":
            return self._base()
        return divided(self._base(), lambda site: self._factor(model, site), why)

    def _finished(self, rules: Rules) -> Rules:
        """With the choice of compensation."""
        return {role: _compensated(formula) if self.compensated else formula for role, formula in rules.items()}


def _compensated(formula: Formula) -> Formula:
    def rule(site: Site):
        found = formula(site)
        return replace(found, compensated=True) if isinstance(found, Normal) else found

    return rule


class LinguaConfig(_Lingua):
    """Meta Lingua, corrected (its commit 341ab03): only writers of the stream are divided by the depth factor."""

    type: Literal["lingua"] = "lingua"

    def rules(self, model: ModelConfig) -> Rules:
        """Role -> rule."""
        base = self._base()
        return self._finished(decoder_rules(self._embedding(), base, self._divided(model), base))


class LinguaBeforeConfig(_Lingua):
    """Meta Lingua before its correction: the depth factor divides readers as well. A defect, kept to be shown."""

    type: Literal["lingua_before"] = "lingua_before"

    def rules(self, model: ModelConfig) -> Rules:
        """Role -> rule."""
        reader = self._divided(model, "the defect: a reader of the residual stream, scaled by depth like a writer")
        return self._finished(decoder_rules(self._embedding(), reader, self._divided(model), self._base()))


class GPT2Config(Scheme):
    """GPT-2 (Radford et al. 2019, section 2.3), as in nanoGPT."""

    type: Literal["gpt2"]

    def rules(self, model: ModelConfig) -> Rules:
        """Role -> rule."""
        base = fixed(0.02)
        return decoder_rules(base, base, divided(base, depth), base)


class MegatronConfig(Scheme):
    """Megatron-LM (core/utils.py, scaled_init_method_normal)."""

    type: Literal["megatron"]
    std: float = Field(default=0.02, gt=0)
    """Its init_method_std."""
    embedding_std: float | None = Field(default=None, gt=0)
    """Its embedding_init_method_std; std if not given."""

    def rules(self, model: ModelConfig) -> Rules:
        """Role -> rule."""
        base = fixed(self.std)
        return decoder_rules(fixed(self.embedding_std or self.std), base, divided(base, depth), base)


def _small_init(model: ModelConfig) -> Formula:
    """sqrt(2 / (5 d)) (Nguyen and Salazar 2019)."""
    d = model.d_model
    return lambda site: Normal(math.sqrt(2 / (5 * d)), f"sqrt(2/(5*{d}))", None)


class GPTNeoXConfig(Scheme):
    """GPT-NeoX: small init for readers, Wang init 2 / (L sqrt d) for writers (Black et al. 2022, section 2.1)."""

    type: Literal["gpt_neox"]

    def rules(self, model: ModelConfig) -> Rules:
        """Role -> rule."""
        small, d = _small_init(model), model.d_model

        def wang(site: Site) -> Normal:
            return Normal(2 / site.n_layers / math.sqrt(d), f"2/({site.n_layers}*sqrt({d}))", None)

        return decoder_rules(small, small, wang, small)


class SpikeNoMoreConfig(Scheme):
    """Spike no more (Takase et al. 2024): small sublayers, and an embedding whose rows have RMS 1."""

    type: Literal["spike_no_more"]

    def rules(self, model: ModelConfig) -> Rules:
        """Role -> rule."""
        small = _small_init(model)
        return decoder_rules(fixed(1.0), small, divided(small, depth), small)


class TorchTitanLlama3Config(Scheme):
    """torchtitan's Llama 3 (models/llama3, commit b5bcd76). Its truncation at +-2 absolute cuts nothing."""

    type: Literal["torchtitan_llama3"]

    def rules(self, model: ModelConfig) -> Rules:
        """Role -> rule."""
        writer = divided(fixed(0.02), depth_so_far)
        up = divided(fixed(0.02), depth_so_far, UP_IS_A_READER)
        gated = {"ffn_up": up} if model.ffn.type == "swiglu" else {}
        return decoder_rules(fixed(1.0), fixed(0.02), writer, by_fan_in(3.0), **gated)


class OLMoMitchellConfig(Scheme):
    """OLMo 1 (Groeneveld et al. 2024; init_fn mitchell)."""

    type: Literal["olmo_mitchell"]

    def rules(self, model: ModelConfig) -> Rules:
        """Role -> rule."""
        base = by_fan_in(3.0)
        return decoder_rules(by_width(3.0), base, divided(base, depth_so_far), base)


class OLMoNormalConfig(Scheme):
    """OLMo 2 (2025, section 3.1): 0.02 everywhere; its blocks norm the branches' output and QK (model.norm=output)."""

    type: Literal["olmo_normal"]

    def rules(self, model: ModelConfig) -> Rules:
        """Role -> rule."""
        base = fixed(0.02, 3.0)
        return decoder_rules(base, base, base, base)


class OLMoCoreLlamaConfig(Scheme):
    """OLMo-core's init method llama (nn/transformer/init.py, commit fa6c501), dense models."""

    type: Literal["olmo_core_llama"]

    def rules(self, model: ModelConfig) -> Rules:
        """Role -> rule."""
        base = fixed(0.02, 3.0)
        gated = {"ffn_up": divided(base, depth, UP_IS_A_READER)} if model.ffn.type == "swiglu" else {}
        return decoder_rules(fixed(1.0), base, divided(base, depth), by_fan_in(3.0), **gated)


class OpenLMConfig(Scheme):
    """OpenLM (open_lm/model.py)."""

    type: Literal["open_lm"]

    def rules(self, model: ModelConfig) -> Rules:
        """Role -> rule."""
        base = by_fan_in(3.0)
        return decoder_rules(by_width(3.0), base, divided(base, depth_so_far), base)


class HFDefaultConfig(Scheme):
    """transformers' default (PreTrainedModel._init_weights, initializer_range 0.02)."""

    type: Literal["hf_default"]

    def rules(self, model: ModelConfig) -> Rules:
        """Role -> rule."""
        base = fixed(0.02)
        return decoder_rules(base, base, base, base)


class T5Config(Scheme):
    """T5 (Raffel et al. 2020; Mesh TensorFlow's): no 1/sqrt(C) in attention, the queries' scale holds it instead."""

    type: Literal["t5"]

    def rules(self, model: ModelConfig) -> Rules:
        """Role -> rule."""
        head_dim, base = model.mixer.heads(model.d_model).head_dim, by_fan_in()
        query = divided(base, lambda site: (math.sqrt(head_dim), f"sqrt({head_dim})"))
        why = "transformers drew 1 for an untied head here (its pull request 26441)"
        return decoder_rules(fixed(1.0), base, base, by_fan_in(why=why), query=query)

    def multipliers(self, model: ModelConfig) -> Multipliers:
        """Attention's logits undivided; a tied head reads d_model^-1/2 of the stream."""
        head_dim = model.mixer.heads(model.d_model).head_dim
        return Multipliers(attention=math.sqrt(head_dim), logits=model.d_model**-0.5 if model.tied_head else 1.0)


class PaLMConfig(Scheme):
    """PaLM (Chowdhery et al. 2022, section 5)."""

    type: Literal["palm"]

    def rules(self, model: ModelConfig) -> Rules:
        """Role -> rule."""
        base = by_fan_in()
        return decoder_rules(fixed(1.0), base, base, base)

    def multipliers(self, model: ModelConfig) -> Multipliers:
        """A tied head reads d_model^-1/2 of the stream."""
        return Multipliers(logits=model.d_model**-0.5 if model.tied_head else 1.0)


class NanochatConfig(Scheme):
    """nanochat (gpt.py, commit 92d63d4): writers start at zero, so every block starts as the identity.

    Its scales alone: the norm after its embedding, 1.2 on queries and keys, and scalars on the stream are not modelled.
    """

    type: Literal["nanochat"]

    def rules(self, model: ModelConfig) -> Rules:
        """Role -> rule."""
        reader, up = uniform_by_fan_in(), uniform_by_fan_in(0.4)
        return decoder_rules(fixed(0.8), reader, constant(0.0), fixed(0.001), ffn_gate=up, ffn_up=up)


class DeepNormConfig(Scheme):
    """DeepNorm for decoders (Wang et al. 2022, figure 2): needs model.norm=post."""

    type: Literal["deepnorm"]

    def rules(self, model: ModelConfig) -> Rules:
        """Role -> rule."""
        if model.norm != "post":
            raise UserError(f"init.type deepnorm is for post-norm blocks; set model.norm from {model.norm} to post")
        n = model.n_layers
        quiet, plain = xavier((8 * n) ** -0.25, f"/(8*{n})^0.25"), xavier()
        return decoder_rules(by_width(), quiet, quiet, by_fan_in(), query=plain, key=plain)

    def multipliers(self, model: ModelConfig) -> Multipliers:
        """Alpha = (2 L)^1/4 of the stream, sqrt(d_model) of the embedding."""
        return Multipliers(residual=(2 * model.n_layers) ** 0.25, embedding=math.sqrt(model.d_model))


class SpectralConfig(Scheme):
    """The spectral condition (Yang, Simon and Bernstein 2023, equation 9): every matrix maps RMS 1 to RMS 1."""

    type: Literal["spectral"]

    def rules(self, model: ModelConfig) -> Rules:
        """Role -> rule."""

        def rule(site: Site) -> Normal:
            ratio = min(1.0, math.sqrt(site.fan_out / site.fan_in))
            return Normal(
                site.fan_in**-0.5 * ratio, f"{site.fan_in}^-0.5*min(1,sqrt({site.fan_out}/{site.fan_in}))", None
            )

        return decoder_rules(rule, rule, rule, rule)


SchemeConfig = Annotated[
    LinguaConfig
    | LinguaBeforeConfig
    | GPT2Config
    | MegatronConfig
    | GPTNeoXConfig
    | SpikeNoMoreConfig
    | TorchTitanLlama3Config
    | OLMoMitchellConfig
    | OLMoNormalConfig
    | OLMoCoreLlamaConfig
    | OpenLMConfig
    | HFDefaultConfig
    | T5Config
    | PaLMConfig
    | NanochatConfig
    | DeepNormConfig
    | SpectralConfig
    | MuPConfig
    | MuPDepthConfig
    | CompletePConfig
    | UnitMuPConfig,
    Field(discriminator="type"),
]
