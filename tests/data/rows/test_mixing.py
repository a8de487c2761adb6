"""Proportions kept to the row, any place found alone, and changes on the way recorded."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from isogloss.config.base import UserError
from isogloss.data.rows import mixing
from isogloss.data.rows.mixing import MixedRows, Segment, block_order, block_size
from isogloss.data.rows.source import Rows


class Numbered:
    """Endless rows whose tokens are their own numbers, and a thousand for each source."""

    n_rows = None
    seq_len = 2

    def __init__(self, source: int, fingerprint: str = "x") -> None:
        self.source, self.fingerprint = source, fingerprint

    def rows(self, numbers: np.ndarray) -> Rows:
        tokens = np.stack([np.full(len(numbers), self.source), numbers], axis=1)
        return Rows(tokens, tokens, None)


def segment_of(*weights: float, start=0, block=64, caps=None, points=None) -> Segment:
    points = points or ((0, weights),)
    names = tuple("abcdefgh"[: len(points[0][1])])
    return Segment(start, block, names, caps or (None,) * len(names), points)


def mixed(segment: Segment, planned: int = 0) -> MixedRows:
    sources = {name: Numbered(i) for i, name in enumerate(segment.names)}
    return MixedRows(sources, dict.fromkeys(sources, 2.0), segment, planned)


def targets_of(segment: Segment, n: int) -> np.ndarray:
    """(n + 1, K): what the weights say that each source has after so many rows."""
    starts = np.arange(0, n, segment.block)
    weights = np.array([segment.weights(segment.start + start + segment.block / 2) for start in starts])
    weights = np.repeat(weights / weights.sum(1, keepdims=True), segment.block, axis=0)[:n]
    return np.concatenate([np.zeros((1, weights.shape[1])), np.cumsum(weights, axis=0)])


COUNTS = st.lists(st.integers(0, 60), min_size=1, max_size=6).filter(sum)


@settings(deadline=None, max_examples=200)
@given(COUNTS)
def test_a_block_is_spread_evenly(counts):
    order = block_order(tuple(counts))
    given_ = np.cumsum(order[:, None] == np.arange(len(counts)), axis=0)
    assert given_[-1].tolist() == counts
    even = np.arange(1, len(order) + 1)[:, None] * np.array(counts) / len(order)
    assert (np.abs(given_ - even) < 1).all()


WEIGHTS = st.lists(st.floats(0.02, 1), min_size=1, max_size=6)


@settings(deadline=None, max_examples=60)
@given(st.data(), st.integers(1, 6), st.sampled_from([64, 128]))
def test_counts_follow_the_weights(data, k, block):
    """Within one row at the end of a block and two anywhere, where every weight gives a row a block."""
    n = 12 * block + 7
    one_row_each = st.lists(st.floats(0.11, 1), min_size=k, max_size=k)
    points = tuple((row, tuple(data.draw(one_row_each))) for row in (0, n // 3, n // 2))
    segment = segment_of(points=points, block=block)
    rows = mixed(segment)
    which, nth = rows.locate(np.arange(n))
    counts = np.concatenate([np.zeros((1, k)), np.cumsum(which[:, None] == np.arange(k), axis=0)])
    off = np.abs(counts - targets_of(segment, n))
    assert off.max() < 2
    assert off[::block].max() < 1
    for i in range(k):  # each source's own rows, one after the other
        np.testing.assert_array_equal(nth[which == i], np.arange((which == i).sum()))
    for row in (0, 1, block, n):
        assert list(rows.counts(row).values()) == counts[row].tolist()


@settings(deadline=None, max_examples=25)
@given(st.lists(st.floats(1e-6, 1), min_size=1, max_size=6), st.sampled_from([1, 2, 16, 64]))
def test_small_weights_get_their_rows_too(weights, block):
    n = 200
    segment = segment_of(*weights, block=block)
    which, _ = mixed(segment).locate(np.arange(n))
    counts = np.bincount(which, minlength=len(weights))
    assert np.abs(counts - targets_of(segment, n)[-1]).max() < 3


@settings(deadline=None, max_examples=25)
@given(WEIGHTS, st.lists(st.integers(0, 900), min_size=1, max_size=20))
def test_any_place_is_found_alone(weights, places):
    whole = mixed(segment_of(*weights)).rows(np.arange(901))
    alone = mixed(segment_of(*weights)).rows(np.array(places))
    np.testing.assert_array_equal(alone.tokens, whole.tokens[places])


@settings(deadline=None, max_examples=60)
@given(st.lists(st.floats(0.05, 1), min_size=2, max_size=5), st.data())
def test_a_source_stops_at_its_cap_and_the_others_share(weights, data):
    caps = tuple(data.draw(st.integers(1, 200)) for _ in weights[1:])
    segment = segment_of(*weights, caps=(None, *caps))
    which, _ = mixed(segment).locate(np.arange(4000))
    counts = np.bincount(which, minlength=len(weights))
    assert all(n <= cap for n, cap in zip(counts[1:], caps, strict=True))
    assert sum(counts) == 4000
    later = np.bincount(which[-64:], minlength=len(weights))
    still = [i for i in range(1, len(weights)) if counts[i] < caps[i - 1]]
    open_ = [0, *still]
    share = np.array([weights[i] for i in open_]) / sum(weights[i] for i in open_)
    assert (np.abs(later[open_] - 64 * share) < 4).all()


def test_sources_that_do_not_last_are_refused_before_training():
    segment = segment_of(1.0, 1.0, caps=(50, 30))
    assert mixed(segment, 80).counts(80) == {"a": 50, "b": 30}
    with pytest.raises(UserError, match="used up after 80 rows"):
        mixed(segment, 81)


@settings(deadline=None, max_examples=25)
@given(WEIGHTS, WEIGHTS, st.integers(0, 500), st.integers(0, 300))
def test_a_change_on_the_way_is_recorded(before, after, at, more):
    """From that row on the new weights hold, each source going on with its next row; and any later resume agrees."""
    old, new = segment_of(*before), segment_of(*after)
    changed = mixed(new)
    said = changed.resume(mixed(old).state(), at)
    n = at + more + 1
    which, nth = (part.copy() for part in mixed(old).locate(np.arange(at)))
    if old.means_the_same(new):
        assert said == []
        return
    assert "from row" in said[0]
    for place in range(at, n):
        (i,), (j,) = changed.locate(np.array([place]))
        assert j == np.sum(which == i)
        which, nth = np.append(which, i), np.append(nth, j)
    counts = np.bincount(which[at:], minlength=len(after))[: len(after)]
    assert np.abs(counts - targets_of(new, n - at)[-1]).max() < 2
    again = mixed(new)
    assert again.resume(changed.state(), n) == []
    later = np.arange(at, n + 50)
    for one, other in zip(again.locate(later), changed.locate(later), strict=True):
        np.testing.assert_array_equal(one, other)


def test_weights_that_change_by_row_go_on_by_row_where_the_mixture_is_changed():
    """All of a at row 0, of b at 1280, of a from 2560 on; taken up at row 640."""
    points = ((0, (1.0, 0.0)), (1280, (0.0, 1.0)), (2560, (1.0, 0.0)))
    new = segment_of(points=points)
    assert new.weights_at(np.array([640.0, 1920.0, 9999.0])).tolist() == [[0.5, 0.5], [0.5, 0.5], [1.0, 0.0]]
    rows = mixed(new)
    rows.resume(mixed(segment_of(1.0, 0.0)).state(), 640)
    of_b = [rows.counts(row)["b"] for row in (640, 1280, 1920, 2560, 3200)]
    assert np.abs(np.diff(of_b) - 640 * np.array([0.75, 0.75, 0.25, 0.0])).max() < 2


def test_a_second_change_and_a_source_that_comes_and_goes():
    first, second = segment_of(1.0, 1.0), segment_of(1.0, 2.0, 3.0)
    rows = mixed(second)
    rows.resume(mixed(first).state(), 100)
    third = Segment(0, 64, ("a", "c"), (None, None), ((0, (1.0, 1.0)),))
    sources = {"a": Numbered(0), "c": Numbered(2)}
    last = MixedRows(sources, dict.fromkeys(sources, 2.0), third)
    last.resume(rows.state(), 200)
    assert [segment.start for segment in last.segments] == [0, 100, 200]
    assert last.counts(200) == rows.counts(200)
    b = rows.counts(200)["b"]
    assert last.counts(300)["b"] == b
    assert sum(last.counts(300).values()) == 300
    which, nth = last.locate(np.arange(200, 300))
    assert nth[which == 1][0] == rows.counts(200)["c"]
    with pytest.raises(UserError, match="mixed in no longer"):
        last.locate(np.array([150]))


def test_a_source_whose_text_has_changed_is_refused():
    segment = segment_of(1.0, 1.0)
    saved = mixed(segment).state()
    rows = MixedRows({"a": Numbered(0), "b": Numbered(1, "y")}, {"a": 1.0, "b": 1.0}, segment)
    with pytest.raises(UserError, match="the text of b in the mixture"):
        rows.resume(saved, 10)


def test_blocks_are_small_in_short_runs():
    assert [block_size(n) for n in (1, 24, 128, 10_000, 10**9)] == [1, 1, 2, 128, 4096]


def test_every_window_of_a_long_run_keeps_the_proportions():
    weights = (0.5, 0.3, 0.15, 0.05)
    which, _ = mixed(segment_of(*weights, block=4096)).locate(np.arange(50_000))
    counts = np.concatenate([np.zeros((1, 4)), np.cumsum(which[:, None] == np.arange(4), axis=0)])
    for begin, end in itertools.combinations(range(0, 50_001, 977), 2):
        assert np.abs(counts[end] - counts[begin] - (end - begin) * np.array(weights)).max() < 4


@settings(deadline=None, max_examples=30)
@given(WEIGHTS, WEIGHTS, st.integers(1, 90), st.integers(1, 7))
def test_weights_found_many_at_once_are_those_found_one_by_one(first, last, until, at_once):
    """To the last bit: it decides what comes first where remainders are equal."""
    k = min(len(first), len(last))
    segment = segment_of(points=((0, tuple(first[:k])), (until * 64, tuple(last[:k]))))
    places = np.arange(60) * 64
    with pytest.MonkeyPatch.context() as patch:
        expected = mixed(segment).locate(places)
        patch.setattr(mixing, "BLOCKS_AT_ONCE", at_once)
        np.testing.assert_array_equal(mixed(segment).locate(places), expected)
    middles = np.arange(60) * 64 + 32.0
    assert segment.weights_at(middles).tolist() == [segment.weights(middle) for middle in middles]


def test_a_mixture_that_cannot_end_begins_at_once():
    """However many rows are planned; one with a cap finds its counts, to see whether it lasts."""
    began = mixed(segment_of(0.7, 0.3), planned=10**15)
    assert began.locate(np.array([3]))[0].max() < 2
    with pytest.raises(UserError, match="used up after 128 rows"):
        mixed(segment_of(1.0, 0.0, caps=(128, None)), planned=1000)
