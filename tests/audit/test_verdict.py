"""Which findings count, and the exit code that comes of it."""

import json
from pathlib import Path

import pytest

from isogloss.audit.audit import Audit
from isogloss.audit.findings import Finding, Severity, merged
from isogloss.audit.verdict import judge, parse_rules, read_baseline, write_baseline
from isogloss.config.base import UserError


def finding(code: str, parameter: str, severity: Severity = Severity.WARNING) -> Finding:
    return Finding(code, severity, parameter, "2", "1", "none")


def audited(*findings: Finding, complete: bool = True) -> Audit:
    return Audit("m", 1, merged(findings), [], [], None, True, complete, [], list(findings))


NORMS = [finding("I09", f"layers.{i}.norm") for i in range(3)]


@pytest.mark.parametrize(
    ("severity", "codes"), [(Severity.NOTE, (1, 0, 0)), (Severity.WARNING, (1, 1, 0)), (Severity.ERROR, (1, 1, 1))]
)
def test_fail_on_is_the_least_severity_that_fails(severity: Severity, codes: tuple[int, ...]) -> None:
    found = audited(finding("I09", "norm", severity))
    assert tuple(judge(found, least).exit_code for least in Severity) == codes


def test_what_could_not_be_judged_is_3_where_nothing_was_found() -> None:
    assert judge(audited(complete=False)).exit_code == 3
    assert judge(audited(finding("I08", "a", Severity.NOTE), complete=False)).exit_code == 3
    assert judge(audited(finding("I09", "a"), complete=False)).exit_code == 1
    assert judge(audited()).exit_code == 0


def test_rules_leave_out_one_parameter_of_several_that_share_a_finding() -> None:
    judged = judge(audited(*NORMS), rules=parse_rules(["I09:layers.0.*", "I09:layers.1.norm", "I02:*"]))
    assert judged.exit_code == 1
    assert [f.parameter for f in judged.audit.findings] == ["layers.2.norm"]
    assert judged.said == [
        "ignored by I09:layers.0.*: 1 finding",
        "ignored by I09:layers.1.norm: 1 finding",
        "--ignore I02:* fits nothing",
    ]
    assert judge(audited(*NORMS), rules=parse_rules(["I09:layers.*.norm"])).exit_code == 0
    kind = audited(finding("I01", "layers.*.q.weight"))
    assert judge(kind, rules=parse_rules(["I01:layers.*.q.weight"])).exit_code == 0
    assert judge(kind, rules=parse_rules(["I02:layers.*.q.weight"])).exit_code == 1


def test_all_rules_that_are_none_are_named_at_once() -> None:
    with pytest.raises(UserError) as error:
        parse_rules(["I99:*", "I09", "I09:"])
    assert [line.partition(": ")[0] for line in str(error.value).splitlines()] == [
        "--ignore I99:*",
        "--ignore I09",
        "--ignore I09:",
    ]


def test_a_baseline_holds_what_is_known(tmp_path: Path) -> None:
    path = tmp_path / "baseline.json"
    write_baseline(audited(*NORMS), path)
    assert judge(audited(*NORMS), baseline=path).exit_code == 0
    other = judge(audited(*NORMS, finding("I09", "layers.3.norm")), baseline=path)
    assert other.exit_code == 1
    assert [f.parameter for f in other.audit.findings] == ["layers.3.norm"]
    assert other.said == [f"in the baseline {path}: 3 findings"]
    graver = judge(audited(finding("I09", "layers.0.norm", Severity.ERROR)), baseline=path)
    assert graver.exit_code == 1
    assert graver.said[1].startswith("in the baseline and no longer found: I09 layers.1.norm, I09 layers.2.norm")


@pytest.mark.parametrize(
    "text", [None, "", "{", "[]", '{"format": 2, "findings": []}', '{"format": 1}', '{"format": 1, "findings": [{}]}']
)
def test_a_damaged_baseline_is_a_message(tmp_path: Path, text: str | None) -> None:
    path = tmp_path / "baseline.json"
    if text is not None:
        path.write_text(text)
    with pytest.raises(UserError, match="--write-baseline"):
        read_baseline(path)


def test_a_baseline_is_written_into_a_folder_that_is_there(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no folder"):
        write_baseline(audited(), tmp_path / "absent" / "baseline.json")
    write_baseline(audited(), tmp_path / "baseline.json")
    assert json.loads((tmp_path / "baseline.json").read_text())["findings"] == []
