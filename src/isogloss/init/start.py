"""Signals of a start against what a start should be: what makes it loud, and the setting to change."""

import math
from collections.abc import Iterator, Mapping

from isogloss.init.plan import Entry
from isogloss.init.scheme import Scheme
from isogloss.init.signals import Signals
from isogloss.models.registry import ModelConfig
from isogloss.nn.roles import Role

EXCESS = 1.0
"""Nats that the loss may begin above ln V: an untied head of logits of std 1 begins 0.5 above it."""
LOUD = 2.0
"""Standard deviation of logits, of attention or of the output, above which a softmax is near one-hot at the start.

Quiet ones are sound: attention begins as an average, the output at ln V.
"""


def start_warnings(signals: Signals, config: ModelConfig, scheme: Scheme, plan: Mapping[str, Entry]) -> tuple[str, ...]:
    """What is wrong with a start, one sentence each: what was found, what does it, what to change.

    Args:
        signals: predicted, or measured at the start.
        config: of the model, vocabulary resolved.
        scheme: that made the plan.
        plan: of the model.
    """
    return tuple(_warnings(signals, config, scheme, plan))


def _warnings(signals: Signals, config: ModelConfig, scheme: Scheme, plan: Mapping[str, Entry]) -> Iterator[str]:
    assert config.vocab_size is not None
    stds = {entry.site.role: entry.rule.effective_std for entry in reversed(list(plan.values()))}
    floor = math.log(config.vocab_size)
    found = f"the loss starts at {signals.loss:.4g}, {signals.loss - floor:.3g} above ln V, with logits of std"
    # Not below: a number that is not finite is loud.
    loud_output = not (signals.loss <= floor + EXCESS and signals.logit_std <= LOUD)
    if loud_output and config.tied_head:
        std = _quiet_embedding(signals, config, scheme, stds[Role.EMBEDDING])
        yield (
            f"{found} {signals.logit_std:.3g}: the head is tied to an embedding of std {stds[Role.EMBEDDING]:.3g}, so "
            f"that each token predicts itself; {_setting(scheme, {'embedding_std': std})} or model.tied_head=false"
        )
    elif loud_output:
        std, by = stds[Role.HEAD], max(signals.logit_std, 1e-300)
        values = {name: getattr(scheme, name, None) for name in ("output_multiplier", "base_std", "std")}
        smaller = {name: value / by for name, value in values.items() if value}
        yield (
            f"{found} {signals.logit_std:.3g}: head.weight has std {std:.3g}, d_model^-1/2 is "
            f"{config.d_model**-0.5:.3g}; {_setting(scheme, smaller)} or model.logit_softcap"
        )
    loudest = max(signals.attention_logit_std)
    if not loudest <= LOUD:
        layer = signals.attention_logit_std.index(loudest)
        values = {name: getattr(scheme, name, None) for name in ("base_std", "std")}
        what, instead = (
            f"queries and keys have std {stds[Role.QUERY]:.3g} and {stds[Role.KEY]:.3g}",
            "model.mixer.qk_norm=true",
        )
        smaller = {name: value / math.sqrt(loudest) for name, value in values.items() if value}
        if config.mixer.qk_norm:
            times = scheme.multipliers(config).attention
            what, instead, smaller = (
                f"qk_norm undoes their std, and {_name(scheme)} multiplies them by {times:.3g}",
                "model.mixer.qk_norm=false",
                {},
            )
        elif config.norm in ("post", "output") and signals.stream[layer] > LOUD:
            what += f", and read a stream of RMS {signals.stream[layer]:.3g}"
        yield (
            f"attention logits of layer {layer} start with std {loudest:.3g}, near one-hot: {what}; "
            f"{_setting(scheme, smaller)} or {instead}"
        )
    if signals.stream[-1] == 0 and not any(signals.gradient):
        yield "no weight can learn: the embedding and the head start at 0; give one of them a std"


def _name(scheme: Scheme) -> str:
    return f"init.type={getattr(scheme, 'type', type(scheme).__name__)}"


def _setting(scheme: Scheme, values: Mapping[str, float]) -> str:
    """The first of these settings that the scheme has, at its proposed value; else another scheme."""
    known = [name for name in values if name in type(scheme).model_fields]
    if not known:
        return f"choose another scheme than {_name(scheme)}"
    return f"set init.{known[0]}={values[known[0]]:.1g}"


def _quiet_embedding(signals: Signals, config: ModelConfig, scheme: Scheme, std: float) -> float:
    """A std at which a token's own logit is half of ln V at most, and the others' 1; all else as it is.

    ``own = k s^2 / sqrt(e^2 s^2 + b^2)`` with b what the branches add to the stream, k = e d c.
    """
    m, depth = scheme.multipliers(config), 2 * config.n_layers
    d, wanted = config.d_model * m.logits, math.log(config.vocab_size or 1) / 2
    e = m.embedding * m.residual**depth
    added = 0.0 if config.norm == "post" else max(0.0, signals.stream[-1] ** 2 - (e * std) ** 2)
    e = 1.0 if config.norm == "post" else e
    square = (wanted * e) ** 2 + math.sqrt((wanted * e) ** 4 + (2 * e * d * wanted) ** 2 * added)
    return min(math.sqrt(square / 2) / (e * d), config.d_model**-0.5 / m.logits)
