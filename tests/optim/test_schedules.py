"""Learning-rate schedules: ends, continuity, monotony."""

import math
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from isogloss.optim.schedules import (
    ConstantSchedule,
    CosineSchedule,
    InverseSqrtSchedule,
    LinearSchedule,
    WSDSchedule,
)

FINAL = 0.1
FALLING = [
    LinearSchedule(warmup=10, final=FINAL),
    CosineSchedule(warmup=10, final=FINAL),
    *(WSDSchedule(warmup=10, shape=shape, final=FINAL) for shape in ("linear", "cosine", "1-sqrt")),
]
ALL = [*FALLING, ConstantSchedule(warmup=10), InverseSqrtSchedule(warmup=10)]


@pytest.mark.parametrize("schedule", ALL, ids=repr)
def test_warm_up_is_a_line_from_nothing_to_the_peak(schedule) -> None:
    assert schedule.multiplier(0, 100) == 0
    assert schedule.multiplier(5, 100) == pytest.approx(0.5)
    assert schedule.multiplier(10, 100) == pytest.approx(1)


@pytest.mark.parametrize("schedule", FALLING, ids=repr)
def test_the_last_step_has_the_final_rate_and_later_ones_too(schedule) -> None:
    assert schedule.multiplier(100, 100) == pytest.approx(FINAL)
    assert schedule.multiplier(101, 100) == pytest.approx(FINAL)
    assert schedule.multiplier(1000, 100) == pytest.approx(FINAL)


@pytest.mark.parametrize("schedule", ALL, ids=repr)
def test_continuous(schedule) -> None:
    n = 200_000
    values = [schedule.multiplier(100 * i / n, 100) for i in range(n + 1)]
    jump = max(abs(b - a) for a, b in pairwise(values))
    # 1 - sqrt falls fastest at its start: sqrt(100 / n / 20) over one step of this grid.
    assert jump < 1.01 * math.sqrt(100 / n / 20)


@given(
    st.sampled_from(["linear", "cosine", "wsd-linear", "wsd-cosine", "wsd-1-sqrt", "inverse_sqrt", "constant"]),
    st.integers(0, 50),
    st.integers(51, 500),
    st.floats(0, 1),
    st.floats(0.01, 1),
)
def test_never_rises_after_the_warm_up_and_stays_in_range(kind, warmup, n_steps, final, decay) -> None:
    schedule = {
        "linear": lambda: LinearSchedule(warmup=warmup, final=final),
        "cosine": lambda: CosineSchedule(warmup=warmup, final=final),
        "inverse_sqrt": lambda: InverseSqrtSchedule(warmup=warmup, final=final),
        "constant": lambda: ConstantSchedule(warmup=warmup),
    }.get(kind) or (lambda: WSDSchedule(warmup=warmup, final=final, decay=decay, shape=kind.removeprefix("wsd-")))
    values = [schedule().multiplier(step, n_steps) for step in range(1, n_steps + 1)]
    assert all(0 <= v <= 1 + 1e-12 for v in values)
    after = values[max(warmup - 1, 0) :]
    assert all(b <= a + 1e-12 for a, b in pairwise(after))


@pytest.mark.parametrize("kind", [type(schedule) for schedule in ALL], ids=lambda kind: kind.__name__)
@pytest.mark.parametrize(("share", "n_steps", "warmup"), [(0.1, 100, 10), (0.025, 2400, 60), (0.0357, 2800, 100)])
def test_a_warm_up_may_be_a_share_of_the_steps(kind, share: float, n_steps: int, warmup: int) -> None:
    shared, counted = kind(warmup=share), kind(warmup=warmup)
    steps = range(n_steps + 1)
    assert [shared.multiplier(k, n_steps) for k in steps] == [counted.multiplier(k, n_steps) for k in steps]


@pytest.mark.parametrize("n_steps", [1, 2, 3, 7])
def test_a_share_of_few_steps_leaves_one_for_the_peak(n_steps: int) -> None:
    assert ConstantSchedule(warmup=0.99).multiplier(n_steps, n_steps) == 1


def test_wsd_is_stable_until_its_decay() -> None:
    schedule = WSDSchedule(warmup=10, decay=0.2)
    assert schedule.multiplier(80, 100) == 1
    assert schedule.multiplier(90, 100) == pytest.approx(0.5)


def test_cosine_half_way() -> None:
    assert CosineSchedule(final=0.0).multiplier(50, 100) == pytest.approx(0.5)


def test_inverse_square_root() -> None:
    schedule = InverseSqrtSchedule(warmup=10)
    assert schedule.multiplier(40, 100) == pytest.approx(0.5)
    assert InverseSqrtSchedule(warmup=0).multiplier(4, 100) == pytest.approx(0.5)
    assert InverseSqrtSchedule(warmup=0).multiplier(0, 100) == 1
