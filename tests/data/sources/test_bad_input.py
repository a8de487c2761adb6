import json
from pathlib import Path

import pytest

from isogloss.config.base import UserError
from isogloss.data.sources import BadInput, BadRecord
from isogloss.data.sources.account import count_in_words


def entries(report: Path) -> list[dict[str, str]]:
    return [json.loads(line) for line in report.read_text().splitlines()]


def test_without_a_limit_the_first_bad_record_ends_it(tmp_path):
    bad = BadInput(tmp_path / "bad.jsonl")
    with pytest.raises(UserError) as error:
        bad.add(BadRecord("a.jsonl:3", "not JSON", b"{"))
    assert str(error.value).startswith("a.jsonl:3: not JSON; mend it")
    assert "max_bad" in str(error.value)
    assert str(bad.report) in str(error.value)
    assert entries(bad.report) == [{"where": "a.jsonl:3", "why": "not JSON", "excerpt": "{"}]


def test_as_many_as_allowed_are_kept_aside_and_one_more_ends_it(tmp_path):
    bad = BadInput(tmp_path / "new" / "bad.jsonl", max_bad=7)
    for number in range(7):
        bad.add(BadRecord(f"a.jsonl:{number}", "é", b"caf\xe9"))
    assert bad.n_bad == 7
    assert len(entries(bad.report)) == 7  # on record at once, without closing
    with pytest.raises(UserError) as error:
        bad.add(BadRecord("a.jsonl:7", "é"))
    message = str(error.value)
    assert message.startswith("8 bad records, more than max_bad = 7")
    assert "  a.jsonl:4: é\n  and 3 more" in message
    assert "a.jsonl:5" not in message
    assert [entry["where"] for entry in entries(bad.report)] == [f"a.jsonl:{number}" for number in range(8)]
    assert entries(bad.report)[0]["excerpt"] == "caf\\xe9"
    assert "é" in bad.report.read_text()


def test_the_report_of_an_earlier_attempt_is_removed(tmp_path):
    report = tmp_path / "bad.jsonl"
    report.write_text("old")
    BadInput(report, 3).close()
    assert not report.exists()
    bad = BadInput(report, 3)
    bad.add(BadRecord("\udce9.jsonl:1", "why"))
    bad.close()
    assert entries(report)[0]["where"] == "\udce9.jsonl:1"


def test_a_report_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"file/bad\.jsonl: the report of bad records cannot be written"):
        BadInput(tmp_path / "file" / "bad.jsonl", 1).add(BadRecord("a", "b"))


def test_counts_agree_with_what_they_count() -> None:
    assert count_in_words({"copies": 1, "near copies": 2, "bad records": 1, "empty": 3}) == (
        "1 copy, 2 near copies, 1 bad record, 3 empty"
    )
    assert count_in_words({"copies": 0}) == "nothing"
