"""What an audit can find: codes, how grave each is, and one finding with its evidence."""

import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from enum import StrEnum

CODES = {
    "I00": "not what --expect says",
    "I01": "a reader of the residual stream scaled by depth",
    "I02": "a writer of the residual stream not scaled by depth, or the wrong way",
    "I03": "bounds of a truncated normal that do not fit its std",
    "I04": "never initialised",
    "I05": "rows or columns that repeat others",
    "I06": "parameters correlated with each other",
    "I07": "a tied weight initialised once for each of its names",
    "I08": "initialised more than once",
    "I09": "a norm's gain other than 1",
    "I10": "a buffer that holds garbage",
    "I11": "a recurrence outside its domain",
    "I12": "loss at initialisation far above ln V",
    "I13": "a gate in its linear regime, or saturated attention",
    "I14": "a norm whose epsilon is not small beside its input's power",
    "I15": "a parameter in no optimizer group, or in two",
    "I16": "drawn in low precision",
    "I17": "the up projection alone scaled like the writer",
    "I18": "a number that is not finite",
    "I19": "zeros that can never change",
    "I20": "a depth setting that does not change the depth",
}


class Severity(StrEnum):
    """How grave: a note is no reason to fail."""

    NOTE = "note"
    WARNING = "warning"
    ERROR = "error"


@dataclass(frozen=True)
class Finding:
    """Something about the initialisation that a person should look at.

    Args:
        code: a key of ``CODES``.
        severity: how grave.
        parameter: its name, the layer's number replaced by ``*`` where several layers share the finding.
        evidence: the number found, with what it was compared with.
        expected: what a sound initialisation would have.
        suggestion: what to change, or what makes it moot.
        n: how many parameters share it.
    """

    code: str
    severity: Severity
    parameter: str
    evidence: str
    expected: str
    suggestion: str
    n: int = 1


LAYER = re.compile(r"(?:^|(?<=\.))\d+(?=\.|$)")
NAMED_LAYER = re.compile(r"(?:^|(?<=\.))(?:layer|layers|block|blocks|stage|h)_?(\d+)(?=\.|$)")
"""Attributes such as ``block_3``, where no list numbers the layers."""


def kind_of(name: str) -> str:
    """The name with its first number, that of the layer, replaced by ``*``: equal for the same place of all layers."""
    found = _layer(name)
    return name if found is None else f"{name[: found[0]]}*{name[found[1] :]}"


def layer_of(name: str) -> int | None:
    """The first number in a dotted name."""
    found = _layer(name)
    return int(name[found[0] : found[1]]) if found else None


def container_of(kind: str) -> str:
    """What the layers of a kind are numbered in: the kind up to the layer's number."""
    return kind.partition("*")[0]


def _layer(name: str) -> tuple[int, int] | None:
    """Where the layer's number begins and ends."""
    if found := LAYER.search(name):
        return found.span()
    return found.span(1) if (found := NAMED_LAYER.search(name)) else None


def merged(findings: Iterable[Finding]) -> list[Finding]:
    """One finding for all layers that share it, and one for all kinds with the same evidence; the gravest first."""
    layers: dict[tuple[str, str, str], list[Finding]] = {}
    for finding in findings:
        layers.setdefault((finding.code, finding.severity, kind_of(finding.parameter)), []).append(finding)
    kinds: dict[tuple[str, str, str], list[Finding]] = {}
    for (code, severity, kind), same in layers.items():
        n = sum(finding.n for finding in same)
        one = same[0] if len(same) == 1 else replace(same[0], parameter=kind, n=n)
        kinds.setdefault((code, severity, one.evidence), []).append(one)
    one_each = [
        same[0]
        if len(same) == 1
        else replace(same[0], parameter=", ".join(f.parameter for f in same), n=sum(f.n for f in same))
        for same in kinds.values()
    ]
    return sorted(one_each, key=lambda f: (-list(Severity).index(f.severity), f.code, f.parameter))
