"""What a forward pass at initialisation shows: norms, gates, attention, recurrences, the loss. I09 and I11 to I14."""

import math
from collections.abc import Iterator, Mapping

from isogloss.audit.findings import Finding, Severity
from isogloss.audit.spread import Spread
from isogloss.audit.trace import Trace

LINEAR_GATE = 0.25
"""Std of a gate's input below which silu(x) is x/2 and the gate lets through half of everything."""
SATURATED = 2.0
"""Std of attention logits beyond which one key takes most of a query's weight."""
SMALL_EPS, LARGE_EPS = 0.01, 0.1
EXCESS_LOSS = 1.0
"""Nats above ln V: logits of std 1.4."""
SHORT_MEMORY, LONG_MEMORY = 2.0, 1e5
"""Half-lives in tokens: within one or two words, and beyond every context."""
MIN_STEPS = 16
WIDE_RANGE = 10.0
"""Of the largest step over the smallest, from which uniform and log-uniform differ."""
NEARER = 0.6
"""Of one distance to the other, below which a sample is of one distribution and not of the other."""
KOLMOGOROV = 1.95
"""The distance, times the root of n, that a sample of the distribution itself exceeds one time in a thousand."""


def signal_findings(trace: Trace, spreads: Mapping[str, Spread]) -> Iterator[Finding]:
    """All of them."""
    yield from _norms(trace)
    yield from _recurrences(trace)
    yield from _loss(trace, spreads)
    yield from _gates(trace)


def growth(trace: Trace) -> str:
    """How the stream grows, measured, and what that predicts for another depth."""
    if not trace.writes:
        return "no additions to the stream were found"
    first, last, n = trace.writes[0].stream, trace.writes[-1].stream, len(trace.writes)
    start = math.sqrt(max(first**2 - trace.writes[0].write ** 2, 0.0))
    deeper = math.sqrt(max(2 * last**2 - start**2, 0.0))
    return f"stream {start:.3g} -> {last:.3g} in {n} additions, predicted {deeper:.3g} in {2 * n}"


def _norms(trace: Trace) -> Iterator[Finding]:
    for name, norm in trace.norms.items():
        if norm.gain is not None and max(abs(g - 1) for g in norm.gain) > 1e-6:
            low, high = norm.gain
            found = f"{low:g}" if low == high else f"{low:g} .. {high:g}"
            yield Finding(
                "I09",
                Severity.WARNING,
                name,
                f"effective gain {found}",
                "1 (a weight of 0 where 1 + weight is used)",
                "moot where a branch is meant to start quiet",
            )
        if norm.eps_share > SMALL_EPS:
            severity = Severity.WARNING if norm.eps_share > LARGE_EPS else Severity.NOTE
            evidence = f"epsilon {norm.eps:g} is {norm.eps_share:.2g} of the input's power, {norm.power:.3g}"
            yield Finding(
                "I14", severity, name, evidence, f"below {SMALL_EPS:g}", "a smaller epsilon, or a louder embedding"
            )


def _recurrences(trace: Trace) -> Iterator[Finding]:
    for name, decay in trace.decays.items():
        half_life = math.log(2) / decay.rate if decay.rate > 0 else math.inf
        leaves = ", ".join(sorted(parameter.removeprefix(f"{name}.") for parameter in decay.params)) or "constants"
        step = f", its median step is {decay.step:.3g}" if decay.step else ""
        if half_life < SHORT_MEMORY:
            yield Finding(
                "I11",
                Severity.WARNING,
                name,
                f"with {leaves} half of the channels forget half in {half_life:.2g} tokens{step}",
                "some channels that remember hundreds: Mamba's steps are log-uniform in 0.001 .. 0.1, "
                "RG-LRU's decays in 0.9 .. 0.999",
                "initialise through the inverse of softplus; moot where a checkpoint is loaded",
            )
        elif half_life > LONG_MEMORY:
            said = (
                f"half of the channels keep more than half for {half_life:.2g} tokens" if half_life < math.inf else ""
            )
            yield Finding(
                "I11",
                Severity.WARNING,
                name,
                f"with {leaves} the state does not decay{': ' if said else ''}{said}{step}",
                f"a half-life below {LONG_MEMORY:g} tokens in half of the channels",
                "initialise through the inverse of softplus; look for a logarithm that was taken twice",
            )
        if (spread := _uniform_steps(decay.steps)) is not None:
            yield Finding(
                "I11",
                Severity.WARNING,
                f"{name} (steps)",
                f"the steps of {leaves} are uniform {spread}",
                "log-uniform: as many channels with a long memory as with a short one",
                "exp(uniform(log(dt_min), log(dt_max))), then the inverse of softplus",
            )


def _uniform_steps(steps: tuple[float, ...]) -> str | None:
    """The range and the median of steps that are nearer to a uniform distribution than to a log-uniform one.

    Both have the ends of the steps themselves, without a twentieth at each; the distance is Kolmogorov's. Few steps, or
    those in a narrow range, are of no known distribution.
    """
    cut = len(steps) // 20
    steps = steps[cut : len(steps) - cut]
    n = len(steps)
    low, high = (steps[0], steps[-1]) if n else (0.0, 0.0)
    if n < MIN_STEPS or low <= 0 or high < WIDE_RANGE * low:
        return None
    uniform = [(s - low) / (high - low) for s in steps]
    log_uniform = [math.log(s / low) / math.log(high / low) for s in steps]
    to_uniform, to_log_uniform = (
        max(abs(x - i / (n - 1)) for i, x in enumerate(quantiles)) for quantiles in (uniform, log_uniform)
    )
    if to_uniform < NEARER * to_log_uniform and to_log_uniform > KOLMOGOROV / math.sqrt(n):
        return f"in {low:.3g} .. {high:.3g}, with the median {steps[n // 2]:.3g}"
    return None


def _loss(trace: Trace, spreads: Mapping[str, Spread]) -> Iterator[Finding]:
    if trace.loss is None or trace.loss - math.log(trace.n_vocab) < EXCESS_LOSS:
        return
    base = math.log(trace.n_vocab)
    evidence = f"{trace.loss:.4g} nats; ln {trace.n_vocab} is {base:.4g}; logits have the std {trace.logit_std:.3g}"
    if trace.head in spreads and trace.head in trace.products:
        head, std = trace.products[trace.head], spreads[trace.head].std
        predicted = std * math.sqrt(head.n_in) * head.rms_in
        evidence += f", predicted {std:.3g} sqrt({head.n_in}) x {head.rms_in:.3g} = {predicted:.3g}"
    expected = "ln V + s^2/2 with logits of std s <= 1"
    yield Finding(
        "I12", Severity.WARNING, trace.head or "logits", evidence, expected, "a head of std d^-1/2, or scaled logits"
    )


def _gates(trace: Trace) -> Iterator[Finding]:
    for name in sorted(trace.gates):
        product = trace.products[name]
        if 0 < product.rms_out < LINEAR_GATE and "time" not in product.marks:
            yield Finding(
                "I13",
                Severity.NOTE,
                name,
                f"the gate's input has the size {product.rms_out:.3g}",
                f"std sqrt(d) >= {LINEAR_GATE}: the gate is linear below",
                f"a std of {product.n_in**-0.5:.2g} (d^-1/2)",
            )
    for name, std in trace.attention.items():
        if std > SATURATED:
            yield Finding(
                "I13",
                Severity.WARNING,
                name,
                f"attention logits of std {std:.3g}",
                f"below {SATURATED:g}",
                "smaller queries and keys, or QK-norm",
            )
