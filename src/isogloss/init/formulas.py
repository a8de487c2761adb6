"""The words that schemes are written in: functions from a parameter's site to its rule."""

import math
from collections.abc import Callable
from dataclasses import replace

from isogloss.init.rules import Constant, Normal, Rule, Uniform
from isogloss.nn.roles import Role, Site

Formula = Callable[[Site], Rule]
Rules = dict[Role, Formula]
Factor = Callable[[Site], tuple[float, str]]
"""A number and how it is written."""


def fixed(std: float, cut: float | None = None, why: str = "") -> Formula:
    """N(0, std^2)."""
    return lambda site: Normal(std, f"{std:g}", cut, why=why)


def by_fan_in(cut: float | None = None, scale: float = 1.0, why: str = "") -> Formula:
    """N(0, scale^2 / fan_in) (LeCun et al. 1998)."""
    text = "" if scale == 1.0 else f"{scale:g}*"
    return lambda site: Normal(scale * site.fan_in**-0.5, f"{text}{site.fan_in}^-0.5", cut, why=why)


def by_width(cut: float | None = None) -> Formula:
    """N(0, 1 / d_model), for embeddings: a row is read one at a time, its fan-in is 1."""
    return lambda site: Normal(site.fan_out**-0.5, f"{site.fan_out}^-0.5", cut)


def xavier(gain: float = 1.0, gain_text: str = "") -> Formula:
    """N(0, 2 gain^2 / (fan_in + fan_out)) (Glorot and Bengio 2010, equation 12)."""

    def rule(site: Site) -> Rule:
        std = gain * math.sqrt(2 / (site.fan_in + site.fan_out))
        return Normal(std, f"sqrt(2/({site.fan_in}+{site.fan_out})){gain_text}", None)

    return rule


def uniform_by_fan_in(scale: float = 1.0) -> Formula:
    """U with standard deviation scale / sqrt(fan_in)."""
    text = "" if scale == 1.0 else f"{scale:g}*"
    return lambda site: Uniform(scale * site.fan_in**-0.5, f"{text}{site.fan_in}^-0.5, uniform")


def constant(value: float, why: str = "") -> Formula:
    """The same value everywhere."""
    return lambda site: Constant(value, f"{value:g}", why)


def divided(formula: Formula, factor: Factor, why: str = "") -> Formula:
    """``formula`` over a factor of the site."""

    def rule(site: Site) -> Rule:
        found, (value, text) = formula(site), factor(site)
        assert isinstance(found, Normal | Uniform), "a constant is not scaled"
        return replace(found, std=found.std / value, text=f"{found.text}/{text}", why=why or found.why)

    return rule


def depth(site: Site) -> tuple[float, str]:
    """sqrt(2 L): two writers a layer (Radford et al. 2019, section 2.3)."""
    return math.sqrt(2 * site.n_layers), f"sqrt(2*{site.n_layers})"


def depth_so_far(site: Site) -> tuple[float, str]:
    """sqrt(2 (l + 1)): the writers up to this layer, counted from 0."""
    assert site.layer is not None, f"{site.name} stands in no layer"
    return math.sqrt(2 * (site.layer + 1)), f"sqrt(2*({site.layer}+1))"


def decoder_rules(
    embedding: Formula,
    reader: Formula,
    writer: Formula,
    head: Formula,
    **others: Formula,
) -> Rules:
    """The rules of a decoder's roles, gains at 1; ``others`` names roles that differ from what their kind has."""
    rules = {
        Role.EMBEDDING: embedding,
        **dict.fromkeys((Role.QUERY, Role.KEY, Role.VALUE, Role.FFN_GATE, Role.FFN_UP), reader),
        **dict.fromkeys((Role.ATTENTION_OUT, Role.FFN_DOWN), writer),
        Role.HEAD: head,
        Role.NORM_GAIN: constant(1.0),
    }
    return rules | {Role(name): formula for name, formula in others.items()}
