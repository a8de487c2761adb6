"""How the scale of each kind of parameter depends on depth: on the number of layers, and on the layer.

One model cannot tell ``0.02/sqrt(2 L)`` from another constant, so two are built, of different depth. A kind is scaled
by depth where ``ln(s' / s)``, over the layers both have, is farther from 0 than sampling explains and than ``LEAST``,
or where ``ln s`` falls so with ``ln(layer + 1)``. The error of ``ln s`` over n elements of kurtosis k is
``sqrt((k - 1) / (4 n))``.
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from isogloss.audit.findings import Finding, Severity, kind_of, layer_of
from isogloss.audit.stream import Trace
from isogloss.init.repetition import CHUNK, sidak

LEAST = 0.1
"""Exponent of the depth below which a std counts as constant: the slowest known rule is DeepNorm's L^-1/4."""


@dataclass(frozen=True)
class Spread:
    """Of one parameter's numbers: how many, their standard deviation, and the error of its logarithm."""

    n: int
    std: float
    error: float


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

    def falls(self, depths: tuple[int, int] | None, threshold: float) -> str | None:
        """In words, how the std falls with depth; ``None`` where it does not."""
        if self.by_layer is not None and self.by_layer[0] < -max(LEAST, threshold * self.by_layer[1]):
            slope, error = self.by_layer
            return f"std falls with the layer as (l+1)^{slope:.3f} (+- {error:.3f}), from {self.std:.4g}"
        if self.by_depth is None or depths is None:
            return None
        (change, error), (first, second) = self.by_depth, depths
        exponent = change / math.log(second / first)
        if exponent < -LEAST and abs(change) > threshold * error:
            ratio = math.exp(change)
            return (
                f"std {self.std:.4g} with {first} layers and {self.std * ratio:.4g} with {second}: "
                f"{ratio:.4f} +- {ratio * error:.4f}, as L^{exponent:.2f}"
            )
        return None


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
    """I01 and I17 for readers that fall with depth, I02 for writers that do not."""
    threshold = sidak(2 * len(found))
    falls = {kind: text for kind, s in found.items() if (text := s.falls(depths, threshold)) is not None}
    writers = {kind_of(name) for name in trace.writers} & found.keys()
    inner = {kind_of(name) for name in trace.products} & found.keys() - writers
    lone_ups: set[str] = set()
    for name in trace.writers:
        branch = trace.products[name].branch
        ups, gates = ({kind_of(n) for n in names & branch} for names in (trace.ups, trace.gates))
        if kind_of(name) in falls and not gates & falls.keys():
            lone_ups |= ups & falls.keys()
    for kind in sorted(inner & falls.keys()):
        if kind in lone_ups:
            yield Finding(
                "I17",
                Severity.ERROR,
                kind,
                falls[kind],
                "the std of the gate: it reads the stream",
                "scale down_proj alone by depth; w3 of SwiGLU is not a writer",
            )
        else:
            what = "reads the stream" if kind in {kind_of(n) for n in trace.readers} else "does not write to the stream"
            yield Finding(
                "I01",
                Severity.ERROR,
                kind,
                falls[kind],
                f"no dependence on depth: it {what}",
                "divide only what is added to the stream (o_proj, down_proj) by sqrt(2 L)",
            )
    for kind in sorted(writers - falls.keys()):
        normed = any(w.normed for w in trace.writes if kind in {kind_of(name) for name in w.writers})
        scaling = found[kind]
        if normed or scaling.by_depth is None:
            continue
        half = bool(writers & falls.keys())
        others = f"; {', '.join(sorted(writers & falls.keys()))} is scaled" if half else ""
        yield Finding(
            "I02",
            Severity.WARNING if half else Severity.NOTE,
            kind,
            f"std {scaling.std:.4g} at any depth{others}",
            f"std/sqrt(2 L), or branches multiplied by less; {growth}",
            "moot where norms follow the branches, or where depth stays small",
        )


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
