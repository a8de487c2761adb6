"""The tables of the docs: a stale one is found and mended, one made by hand is refused, an old record too."""

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import coordinates
import pages
import pytest
import records
import tables
import torch

import isogloss.init.rng

ROOT = Path(__file__).parent.parent
SETTINGS = {"schemes": {"plain": {"type": "lingua"}}, "seeds": 2}


@pytest.fixture
def guide(tmp_path: Path) -> Path:
    return Path(shutil.copy(ROOT / "docs/guide.md", tmp_path))


@pytest.fixture
def check(monkeypatch, capsys) -> Callable[[Path], tuple[int, str]]:
    """``python benchmarks/tables.py --check PAGE`` in this process: exit code and errors."""
    monkeypatch.setattr(torch, "set_num_threads", lambda n: None)  # which would hold for the tests after this one

    def run(page: Path) -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", ["tables.py", "--check", str(page)])
        with pytest.raises(SystemExit) as ended:
            tables.main()
        return int(ended.value.code or 0), capsys.readouterr().err

    return run


def test_a_stale_table_is_found_and_mended(guide: Path, check) -> None:
    fresh = guide.read_text()
    stale = fresh.replace("| 0.0872 |", "| 0.0873 |", 1)
    assert stale != fresh
    guide.write_text(stale)
    code, errors = check(guide)
    assert code == 1
    assert "guide.md: the table plan is stale" in errors
    assert "0.0873" in errors
    assert "make docs" in errors
    assert guide.read_text() == stale
    assert tables.renew(guide, check=False) == []
    assert guide.read_text() == fresh
    assert check(guide) == (0, "")


@pytest.mark.parametrize(
    "table", ["| a | b |\n|---|---|\n| 1 | 2 |", "a | b\n:-- | --:\n1 | 2", "|a|\n|-|", "<table><tr></tr></table>"]
)
def test_a_table_made_by_hand_is_refused(guide: Path, table: str) -> None:
    guide.write_text(f"{guide.read_text()}\n{table}\n")
    (problem,) = tables.renew(guide, check=True)
    assert "made by hand" in problem


def test_what_only_looks_like_a_table() -> None:
    page = "a heading\n---\n\n```\n| a |\n|---|\n<!-- table: x -->\n```\n\na | b\n- | c"
    assert pages.joined(list(pages.blocks(page))) == page


@pytest.mark.parametrize(
    ("page", "problem"),
    [
        ("<!-- table: plan -->\n", "has no <!-- end"),
        ("<!-- end of table -->\n", "has not begun"),
        ("<!-- table: plan -->\n<!-- table: plan -->\n<!-- end of table -->", "within the table plan"),
        ("<!-- table: lost -->\n<!-- end of table -->", "there is no table lost"),
    ],
)
def test_markers_that_do_not_fit(tmp_path: Path, page: str, problem: str) -> None:
    path = tmp_path / "page.md"
    path.write_text(page)
    (found,) = tables.renew(path, check=False)
    assert problem in found
    assert path.read_text() == page


def test_every_table_stands_in_a_page() -> None:
    texts = [page.read_text() for page in (ROOT / "docs").rglob("*.md")]
    assert [name for name in tables.TABLES if not any(pages.BEGIN.format(name) in text for text in texts)] == []


@pytest.fixture
def record(tmp_path: Path, monkeypatch) -> Path:
    monkeypatch.setattr(records, "RESULTS", tmp_path / "results")
    return records.save_record("trial", "python trial.py --record", SETTINGS, [{"x": 1.5}, {"x": [2, 3]}])


def test_a_record_comes_back(record: Path) -> None:
    assert records.load_record("trial", SETTINGS) == [{"x": 1.5}, {"x": [2, 3]}]


def test_a_record_of_other_settings_is_stale(record: Path) -> None:
    with pytest.raises(records.StaleRecordError, match=r"seeds was 2 and is 3\nmake it anew: python trial"):
        records.load_record("trial", SETTINGS | {"seeds": 3})


def test_a_record_of_another_generator_is_stale(record: Path, monkeypatch) -> None:
    monkeypatch.setattr(isogloss.init.rng, "_GOLDEN", 0x9E3779B97F4A7C17)
    with pytest.raises(records.StaleRecordError, match="other weights"):
        records.load_record("trial", SETTINGS)


def test_a_record_of_another_scheme_is_stale(record: Path) -> None:
    text = record.read_text().replace('"lingua"', '"gpt2"')  # as if lingua's rules had been gpt2's
    record.write_text(text)
    with pytest.raises(records.StaleRecordError, match="other weights"):
        records.load_record("trial", SETTINGS | {"schemes": {"plain": {"type": "gpt2"}}})


def test_a_missing_record_is_named(record: Path) -> None:
    with pytest.raises(records.StaleRecordError, match=r"other\.json is missing"):
        records.load_record("other", SETTINGS)


def test_a_stale_record_is_a_problem_of_its_page(tmp_path: Path, record: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("<!-- table: prediction -->\nas before\n<!-- end of table -->")
    (problem,) = tables.renew(page, check=False)
    assert "predict.json is missing" in problem
    assert "as before" in page.read_text()


def test_a_record_older_than_a_field_holds_it_at_its_default() -> None:
    then = coordinates.settings()
    del then["recipe"]["train"]["recompute"], then["recipe"]["data"]["packing"], then["recipe"]["parallel"]
    assert records._filled(then) == json.loads(json.dumps(coordinates.settings()))
    then["recipe"]["train"]["steps"] += 1
    assert records._filled(then) != json.loads(json.dumps(coordinates.settings()))
