"""The audit of a model that is not ours: built, poisoned, initialised by its own rules, looked at, run once.

1. Built, and initialised by its own rules, in memory that holds NaN, with every write recorded (initialise.py).
2. Weights: still NaN, not finite, written twice, cut at the wrong place, repeated, correlated, drawn in 16 bits.
3. Built once more with another depth, which tells a scale that depends on depth from a constant.
4. One forward pass on random tokens, in float32: readers and writers of the stream, norms, gates, recurrences, loss.
5. Where matrices begin as zeros, a few steps: whether they can learn.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from torch import nn

from isogloss.audit.built import Target, count_layers
from isogloss.audit.depth import Scaling, depth_findings, not_deeper, scalings, unjudged_kinds
from isogloss.audit.expectation import mismatches
from isogloss.audit.findings import Finding, Severity, kind_of, merged
from isogloss.audit.initialise import initialise
from isogloss.audit.learning import cannot_learn, zero_matrices
from isogloss.audit.poison import wash
from isogloss.audit.roles import infer_roles
from isogloss.audit.running import Pass
from isogloss.audit.signals import growth, signal_findings
from isogloss.audit.spread import Spread, spread
from isogloss.audit.trace import Trace
from isogloss.audit.weights import (
    bounds,
    correlations,
    low_precision_dtypes,
    never_written,
    repetitions,
    written_wrongly,
)
from isogloss.audit.writes import is_random, tied_names
from isogloss.config.base import UserError
from isogloss.init.scheme import Scheme

DOUBLED_UP_TO = 8
"""Layers of a model whose second depth is twice the first; beyond, it is half."""
FEWEST = 3
"""Layers of the deeper model at least: fewer do not show what follows the layer."""
BY_A_PASS = "I01, I02, I09, I11 to I14, I17 and I19 were not looked for"


@dataclass(frozen=True)
class Row:
    """One kind of parameter, as the audit read it off the model."""

    kind: str
    role: str
    shape: tuple[int, ...]
    std: float
    scaling: Scaling | None


@dataclass
class Remarks:
    """Said beside the findings.

    Args:
        said: about this model, in order.
        limits: of the audit, on this model: what it never judges, and so "not judged".
        complete: nothing that the audit judges was left out.
    """

    said: list[str] = field(default_factory=list)
    limits: list[str] = field(default_factory=list)
    complete: bool = True

    def left_out(self, text: str) -> None:
        """Say what could not be judged."""
        self.said.append(text)
        self.complete = False


@dataclass(frozen=True)
class Audit:
    """The result of an audit.

    Args:
        target: its name.
        findings: the gravest first; layers that share one are merged.
        remarks: what could not be judged, and why.
        rows: the kinds of parameters that take part in products and lookups.
        depths: layers of the two models, where there were two.
        ran: whether its forward pass could be run.
        complete: whether all could be judged that an audit judges.
        limits: what an audit does not judge of such a model.
        raw: the findings, parameter by parameter.
    """

    target: str
    n_parameters: int
    findings: list[Finding]
    remarks: list[str]
    rows: list[Row]
    depths: tuple[int, int] | None
    ran: bool
    complete: bool = True
    limits: list[str] = field(default_factory=list)
    raw: list[Finding] = field(default_factory=list)

    @property
    def failed(self) -> bool:
        """Whether something is graver than a note, or half of the codes could not be looked for."""
        return not self.ran or any(finding.severity != Severity.NOTE for finding in self.findings)


def audit(target: Target, scheme: Scheme | None = None, max_bytes: int = 2**31) -> Audit:
    """Look at everything that can be looked at.

    Args:
        target: what builds the model.
        scheme: whose scales are expected.
        max_bytes: a larger model is refused; two are never held at once.

    Raises:
        UserError: the target cannot be built, or is too large.
    """
    made = initialise(target, None, max_bytes)
    model, remarks = made.built.model, Remarks()
    # Where ties come last, what was filled under the other names is gone.
    tied = {} if target.ties_last else {name: same for same in tied_names(model) for name in same}
    findings = [*made.groups, *never_written(model, made.writes)]
    once = {name: events for name, events in made.writes.items() if name not in tied or name == tied[name][0]}
    findings += [*written_wrongly(once, tied), *bounds(once)]
    tensors = {name: p.detach() for name, p in model.named_parameters() if p.is_floating_point()}
    random = {name: tensor for name, tensor in tensors.items() if is_random(made.writes[name])}
    findings += [*repetitions(random), *correlations(random)]
    spreads = _spreads(model)
    shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    n_parameters = sum(tensor.numel() for tensor in tensors.values())
    if made.by_constructor:
        remarks.said.append("the model has no init method of its own: what its constructor does was audited")
    if dtypes := low_precision_dtypes(model):
        listed = ", ".join(str(d).removeprefix("torch.") for d in dtypes)
        remarks.said.append(f"parameters are in {listed}; run in float32")
    if made.decayed:
        remarks.limits.append(f"whether weight decay is meant for {_some(made.decayed)}, which are norms or biases")
    if poisoned := {f.parameter for f in findings if f.code in ("I04", "I10", "I18")}:
        wash(model)
        remarks.left_out(f"run with zeros in the place of poison ({len(poisoned)} tensors): signals were not judged")
    forward = Pass(target, model)
    seen = forward.seen()
    if seen is None:
        remarks.left_out(f"{forward.failure}, so {BY_A_PASS}")
    else:
        _limits(seen, remarks)
        spreads |= _effective(seen)
    n_layers = target.n_layers(model)
    size = sum(t.numel() * t.element_size() for t in tensors.values())
    if seen is not None and not poisoned:
        findings += signal_findings(seen, spreads)
        findings += _learning(model, forward, remarks)
    del model, forward, tensors, random, made
    second, depths, deeper = _second_depth(target, n_layers, size, max_bytes, seen, shapes, remarks, findings)
    found = scalings(spreads, second, deeper)
    if seen is not None:
        products = {kind_of(name) for name in seen.products}
        in_products = {kind: s for kind, s in found.items() if kind in products}
        findings += depth_findings(seen, in_products, depths, growth(seen))
        for text, is_limit in unjudged_kinds(seen, in_products, depths):
            remarks.limits.append(text) if is_limit else remarks.left_out(text)
        if scheme is not None:
            n = n_layers or count_layers(shapes)
            findings += mismatches(seen, spreads, shapes, scheme, n)
    rows = _rows(seen, spreads, shapes, found)
    return Audit(
        target.name,
        n_parameters,
        merged(findings),
        remarks.said,
        rows,
        depths,
        seen is not None,
        remarks.complete,
        remarks.limits,
        findings,
    )


def _spreads(model: nn.Module) -> dict[str, Spread]:
    """Of every matrix whose numbers are finite."""
    found = {name: spread(p) for name, p in model.named_parameters() if p.ndim > 1 and p.is_floating_point()}
    return {name: s for name, s in found.items() if math.isfinite(s.std)}


def _effective(seen: Trace) -> dict[str, Spread]:
    """Of the factors that the forward pass computes from parameters."""
    return {name: p.effective for name, p in seen.products.items() if p.effective is not None}


def _some(names: list[str]) -> str:
    kinds = list(dict.fromkeys(kind_of(name) for name in names))
    return ", ".join(kinds[:3]) + (f" and {len(kinds) - 3} more kinds" if len(kinds) > 3 else "")


def _limits(seen: Trace, remarks: Remarks) -> None:
    if seen.fused:
        remarks.limits.append(f"parts of a fused matrix, one by one: {_some(sorted(seen.fused))}")
    if seen.convolutions:
        remarks.limits.append(f"the scale of a convolution beside its fan-in: {_some(sorted(seen.convolutions))}")


def _learning(model: nn.Module, forward: Pass, remarks: Remarks) -> list[Finding]:
    """I19; the model's weights are changed."""
    if not zero_matrices(model):
        return []
    try:
        return list(cannot_learn(model, forward.logits))
    except UserError as error:
        remarks.left_out(f"its backward pass failed ({error}), so I19 was not looked for")
        return []


def _second_depth(
    target: Target,
    n_layers: int | None,
    size: int,
    max_bytes: int,
    seen: Trace | None,
    shapes: Mapping[str, tuple[int, ...]],
    remarks: Remarks,
    findings: list[Finding],
) -> tuple[dict[str, Spread] | None, tuple[int, int] | None, bool]:
    """Scales of a model of another depth; none where it cannot be had; and whether it runs shared layers more often."""
    if n_layers is None:
        remarks.left_out(
            "its depth cannot be set: a scale that depends on the number of layers looks like any constant"
        )
        return None, None, False
    double = n_layers == 1 or (n_layers <= DOUBLED_UP_TO and 2 * size <= max_bytes)
    depths = n_layers, (max(2 * n_layers, FEWEST) if double else n_layers // 2)
    try:
        other = initialise(target, depths[1], max_bytes).built.model
    except UserError as error:
        remarks.left_out(
            f"it cannot be built with {depths[1]} layers ({error}): dependence on depth was not looked for"
        )
        return None, None, False
    spreads = _spreads(other)
    same = not_deeper(shapes, {name: tuple(p.shape) for name, p in other.named_parameters()}, depths)
    if seen is None or not (same or _effective(seen)):
        again = None
    else:
        wash(other)
        again = Pass(target, other).seen()
    if same and (again is None or seen is None or again.n_products == seen.n_products):
        evidence = f"with {depths[0]} and with {depths[1]} it has the same {count_layers(shapes)} layers"
        findings.append(_ignored(evidence))
        remarks.left_out("its second depth is not deeper: nothing about depth was judged")
        return None, None, False
    if seen is not None:
        computed = _effective(seen).keys()
        spreads = {name: s for name, s in spreads.items() if name not in computed}
        spreads |= {} if again is None else _effective(again)
    return spreads, depths, same


def _ignored(evidence: str) -> Finding:
    return Finding(
        "I20",
        Severity.WARNING,
        "depth",
        evidence,
        "as many layers as are asked for",
        "build the layers from the number of layers that is given",
    )


def _rows(
    seen: Trace | None, spreads: Mapping[str, Spread], shapes: Mapping[str, tuple[int, ...]], found: dict[str, Scaling]
) -> list[Row]:
    roles = infer_roles(seen) if seen is not None else {}
    rows: dict[str, Row] = {}
    for name, shape in shapes.items():
        if name in roles and name in spreads:
            kind = kind_of(name)
            rows.setdefault(kind, Row(kind, roles[name], shape, spreads[name].std, found.get(kind)))
    return list(rows.values())
