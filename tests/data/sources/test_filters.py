import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from isogloss.data.sources import FilterConfig
from isogloss.data.sources.filters import MEASURES, Filters, Range, Text

BY_HAND = [
    ("characters", "aé😀", 3),
    ("words", " a  b\nc ", 3),
    ("mean_word_length", "a bbb", 2),
    ("symbols_per_word", "# a #b c", 0.5),
    ("symbols_per_word", "a... b… # c d", 2 / 5),
    ("alphabetic_words", "a1 22 _ é", 0.5),
    ("alphabetic_words", "語 \u0661", 0.5),
    ("unique_words", "a b a A", 0.75),
    ("top_bigram", "a b c a b", 6 / 9),
    ("top_bigram", "a b c d", 0),
    ("top_bigram", "a", 0),
    ("symbols", "a.b_\t", 0.4),
    ("symbols", "é—語_", 0.5),
    ("bullet_lines", "• a\n  - b\n-c\nd", 0.5),
    ("ellipsis_lines", "a...\nb… \nc.\n\n d", 0.5),
    ("terminal_lines", "A.\nb\nC?\nd,", 0.5),
    ("terminal_lines", "語。\nب؟\nअ।\nb", 0.75),
    ("short_lines", "x" * 30 + "\n" + "x" * 31, 0.5),
    ("duplicate_lines", "a\n a\nb\n\n\nc", 0.25),
    ("duplicate_line_characters", "aaa\naaa\nbb", 3 / 8),
    ("duplicate_paragraphs", "a\nb\n\nc\n \na\nb", 1 / 3),
]


@pytest.mark.parametrize(("measure", "text", "expected"), BY_HAND)
def test_measures_agree_with_counting_by_hand(measure, text, expected):
    assert MEASURES[measure](Text(text)) == pytest.approx(expected, rel=1e-12)


def test_every_field_has_its_measure_and_an_example():
    assert list(FilterConfig.model_fields) == list(MEASURES)
    assert {measure for measure, *_ in BY_HAND} == set(MEASURES)


@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_shares_are_shares_and_nothing_is_dropped_without_a_bound(text):
    values = {name: measure(Text(text)) for name, measure in MEASURES.items()}
    counts = ("characters", "words", "mean_word_length", "symbols_per_word")
    assert all(0 <= value <= 1 for name, value in values.items() if name not in counts)
    assert min(values.values()) >= 0
    assert Filters(FilterConfig()).reason_to_drop(text) is None


@given(st.text("ab #.\n", max_size=50), st.sampled_from(list(MEASURES)), st.data())
def test_a_text_is_dropped_just_when_a_measure_is_out_of_its_range(text, name, data):
    value = MEASURES[name](Text(text))
    low, high = sorted(data.draw(st.floats(0, 2)) * value for _ in range(2))
    reason = Filters(FilterConfig.model_validate({name: {"min": low, "max": high}})).reason_to_drop(text)
    assert reason == (f"{name} < {low:g}" if value < low else f"{name} > {high:g}" if value > high else None)


def test_the_first_reason_is_given():
    filters = Filters(FilterConfig(words=Range(min=2), characters=Range(max=5)))
    assert filters.reason_to_drop("a" * 10) == "characters > 5"
    assert filters.reason_to_drop("a") == "words < 2"
    assert filters.reason_to_drop("a b") is None


def test_a_range_that_keeps_nothing_is_refused():
    with pytest.raises(ValidationError, match="min 3 is above max 2"):
        Range(min=3, max=2)
