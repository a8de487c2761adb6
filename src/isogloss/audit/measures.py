"""Measures of a forward pass, taken as its operations go by: norms, gates, attention logits and decays.

A norm is a product with the inverse root of a power (``x rsqrt(p + eps)``) or a division by the root
(``x / sqrt(p + eps)``); its gain stands before it or after.
"""

import math
from collections.abc import Callable
from dataclasses import replace
from statistics import median
from typing import Any

import torch
from torch import Tensor

from isogloss.audit.trace import Decay, Norm, Tag, Trace, made_of

ATTENTION = ("_scaled_dot_product", "flex_attention")
BOUNDED = frozenset(("sigmoid", "softmax", "_softmax", "_safe_softmax", "hardsigmoid", "hardtanh"))
MULTIPLIES = frozenset(("mul", "div"))
NONLINEAR = frozenset(("silu", "gelu", "relu", "sigmoid", "tanh", "mish", "leaky_relu", "elu", "hardswish"))
OVER_TIME = frozenset(("convolution", "cumsum", "logcumsumexp"))
ROOTS = frozenset(("root", "inverse_root"))
"""Marks that pass only what has one input."""


class Measures:
    """Fills the trace's measures.

    Args:
        trace: to fill.
        tag: of a tensor.
        where: the modules at work, the innermost last.
    """

    def __init__(self, trace: Trace, tag: Callable[[Tensor], Tag | None], where: list[str]) -> None:
        self.trace, self.tag, self.where = trace, tag, where
        self.steps: dict[str, float] = {}
        self.n_rows = self.n_tokens = 0

    def marked(self, made: Tag, base: str, named: dict[str, Any], inputs: list[Tensor], out: Tensor) -> Tag:
        """The tag of what an operation made, with what the operation itself adds to it.

        Args:
            made: with what its inputs were made of.
            base: the operation.
            named: its arguments.
            inputs: the tensors among them.
            out: its first output.
        """
        marks = set(made.marks)
        if base in OVER_TIME:
            marks |= {"time"}
            marks -= {"step"}
        if base == "topk":
            self.trace.routers |= made.sources
        n_tagged = sum(self.tag(x) is not None for x in inputs)
        summed = sum(x.numel() > 1 for x in inputs) > 1 and base not in MULTIPLIES
        if summed or out.numel() < inputs[0].numel():
            marks -= {"step", "negated"}  # a sum of steps is no step
            made = replace(made, marks=frozenset(marks))
        if n_tagged == 1:
            had_step = "step" in marks
            marks = marks - {"step", "negated"} | self.recurrent_marks(base, [made], named, out)
            if "step" in marks and not had_step:
                self.steps[self.where[-1]] = float(out.float().abs().median())
        if base in BOUNDED:
            marks.add("bounded")
        if base in NONLINEAR:
            marks.add("activated")
        if base.startswith(ATTENTION):
            self._attention(inputs, named)
            marks = marks - {"normed", "activated", "bounded"} | {"attention"}
            return replace(made, marks=frozenset(marks), pair=None, carried=0, writes=frozenset())
        if base in ("bmm", "mm", "baddbmm") and len(inputs) > 1:
            made = self._activations(made, inputs, marks)
        if base in ("_softmax", "_safe_softmax") and made.pair is not None:
            self.trace.queries |= made.pair[0]
            self.trace.keys |= made.pair[1]
            self._logits(inputs[0])
            self.trace.n_heads = max(self.trace.n_heads, out.shape[1] if out.ndim == 4 else 1)
            marks.add("softmax")
        roots = _roots(base, named, marks)
        if not (marks | roots) & ROOTS:
            adds = base == "add" and len(inputs) == 1 and _is_positive(named.get("other"))
            made = replace(made, power=(float(inputs[0].double().mean()), float(named["other"])) if adds else None)
        marks |= roots
        if base in ("mul", "div") and len(inputs) == 2:
            made = self._multiplied(made, base, inputs, out, marks)
        if base in ("native_layer_norm", "_fused_rms_norm"):
            self._native_norm(base, named)
            marks.add("normed")
        return replace(made, marks=frozenset(marks))

    def _activations(self, made: Tag, inputs: list[Tensor], marks: set[str]) -> Tag:
        """A product of two activations: attention logits, or what attention reads."""
        a, b = self.tag(inputs[0]), self.tag(inputs[1])
        if a is None or b is None or not (a.live and b.live):
            return made
        if "softmax" in a.marks:
            self.trace.values |= b.sources
            marks -= {"normed", "activated", "softmax", "bounded"}
            marks |= {"attention"}
            return replace(made, pair=None, carried=0, writes=frozenset())
        return replace(made, pair=(a.sources, b.sources), carried=0, writes=frozenset())

    def _attention(self, inputs: list[Tensor], named: dict[str, Any]) -> None:
        q, k, v = inputs[:3]
        for x, names in ((q, self.trace.queries), (k, self.trace.keys), (v, self.trace.values)):
            if (tag := self.tag(x)) is not None:
                names |= tag.sources
        scale = named.get("scale") or q.shape[-1] ** -0.5
        logits = scale * (q.float() @ k.repeat_interleave(q.shape[1] // k.shape[1], 1).float().mT)
        mask = next((x for key in ("attn_mask", "attn_bias") if (x := named.get(key)) is not None), None)
        if mask is not None:
            logits = logits.masked_fill(~mask, -math.inf) if mask.dtype == torch.bool else logits + mask
        if named.get("is_causal"):
            logits = logits.masked_fill(torch.ones_like(logits, dtype=torch.bool).triu(1), -math.inf)
        self._logits(logits)
        self.trace.n_heads = max(self.trace.n_heads, q.shape[1])

    def _logits(self, logits: Tensor) -> None:
        """Keep the greatest std of a module's: the median over heads, of those logits that no mask hides."""
        heads = logits.transpose(0, 1) if logits.ndim == 4 else logits[None]
        seen = [head[head > torch.finfo(head.dtype).min / 2].float() for head in heads]
        stds = [float(x.std()) for x in seen if x.numel() > 1]
        name, std = self.where[-1], median(stds) if stds else 0.0
        self.trace.attention[name] = max(std, self.trace.attention.get(name, 0.0))

    def _multiplied(self, made: Tag, base: str, inputs: list[Tensor], out: Tensor, marks: set[str]) -> Tag:
        """A norm and its gain, a gate and what it gates, or a rate and a step; of divisions, only a norm."""
        for x, y in (inputs, inputs[::-1]) if base == "mul" else (inputs,):
            a, b = self.tag(x), self.tag(y)
            if a is None or b is None or not (b.live or b.params):
                continue
            if a.live and ("inverse_root" if base == "mul" else "root") in b.marks and y.numel() < x.numel():
                self._normed(a, b, marks)
                made = replace(made, gain=None, power=None)
            if base == "div":
                continue
            if a.live and not b.live and y.numel() == x.shape[-1]:
                if "ungained" in a.marks:
                    self._gain(*_range(y))
                    marks.discard("ungained")
                else:
                    made = replace(made, gain=(b.params, *_range(y)))
            if self.is_rate(a, x, b, y, out):
                marks |= {"time"}
                marks -= {"step", "negated"}
            if a.live and b.live and "activated" in a.marks and "activated" not in b.marks:
                # A fused gate and up is halved; an activation that multiplies by its own input is no gate.
                own = a.sources & b.sources
                gates = {s for s in a.sources if s not in own or out.shape[-1] < self.trace.products[s].n_out}
                self.trace.fused |= gates & own
                self.trace.gates |= {s for s in gates if self.trace.products[s].reads_stream}
                self.trace.ups |= {s for s in b.sources if self.trace.products[s].reads_stream} - a.sources
                marks.discard("activated")
        return made

    def _normed(self, x: Tag, root: Tag, marks: set[str]) -> None:
        """A gain that is no part of the power was there before: ``w x / root``; else it may follow."""
        marks.add("normed")
        if x.gain is not None and not x.gain[0] & root.params:
            self._gain(*x.gain[1:])
        else:
            marks.add("ungained")
        if root.power is not None:
            self._norm_eps(*root.power)

    def recurrent_marks(self, base: str, given: list[Tag], named: dict[str, Any], out: Tensor) -> set[str]:
        """The marks of steps and rates of a recurrence: a softplus, an exponential of parameters, their negatives.

        An exponential of a negative step is a decay, and is measured.
        """
        marks = {mark for mark in ("step", "negated") if any(mark in tag.marks for tag in given)}
        if len(given) > 1 and base not in MULTIPLIES:
            return set()
        if base == "exp" and marks == {"step", "negated"}:
            self._decay(made_of(given), _real(named["self"]), None)
            return set()
        small = not out.is_complex() and not any(tag.live for tag in given) and bool(((out > 0) & (out < 1)).all())
        if base in ("softplus", "logaddexp", "log1p") or (base == "exp" and small):
            return {"step"}
        if base == "log_sigmoid_forward":
            return {"step", "negated"}
        by = named.get("other")
        if marks and (base == "neg" or (base in ("mul", "div") and isinstance(by, int | float) and by < 0)):
            marks ^= {"negated"}
        return marks

    def is_rate(self, a: Tag, x: Tensor, b: Tag, y: Tensor, out: Tensor) -> bool:
        """Whether the product of two tensors is that of a step and a negative rate; if so, measure it."""
        if "step" not in a.marks or not bool((_real(out) <= 0).all()):
            return False
        if not bool((_real(x) < 0).any()) and not bool((_real(y) < 0).any()) and "negated" not in a.marks | b.marks:
            return False  # zero by chance
        is_step = not b.live and not x.is_complex() and bool((x >= 0).all())
        self._decay(a.params | b.params, _real(out), x if is_step else None)
        return True

    def _decay(self, params: frozenset[str], rate: Tensor, step: Tensor | None) -> None:
        """The first product of a rate and a step in a module.

        Over rows and tokens the mean share that is forgotten is taken, over what one head or channel has more of
        (states) the slowest, and over heads or channels the median.
        """
        name = self.where[-1]
        if name in self.trace.decays:
            return
        # A token that resets the state forgets all of it, not more: shares are averaged, not rates.
        rates = -torch.log1p(-self._over_time(-torch.expm1(rate.double())))
        if rates.ndim > 1:
            rates = rates.flatten(1).min(1).values
        listed = () if step is None else tuple(self._over_time(step.float()).flatten().sort().values.tolist())
        self.trace.decays[name] = Decay(params, float(rates.median()), self.steps.get(name, 0.0), listed)

    def _over_time(self, x: Tensor) -> Tensor:
        """The mean over rows and tokens, where there are such axes."""
        times = [i for i, n in enumerate(x.shape) if n == self.n_tokens and i > 0]
        if len(times) > 1:
            self.trace.ambiguous = True
        if times:
            return x.mean((0, times[0]))
        in_a_loop = x.ndim > 1 and x.shape[0] == self.n_rows
        return x.mean(0) if in_a_loop else x

    def _gain(self, low: float, high: float) -> None:
        self.trace.norms.setdefault(self.where[-1], Norm()).gain = (low, high)

    def _norm_eps(self, power: float, eps: float) -> None:
        norm = self.trace.norms.setdefault(self.where[-1], Norm())
        norm.power, norm.eps = power, eps
        norm.eps_share = eps / power if power else math.inf

    def _native_norm(self, base: str, named: dict[str, Any]) -> None:
        x, weight, eps = named["input"], named.get("weight"), named.get("eps")
        power = x.double().var(-1, correction=0) if base == "native_layer_norm" else x.double().square().mean(-1)
        if weight is not None:
            self._gain(*_range(weight))
        self._norm_eps(float(power.mean()), eps if eps is not None else torch.finfo(x.dtype).eps)


def rms(x: Tensor) -> float:
    """Root mean square over all elements."""
    return math.sqrt(float(x.detach().double().square().mean()))


def _real(x: Tensor) -> Tensor:
    return x.real if x.is_complex() else x


def _range(weights: Tensor) -> tuple[float, float]:
    return float(weights.float().min()), float(weights.float().max())


def _is_positive(x: Any) -> bool:
    return isinstance(x, int | float) and x > 0


def _roots(base: str, named: dict[str, Any], marks: set[str]) -> set[str]:
    """The mark of an operation that takes a root, or the inverse of one."""
    exponent = named.get("exponent")
    exponent = exponent if isinstance(exponent, int | float) else None  # a tensor is no root
    if base == "rsqrt" or exponent == -0.5 or (base == "reciprocal" and "root" in marks):
        return {"inverse_root"}
    return {"root"} if base in ("sqrt", "std") or exponent == 0.5 else set()
