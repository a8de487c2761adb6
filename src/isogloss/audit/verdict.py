"""Which findings count: by severity, without those that the user ignores, and without those of a baseline."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Literal

from isogloss.audit.audit import Audit
from isogloss.audit.findings import CODES, Finding, Severity, merged
from isogloss.config.base import UserError
from isogloss.config.problems import did_you_mean
from isogloss.config.quantity import count
from isogloss.config.stored import DamagedError, Stored, read_stored
from isogloss.durable import write_whole
from isogloss.exit_codes import FAILED, NOT_JUDGED, OK

FORMAT: Literal[1] = 1
"""Of a baseline file."""


class _Row(Stored):
    code: str
    parameter: str
    severity: Severity


class _Baseline(Stored):
    format: Literal[1]
    target: str
    findings: list[_Row]


@dataclass(frozen=True)
class Rule:
    """``--ignore CODE:pattern``: a code, and a shell's pattern for names of parameters."""

    code: str
    pattern: str

    def covers(self, finding: Finding) -> bool:
        """Whether it means this finding, of one parameter or of one kind."""
        return finding.code == self.code and fnmatchcase(finding.parameter, self.pattern)

    def __str__(self) -> str:
        return f"{self.code}:{self.pattern}"


@dataclass(frozen=True)
class Verdict:
    """What counts of an audit.

    Args:
        audit: with the findings that are left.
        said: what was left out, and what an option did not find.
        exit_code: of the process.
    """

    audit: Audit
    said: list[str]
    exit_code: int


def parse_rules(words: Sequence[str]) -> list[Rule]:
    """The rules of ``--ignore``.

    Raises:
        UserError: some are none.
    """
    problems, rules = [], []
    for word in words:
        code, colon, pattern = word.partition(":")
        if code not in CODES:
            problems.append(f"--ignore {word}: there is no code {code}{did_you_mean(code, list(CODES))}")
        elif not colon or not pattern:
            problems.append(f"--ignore {word}: write CODE:PATTERN, such as {code}:layers.*.norm or {code}:* for all")
        else:
            rules.append(Rule(code, pattern))
    if problems:
        raise UserError("\n".join(problems))
    return rules


def judge(
    audit: Audit, fail_on: Severity = Severity.WARNING, rules: Sequence[Rule] = (), baseline: Path | None = None
) -> Verdict:
    """Leave out what is ignored or known, and decide.

    Args:
        audit: what was found.
        fail_on: the least severity that fails.
        rules: of ``--ignore``.
        baseline: a file that `write_baseline` wrote.

    Raises:
        UserError: the baseline cannot be read.
    """
    known = {} if baseline is None else read_baseline(baseline)
    counted, n_known, used = [], 0, dict.fromkeys(rules, 0)
    for finding in audit.raw:
        if rule := next((rule for rule in rules if rule.covers(finding)), None):
            used[rule] += 1
        elif finding.severity in _as_grave(known.get((finding.code, finding.parameter))):
            n_known += 1
        else:
            counted.append(finding)
    said = [
        f"ignored by {rule}: {count(n, 'finding')}" if n else f"--ignore {rule} fits nothing"
        for rule, n in used.items()
    ]
    if baseline is not None:
        said.append(f"in the baseline {baseline}: {count(n_known, 'finding')}")
        found = {(finding.code, finding.parameter) for finding in audit.raw}
        if gone := sorted(known.keys() - found):
            listed = ", ".join(f"{code} {parameter}" for code, parameter in gone[:3])
            said.append(
                f"in the baseline and no longer found: {listed}{', ...' if len(gone) > 3 else ''} ({len(gone)})"
            )
    order = list(Severity)
    failed = any(order.index(finding.severity) >= order.index(fail_on) for finding in counted)
    code = FAILED if failed else OK if audit.complete else NOT_JUDGED
    return Verdict(replace(audit, findings=merged(counted), raw=counted), said, code)


def write_baseline(audit: Audit, path: Path) -> None:
    """Write all findings, so that a later audit counts only others, and the same where they are graver."""
    rows = [{"code": f.code, "parameter": f.parameter, "severity": f.severity} for f in audit.raw]
    text = json.dumps({"format": FORMAT, "target": audit.target, "findings": rows}, indent=1)
    if not path.absolute().parent.is_dir():
        raise UserError(f"{path}: there is no folder {path.parent} to write the baseline into")
    write_whole(path, f"{text}\n".encode())


def read_baseline(path: Path) -> dict[tuple[str, str], Severity]:
    """The severity of each finding of a baseline, by code and parameter.

    Raises:
        UserError: there is none, or it is damaged.
    """
    advice = "write it anew with --write-baseline"
    try:
        rows = read_stored(path, _Baseline).findings
    except FileNotFoundError:
        raise UserError(f"{path}: there is no such baseline; {advice}") from None
    except (OSError, DamagedError) as error:
        raise UserError(f"{error}; {advice}") from None
    return {(row.code, row.parameter): row.severity for row in rows}


def _as_grave(known: Severity | None) -> list[Severity]:
    """Severities up to one."""
    order = list(Severity)
    return [] if known is None else order[: order.index(known) + 1]
