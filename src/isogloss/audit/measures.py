"""Measures of a forward pass, taken as its operations go by: norms, gates, attention logits and decays.

A norm is a product with the inverse root of a power (``x rsqrt(p + eps)``) or a division by the root
(``x / sqrt(p + eps)``); its gain stands before it or after.
"""

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from isogloss.audit.trace import Decay, Norm, Tag, Trace

ATTENTION = "_scaled_dot_product"
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
        self.n_tokens = 0

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
        if base in ("softplus", "logaddexp"):
            marks.add("step")
            self.steps[self.where[-1]] = float(out.float().median())
        if base in NONLINEAR:
            marks.add("activated")
        if base.startswith(ATTENTION):
            self._attention(inputs, named)
            return replace(made, marks=frozenset(marks - {"normed", "activated"} | {"attention"}), pair=None)
        if base == "bmm":
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
            marks -= {"normed", "activated", "softmax"}
            marks |= {"attention"}
            return replace(made, pair=None)
        return replace(made, pair=(a.sources, b.sources))

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
        """Keeps the greatest std of a module's, over those that no mask hides."""
        seen = logits[logits > torch.finfo(logits.dtype).min / 2].float()
        name, std = self.where[-1], float(seen.std()) if seen.numel() > 1 else 0.0
        self.trace.attention[name] = max(std, self.trace.attention.get(name, 0.0))

    def _multiplied(self, made: Tag, base: str, inputs: list[Tensor], out: Tensor, marks: set[str]) -> Tag:
        """A norm and its gain, a gate and what it gates, or a rate and a step; of divisions, only a norm."""
        for x, y in (inputs, inputs[::-1]) if base == "mul" else (inputs,):
            a, b = self.tag(x), self.tag(y)
            if a is None or b is None:
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
            if "step" in a.marks and bool((out <= 0).all()):
                self._decay(a.params | b.params, out)
                marks.add("time")
            if a.live and b.live and "activated" in a.marks and "activated" not in b.marks:
                # A fused gate and up is halved; an activation that multiplies by its own input is no gate.
                own = a.sources & b.sources
                gates = {s for s in a.sources if s not in own or out.shape[-1] < self.trace.products[s].n_out}
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

    def _decay(self, params: frozenset[str], rate: Tensor) -> None:
        """The first product of a rate and a step in a module, averaged over rows and tokens."""
        name, shape = self.where[-1], rate.shape
        if name in self.trace.decays or self.n_tokens not in shape[1:-1]:
            return
        slowest = -rate.float().mean((0, shape.index(self.n_tokens, 1))).max()
        self.trace.decays[name] = Decay(params, float(slowest), self.steps.get(name, 0.0))

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
