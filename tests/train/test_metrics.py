"""Recorded numbers: cut off on resume, whole after a kill, a later record in the former's place, copies to trackers."""

import json
import math
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from isogloss.train.metrics import Metrics, finite, read_metrics


class Recorder:
    """A tracker that remembers."""

    def __init__(self) -> None:
        self.heard: list[tuple[int, dict[str, float]]] = []
        self.closed = 0

    def log(self, step: int, values: dict[str, float]) -> None:
        assert not self.closed
        self.heard.append((step, values))

    def close(self, failed: bool) -> None:
        self.failed = failed
        self.closed += 1


def write(path: Path, resumed_step: int, steps: list[int]) -> None:
    with Metrics(path, resumed_step) as metrics:
        for step in steps:
            metrics.write("train", step, loss=float(step), run=resumed_step)


def steps_of(path: Path) -> list[int]:
    return [record["step"] for record in read_metrics(path)]


def test_no_file_no_records(tmp_path: Path) -> None:
    assert read_metrics(tmp_path / "absent.jsonl") == []


def test_every_record_is_in_the_file_as_soon_as_it_is_written(tmp_path: Path) -> None:
    """A killed run loses none."""
    path = tmp_path / "metrics.jsonl"
    with Metrics(path, 0) as metrics:
        metrics.write("train", 1, loss=1.5)
        assert read_metrics(path) == [{"step": 1, "kind": "train", "loss": 1.5}]


@pytest.mark.parametrize("cut", [1, 5, -1])
def test_half_a_line_at_the_end_is_passed_over_and_cut_off_on_resume(tmp_path: Path, cut: int) -> None:
    path = tmp_path / "metrics.jsonl"
    write(path, 0, [1, 2])
    line = json.dumps({"step": 3, "kind": "train", "loss": 3.0})
    path.write_text(path.read_text() + line[:cut])
    assert steps_of(path) == [1, 2]
    write(path, 3, [4])
    assert steps_of(path) == [1, 2, 4]
    assert all(json.loads(line) for line in path.read_text().splitlines())


@given(written=st.integers(0, 12), resumed=st.integers(0, 12))
def test_records_past_the_resumed_step_are_cut_off(tmp_path_factory, written: int, resumed: int) -> None:
    path = tmp_path_factory.mktemp("metrics") / "metrics.jsonl"
    write(path, 0, list(range(1, written + 1)))
    write(path, resumed, [])
    assert steps_of(path) == list(range(1, min(written, resumed) + 1))


def test_a_later_record_of_a_step_replaces_the_former_in_its_place(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    with Metrics(path, 0) as metrics:
        metrics.write("train", 4, loss=1.0)
        metrics.write("validation", 4, loss=2.0)
        metrics.write("sample", 4, prompt="a", text="old")
        metrics.write("sample", 4, prompt="b", text="other")
        metrics.write("validation", 4, loss=3.0)
        metrics.write("sample", 4, prompt="a", text="new")
    found = [(r["kind"], r.get("loss", r.get("text"))) for r in read_metrics(path)]
    assert found == [("train", 1.0), ("validation", 3.0), ("sample", "new"), ("sample", "other")]


@pytest.mark.parametrize("text", ["two\nlines", "a\u2028b\x85c", '"quotes" \\', "\ud7ff ÿ 文"])
def test_text_is_kept(tmp_path: Path, text: str) -> None:
    path = tmp_path / "metrics.jsonl"
    with Metrics(path, 0) as metrics:
        metrics.write("sample", 1, prompt="", text=text)
    assert [record["text"] for record in read_metrics(path)] == [text]


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_what_is_not_finite_is_null(tmp_path: Path, value: float) -> None:
    path, tracker = tmp_path / "metrics.jsonl", Recorder()
    with Metrics(path, 0, [tracker]) as metrics:
        metrics.write("train", 1, loss=value, lr=0.5)
    assert read_metrics(path) == [{"step": 1, "kind": "train", "loss": None, "lr": 0.5}]
    assert tracker.heard == [(1, {"train/lr": 0.5})]


def test_trackers_hear_numbers_only_and_are_closed(tmp_path: Path) -> None:
    trackers = [Recorder(), Recorder()]
    with Metrics(tmp_path / "metrics.jsonl", 0, trackers) as metrics:
        metrics.write("validation", 3, loss=1.0, targets=7)
        metrics.write("sample", 3, prompt="p", text="t")
    for tracker in trackers:
        assert (tracker.closed, tracker.failed) == (1, False)
        assert [heard for heard in tracker.heard if heard[1]] == [
            (3, {"validation/loss": 1.0, "validation/targets": 7})
        ]
        assert tracker.closed == 1


def test_what_json_cannot_hold_is_left_out_at_any_depth() -> None:
    inf, nan = float("inf"), float("nan")
    assert finite({"a": inf, "b": [nan, {"c": (1.0, -inf)}], "d": "nan"}) == {
        "a": None,
        "b": [None, {"c": [1.0, None]}],
        "d": "nan",
    }


def test_rewinds_stay_as_many_as_the_resumed_run_has_made(tmp_path: Path) -> None:
    """They have the step of the spike, which lies past where they led to; two may come of the same step."""
    path = tmp_path / "metrics.jsonl"
    with Metrics(path, 0) as metrics:
        metrics.write("train", 20, loss=1.0)
        metrics.write("train", 25, loss=9.0)
        metrics.go_back(20, 0)
        metrics.write("rewind", 26, to=20, number=1)
        metrics.write("train", 25, loss=1.0)
        metrics.go_back(20, 1)
        metrics.write("rewind", 26, to=20, number=2)
        metrics.write("train", 21, loss=1.0)
    for n_rewinds in (2, 1, 0):
        with Metrics(path, 21, n_rewinds=n_rewinds) as metrics:
            found = [(r["kind"], r["step"], r.get("number")) for r in read_metrics(path)]
        expected = [("train", 20, None), *(("rewind", 26, n + 1) for n in range(n_rewinds)), ("train", 21, None)]
        assert found == expected
        assert metrics.n_records == len(expected)


def test_records_are_counted_as_they_are_read(tmp_path: Path) -> None:
    """One that replaces another of its step is not one more."""
    path = tmp_path / "metrics.jsonl"
    with Metrics(path, 0) as metrics:
        for step in (1, 2):
            for prompt in ("a", "a", "b"):
                metrics.write("sample", step, prompt=prompt, text="")
            metrics.write("validation", step, loss=1.0)
        assert metrics.n_records == len(read_metrics(path)) == 6
    with Metrics(path, 2) as metrics:
        metrics.write("validation", 2, loss=2.0)
        metrics.write("train", 3, loss=2.0)
        assert metrics.n_records == len(read_metrics(path)) == 7
