"""Every kind of fault of the campaign has a test, and a control that takes the guard out."""

import re

import campaign
import pytest


@pytest.mark.parametrize("mark", ["campaign", "control"])
def test_every_fault_has_its_tests_and_controls(mark: str) -> None:
    found = campaign.marked()[mark]
    assert [fault for number, fault in campaign.FAULTS.items() if not found[number]] == []
    assert sorted(set(found) - set(campaign.FAULTS)) == []


def test_all_of_tests_faults_is_of_the_campaign() -> None:
    found = campaign.marked()
    named = {test for mark in found.values() for tests in mark.values() for test in tests}
    there = {
        f"{path.relative_to(campaign.TESTS).as_posix()}::{name}"
        for path in (campaign.TESTS / "faults").rglob("test_*.py")
        for name in re.findall(r"^def (test_\w+)", path.read_text(), re.MULTILINE)
    }
    assert there - named == set()


def test_one_that_is_missing_shows(tmp_path, monkeypatch) -> None:
    (tmp_path / "test_few.py").write_text("@pytest.mark.control(2, 3)\n@pytest.mark.slow\ndef test_a(): ...\n")
    monkeypatch.setattr(campaign, "TESTS", tmp_path)
    found = campaign.marked()
    assert found["campaign"] == {}
    assert found["control"] == {2: ["test_few.py::test_a"], 3: ["test_few.py::test_a"]}
