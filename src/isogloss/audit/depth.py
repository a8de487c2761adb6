"""How the scale of each kind of parameter depends on depth: on the number of layers, and on the layer.

One model cannot tell ``0.02/sqrt(2 L)`` from another constant, so two are built, of different depth. A kind is scaled
by depth where ``ln(s' / s)``, over the layers both have, is farther from 0 than sampling explains and than ``LEAST``,
or where ``ln s`` changes so with ``ln(layer + 1)``. The error of ``ln s`` over n elements of kurtosis k is
``sqrt((k - 1) / (4 n))``.
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from isogloss.audit.findings import Finding, Severity, kind_of, layer_of
from isogloss.audit.roles import infer_roles
from isogloss.audit.trace import Trace
from isogloss.init.repetition import CHUNK, sidak
from isogloss.nn.roles import Role

LEAST = 0.1
"""Exponent of the depth below which a std counts as constant: the slowest known rule is DeepNorm's L^-1/4."""
DEEPNORM = -0.25
"""DeepNorm's exponent of the depth, for decoders (Wang et al. 2022, figure 2)."""
DEEPNORM_ROLES = (Role.VALUE, Role.FFN_GATE, Role.FFN_UP)
"""What it scales by depth beside writers."""


@dataclass(frozen=True)
class Spread:
    """Of one parameter's numbers: how many, their standard deviation, and the error of its logarithm."""

    n: int
    std: float
    error: float


@dataclass(frozen=True)
class Trend:
    """A std that changes with depth: which way, and the numbers that show it."""

    grows: bool
    text: str


@dataclass(frozen=True)
class Scaling:
    """How one kind's std changes.

    Args:
        std: of the first layer, in the model as named.
        by_depth: ``ln`` of the std's ratio between the second model and the first, with its error.
        by_layer: the slope of ``ln std`` on ``ln(layer + 1)``, with its error.
    """

    std: float
    by_depth: tuple[float, float] | None
    by_layer: tuple[float, float] | None

    def exponent(self, depths: tuple[int, int] | None) -> float | None:
        """Of the number of layers."""
        if self.by_depth is None or depths is None:
            return None
        return self.by_depth[0] / math.log(depths[1] / depths[0])

    def trend(self, depths: tuple[int, int] | None, threshold: float) -> Trend | None:
        """How the std changes with depth, in either direction; ``None`` where it does not."""
        if self.by_layer is not None and abs(self.by_layer[0]) > max(LEAST, threshold * self.by_layer[1]):
            slope, error = self.by_layer
            verb = "grows" if slope > 0 else "falls"
            return Trend(
                slope > 0, f"std {verb} with the layer as (l+1)^{slope:.3f} (+- {error:.3f}), from {self.std:.4g}"
            )
        exponent = self.exponent(depths)
        if exponent is None or abs(exponent) < LEAST or self._within_error(threshold):
            return None
        return Trend(exponent > 0, f"{self._measured(depths)}, as L^{exponent:.2f}")

    def constancy(self, depths: tuple[int, int] | None, threshold: float) -> str:
        """In words, what was measured of a std without a trend."""
        exponent = self.exponent(depths)
        if exponent is None or (abs(exponent) < LEAST and self._within_error(threshold)):
            return f"std {self.std:.4g} at any depth"
        return self._measured(depths)

    def _within_error(self, threshold: float) -> bool:
        return self.by_depth is not None and abs(self.by_depth[0]) <= threshold * self.by_depth[1]

    def _measured(self, depths: tuple[int, int] | None) -> str:
        assert self.by_depth is not None
        assert depths is not None
        (change, error), (first, second) = self.by_depth, depths
        ratio = math.exp(change)
        return (
            f"std {self.std:.4g} with {first} layers and {self.std * ratio:.4g} with {second}: "
            f"{ratio:.4f} +- {ratio * error:.4f}"
        )


@torch.no_grad()
def spread(tensor: Tensor) -> Spread:
    """The moments of a parameter's numbers."""
    flat = tensor.detach().reshape(-1)
    n = flat.numel()
    mean = sum(float(chunk.double().sum()) for chunk in flat.split(CHUNK)) / max(n, 1)
    m2 = m4 = 0.0
    for chunk in flat.split(CHUNK):
        x = (chunk.double() - mean).square()
        m2, m4 = m2 + float(x.sum()), m4 + float(x.square().sum())
    std = math.sqrt(m2 / n) if n else 0.0
    kurtosis = n * m4 / m2**2 if m2 > 0 else 3.0
    return Spread(n, std, math.sqrt(max(kurtosis - 1, 1e-6) / (4 * max(n, 1))))


def scalings(first: Mapping[str, Spread], second: Mapping[str, Spread] | None) -> dict[str, Scaling]:
    """For each kind of parameter that layers have."""
    kinds: dict[str, dict[int, str]] = {}
    for name, found in first.items():
        if (layer := layer_of(name)) is not None and found.std > 0:
            kinds.setdefault(kind_of(name), {})[layer] = name
    out = {}
    for kind, names in kinds.items():
        changes = [
            (math.log(second[name].std / first[name].std), math.hypot(first[name].error, second[name].error))
            for name in names.values()
            if second is not None and name in second and second[name].std > 0
        ]
        slope = _slope([(math.log(layer + 1), first[name]) for layer, name in names.items()])
        out[kind] = Scaling(first[names[min(names)]].std, _mean(changes) if changes else None, slope)
    return out


def depth_findings(
    trace: Trace, found: Mapping[str, Scaling], depths: tuple[int, int] | None, growth: str
) -> Iterator[Finding]:
    """I01 and I17 for readers that change with depth, I02 for writers that do not fall with it."""
    threshold = sidak(2 * len(found))
    trends = {kind: trend for kind, s in found.items() if (trend := s.trend(depths, threshold)) is not None}
    falls = {kind for kind, trend in trends.items() if not trend.grows}
    writers = {kind_of(name) for name in trace.writers} & found.keys()
    inner = {kind_of(name) for name in trace.products} & found.keys() - writers
    lone_ups: set[str] = set()
    for name in trace.writers:
        branch = trace.products[name].branch
        ups, gates = ({kind_of(n) for n in names & branch} for names in (trace.ups, trace.gates))
        if kind_of(name) in falls and not gates & falls:
            lone_ups |= ups & falls
    deepnorm = _deepnorm(trace, found, depths) & falls
    for kind in sorted(inner & trends.keys()):
        evidence = trends[kind].text
        if kind in lone_ups:
            yield Finding(
                "I17",
                Severity.ERROR,
                kind,
                evidence,
                "the std of the gate: it reads the stream",
                "scale down_proj alone by depth; w3 of SwiGLU is not a writer",
            )
        elif kind in deepnorm:
            yield Finding(
                "I01",
                Severity.NOTE,
                kind,
                evidence,
                "(8 L)^-1/4 in DeepNorm, whose norms follow the addition as here; elsewhere no dependence on depth",
                "moot where DeepNorm is meant",
            )
        else:
            what = "reads the stream" if kind in {kind_of(n) for n in trace.readers} else "does not write to the stream"
            yield Finding(
                "I01",
                Severity.ERROR,
                kind,
                evidence,
                f"no dependence on depth: it {what}",
                "divide only what is added to the stream (o_proj, down_proj) by sqrt(2 L)",
            )
    half = ", ".join(sorted(writers & falls))
    for kind in sorted(writers - falls):
        if any(w.normed for w in trace.writes if kind in {kind_of(name) for name in w.writers}):
            continue
        if kind in trends:
            yield Finding(
                "I02",
                Severity.ERROR,
                kind,
                trends[kind].text,
                f"std/sqrt(2 L), or the same at any depth; {growth}",
                "divide by sqrt(2 L) where it is multiplied",
            )
        elif found[kind].by_depth is not None:
            yield Finding(
                "I02",
                Severity.WARNING if half else Severity.NOTE,
                kind,
                found[kind].constancy(depths, threshold) + (f"; {half} is scaled" if half else ""),
                f"std/sqrt(2 L), or branches multiplied by less; {growth}",
                "moot where norms follow the branches, or where depth stays small",
            )


def _deepnorm(trace: Trace, found: Mapping[str, Scaling], depths: tuple[int, int] | None) -> set[str]:
    """Kinds beside writers that change as DeepNorm has it, where norms follow additions."""
    if not trace.is_post_norm:
        return set()
    scaled = {kind_of(name) for name, role in infer_roles(trace).items() if role in DEEPNORM_ROLES}
    exponents = {kind: e for kind in scaled & found.keys() if (e := found[kind].exponent(depths)) is not None}
    return {kind for kind, exponent in exponents.items() if abs(exponent - DEEPNORM) < LEAST}


def _mean(changes: list[tuple[float, float]]) -> tuple[float, float]:
    weights = [1 / error**2 for _, error in changes]
    total = sum(weights)
    return sum(w * x for w, (x, _) in zip(weights, changes, strict=True)) / total, total**-0.5


def _slope(points: list[tuple[float, Spread]]) -> tuple[float, float] | None:
    """Weighted least squares; where a line does not fit, the error grows with the misfit."""
    if len(points) < 3:
        return None
    w = [1 / s.error**2 for _, s in points]
    total = sum(w)
    mean_x = sum(a * x for a, (x, _) in zip(w, points, strict=True)) / total
    mean_y = sum(a * math.log(s.std) for a, (_, s) in zip(w, points, strict=True)) / total
    sxx = sum(a * (x - mean_x) ** 2 for a, (x, _) in zip(w, points, strict=True))
    slope = sum(a * (x - mean_x) * math.log(s.std) for a, (x, s) in zip(w, points, strict=True)) / sxx
    rest = sum(a * (math.log(s.std) - mean_y - slope * (x - mean_x)) ** 2 for a, (x, s) in zip(w, points, strict=True))
    return slope, sxx**-0.5 * math.sqrt(max(1.0, rest / (len(points) - 2)))
