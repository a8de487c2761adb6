"""An audit as a table, as Markdown and as JSON."""

import json
import math
from collections.abc import Iterator
from dataclasses import asdict

from rich.console import Group, RenderableType

from isogloss.audit.audit import Row
from isogloss.audit.findings import CODES, Finding, Severity
from isogloss.audit.verdict import Verdict
from isogloss.config.quantity import count
from isogloss.exit_codes import FAILED
from isogloss.report.tables import markdown_table
from isogloss.terminal import Table, plain


def as_tables(judged: Verdict) -> RenderableType:
    """What was read off the model, what was found, and what could not be looked at."""
    audit = judged.audit
    parts: list[RenderableType] = []
    if audit.rows:
        table = Table(title="read off the model", title_justify="left")
        for column in ("parameter", "role", "shape", "std", "with depth"):
            table.add_column(column, justify="right" if column in ("shape", "std") else "left", overflow="fold")
        for row in audit.rows:
            table.add_row(row.kind, row.role, _shape(row), f"{row.std:.5f}", _depth(row, audit.depths))
        parts.append(table)
    if audit.findings:
        table = Table(title="findings", title_justify="left")
        for column in ("code", "", "parameter", "found", "expected", "suggestion"):
            table.add_column(column, overflow="fold")
        for f in audit.findings:
            table.add_row(f.code, f.severity, _name(f), f.evidence, f.expected, f.suggestion)
        parts.append(table)
    parts += [plain(line) for line in _lines(judged)]
    return Group(*parts)


def as_markdown(judged: Verdict) -> str:
    """The same for a document."""
    audit, parts = judged.audit, []
    if audit.rows:
        columns = ("parameter", "role", "shape", "std", "with depth")
        rows = [
            (f"`{row.kind}`", row.role, _shape(row), f"{row.std:.5f}", _depth(row, audit.depths)) for row in audit.rows
        ]
        parts.append(markdown_table(columns, rows))
    if audit.findings:
        columns = ("code", "", "parameter", "found", "expected")
        rows = [(f.code, f.severity, f"`{_name(f)}`", f.evidence, f.expected) for f in audit.findings]
        parts.append(markdown_table(columns, rows))
    return "\n".join([*parts, "\n".join([*_lines(judged), ""])])


def as_json(judged: Verdict) -> str:
    """Everything, with what each code means."""
    audit = judged.audit
    found = asdict(audit) | {
        "failed": judged.exit_code == FAILED,
        "left_out": judged.said,
        "exit_code": judged.exit_code,
    }
    del found["raw"]
    found["not_judged"] = found.pop("limits")
    found["findings"] = [asdict(f) | {"meaning": CODES[f.code]} for f in audit.findings]
    return json.dumps(found, indent=1)


def _lines(judged: Verdict) -> Iterator[str]:
    audit = judged.audit
    yield from audit.remarks
    yield from (f"not judged: {limit}" for limit in audit.limits)
    yield from judged.said
    counts = {s: sum(f.severity == s for f in audit.findings) for s in reversed(Severity)}
    said = ", ".join(count(n, severity) for severity, n in counts.items() if n) or "no findings"
    rest = "" if audit.complete else "; INCOMPLETE: not all could be judged" if audit.ran else "; INCOMPLETE: not run"
    yield f"{audit.target}: {audit.n_parameters:,} parameters; {said}{rest}"


def _name(finding: Finding) -> str:
    return finding.parameter if finding.n == 1 else f"{finding.parameter} ({finding.n})"


def _shape(row: Row) -> str:
    return "x".join(map(str, row.shape))


def _depth(row: Row, depths: tuple[int, int] | None) -> str:
    """The ratio of stds, and the exponent it stands for."""
    if row.scaling is None or row.scaling.by_depth is None or depths is None:
        return ""
    change, error = row.scaling.by_depth
    if abs(change) < 3 * error:
        return "none"
    return f"L^{change / math.log(depths[1] / depths[0]):.2f}"
