"""Intervals and slopes against tables and by hand."""

import math

import pytest

from isogloss.study.statistics import interval, log_slope, t_quantile


@pytest.mark.parametrize(
    ("p", "df", "expected"),  # of any table of Student's t
    [
        (0.975, 1, 12.7062),
        (0.975, 2, 4.3027),
        (0.975, 3, 3.1824),
        (0.975, 10, 2.2281),
        (0.995, 4, 4.6041),
        (0.9, 7, 1.4149),
    ],
)
def test_quantiles_of_students_t(p: float, df: int, expected: float) -> None:
    assert t_quantile(p, df) == pytest.approx(expected, abs=1e-4)


def test_interval_by_hand() -> None:
    found = interval([1.0, 2.0, 3.0])
    assert (found.mean, found.half) == (2.0, pytest.approx(4.3027 / math.sqrt(3), abs=1e-4))
    assert found.high - found.low == pytest.approx(2 * found.half)
    assert str(interval([1.0, 1.2, 1.1])) == "1.10 +- 0.25"


def test_one_value_says_nothing_of_its_spread() -> None:
    assert interval([3.0]).half == math.inf
    assert str(interval([3.0])) == "3"


def test_slope_of_a_power_law() -> None:
    assert log_slope([2, 4, 8], [3 * x**-0.5 for x in (2, 4, 8)]) == pytest.approx(-0.5)
    assert math.isnan(log_slope([2, 4], [1.0, 0.0]))
