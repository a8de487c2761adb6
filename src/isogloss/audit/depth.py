"""How the scale of each kind of parameter depends on depth: on the number of layers, and on the layer.

One model cannot tell ``0.02/sqrt(2 L)`` from another constant, so two are built, of different depth. A kind is scaled
by depth where ``ln(s' / s)``, over the layers both have, is farther from 0 than sampling explains and than ``LEAST``,
or where ``ln s`` changes so with ``ln(layer + 1)``.
"""

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from isogloss.audit.findings import Finding, Severity, container_of, kind_of, layer_of
from isogloss.audit.roles import infer_roles
from isogloss.audit.spread import Spread
from isogloss.audit.trace import Trace
from isogloss.init.repetition import sidak
from isogloss.nn.roles import Role

LEAST = 0.1
"""Exponent of the depth below which a std counts as constant: the slowest known rule is DeepNorm's L^-1/4."""
DEEPNORM = -0.25
"""DeepNorm's exponent of the depth, for decoders (Wang et al. 2022, figure 2)."""
DEEPNORM_ROLES = (Role.VALUE, Role.FFN_GATE, Role.FFN_UP)
"""What it scales by depth beside writers."""


@dataclass(frozen=True)
class Trend:
    """A std that changes with depth: which way, the numbers that show it, and whether with the layer alone."""

    grows: bool
    text: str
    by_layer: bool


@dataclass(frozen=True)
class Scaling:
    """How one kind's std changes.

    Args:
        std: of the first layer, in the model as named.
        by_depth: ``ln`` of the std's ratio between the second model and the first, with its error.
        by_layer: the slope of ``ln std`` on ``ln(layer + 1)``, with its error, of the model with more such layers;
            ``None`` if there are fewer than three.
        deepened: whether the list of layers that it stands in has another length in the second model.
    """

    std: float
    by_depth: tuple[float, float] | None
    by_layer: tuple[float, float] | None
    deepened: bool = True

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
            text = f"std {verb} with the layer as (l+1)^{slope:.3f} (+- {error:.3f}), from {self.std:.4g}"
            return Trend(slope > 0, text, by_layer=True)
        exponent = self.exponent(depths)
        if exponent is None or abs(exponent) < LEAST or self._within_error(threshold):
            return None
        return Trend(exponent > 0, f"{self._measured(depths)}, as L^{exponent:.2f}", by_layer=False)

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


def scalings(
    first: Mapping[str, Spread], second: Mapping[str, Spread] | None, shared: bool = False
) -> dict[str, Scaling]:
    """For each kind of parameter that layers have.

    Args:
        first: of the model as named.
        second: of the one of another depth.
        shared: the depth is how often the same layers are run.
    """
    kinds, others = _by_kind(first), _by_kind(second or {})
    lengths, other_lengths = _lengths(first), _lengths(second or {})
    out = {}
    for kind, layers in kinds.items():
        changes = [
            (math.log(after.std / before.std), math.hypot(before.error, after.error))
            for layer, before in layers.items()
            if (after := others.get(kind, {}).get(layer)) is not None
        ]
        most = max(layers, others.get(kind, {}), key=len)
        slope = _slope([(math.log(layer + 1), found) for layer, found in most.items()])
        container = container_of(kind)
        deepened = shared or lengths[container] != other_lengths.get(container)
        out[kind] = Scaling(layers[min(layers)].std, _mean(changes) if changes else None, slope, deepened)
    return out


def _by_kind(spreads: Mapping[str, Spread]) -> dict[str, dict[int, Spread]]:
    """Of each kind that layers have, the layers where it is not constant."""
    kinds: dict[str, dict[int, Spread]] = {}
    for name, found in spreads.items():
        if (layer := layer_of(name)) is not None and found.std > 0:
            kinds.setdefault(kind_of(name), {})[layer] = found
    return kinds


def _lengths(names: Iterable[str]) -> dict[str, int]:
    """How many layers each list of layers has."""
    layers: dict[str, set[int]] = {}
    for name in names:
        if (layer := layer_of(name)) is not None:
            layers.setdefault(container_of(kind_of(name)), set()).add(layer)
    return {container: len(numbers) for container, numbers in layers.items()}


def not_deeper(first: Iterable[str], second: Iterable[str], depths: tuple[int, int]) -> bool:
    """Whether the parameters of the model with more layers are not more, by the names of both."""
    few, many = (first, second) if depths[0] < depths[1] else (second, first)
    shallow, deep = _lengths(few), _lengths(many)
    return not any(n > shallow.get(container, 0) for container, n in deep.items())


def depth_findings(
    trace: Trace, found: Mapping[str, Scaling], depths: tuple[int, int] | None, growth: str
) -> Iterator[Finding]:
    """I01 and I17 for readers that change with depth, I02 for writers that do not fall with it."""
    threshold = sidak(2 * len(found))
    trends = {kind: trend for kind, s in found.items() if (trend := s.trend(depths, threshold)) is not None}
    falls = {kind for kind, trend in trends.items() if not trend.grows}
    writers = {kind_of(name) for name in trace.writers - trace.unattributed} & found.keys()
    inner = {kind_of(name) for name in trace.inner} & found.keys() - writers
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
    skipped = _too_few(found, trends, writers)
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
        elif found[kind].by_depth is not None and found[kind].deepened and kind not in skipped:
            yield Finding(
                "I02",
                Severity.WARNING if half else Severity.NOTE,
                kind,
                found[kind].constancy(depths, threshold) + (f"; {half} is scaled" if half else ""),
                f"std/sqrt(2 L), or branches multiplied by less; {growth}",
                "moot where norms follow the branches, or where depth stays small",
            )


def unjudged_kinds(
    trace: Trace, found: Mapping[str, Scaling], depths: tuple[int, int] | None
) -> Iterator[tuple[str, bool]]:
    """What of depth was not judged; and whether that is a limit of the audit, not a gap in this one."""
    if not found:
        return
    threshold = sidak(2 * len(found))
    trends = {kind: trend for kind, s in found.items() if (trend := s.trend(depths, threshold)) is not None}
    writers = {kind_of(name) for name in trace.writers - trace.unattributed} & found.keys()
    inner = {kind_of(name) for name in trace.inner} & found.keys()
    if not writers | inner:
        yield (
            "no addition to the stream was found that a matrix of a layer writes: nothing about depth was judged",
            False,
        )
        return
    gates = {kind_of(name) for name in trace.unattributed} & found.keys() - writers - inner
    if gates:
        yield f"the scale of what is multiplied onto the stream, or hidden in an operation: {_listed(gates)}", True
    if unknown := found.keys() - writers - inner - gates:
        text = "no addition to the stream was found that they lead to, so their dependence on depth was not judged"
        yield f"{_listed(unknown)}: {text}", False
    if skipped := _too_few(found, trends, writers):
        reason = "in fewer than three layers, where other writers follow the layer"
        yield f"the dependence on the layer of {_listed(skipped)}: {reason}", True
    if fixed := {kind for kind in writers - trends.keys() if not found[kind].deepened}:
        yield f"the dependence on depth of {_listed(fixed)}: in as many layers at either depth", True


def _listed(kinds: Iterable[str]) -> str:
    return ", ".join(sorted(kinds))


def _too_few(found: Mapping[str, Scaling], trends: Mapping[str, Trend], writers: set[str]) -> set[str]:
    """Writers that stand in too few layers to follow the layer, where those that fall do."""
    falling = [trends[kind] for kind in writers & trends.keys() if not trends[kind].grows]
    if not falling or not all(trend.by_layer for trend in falling):
        return set()
    return {kind for kind in writers - trends.keys() if found[kind].by_layer is None}


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
