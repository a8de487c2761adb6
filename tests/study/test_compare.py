"""Winners are named where the numbers bear it, and not elsewhere; a sweep's trend is what its rates show."""

import math
from dataclasses import replace

import pytest

from isogloss.config.base import UserError
from isogloss.recipe import load_recipe
from isogloss.study.compare import SPIKE_WINDOW, Arm, Comparison, comparison_rows, count_spikes, with_scheme
from isogloss.study.sweep import Sweep


def arm(label: str, *validation: float) -> Arm:
    results = [
        {"validation": v, "loss": [3.0, v], "grad_norm": [1.0, 2.0], "attention_logit": [1.0]} for v in validation
    ]
    return Arm(label, 1e-3, {1e-3: 0.0}, tuple(results))


def test_a_clear_winner() -> None:
    found = Comparison((arm("a", 2.0, 2.1, 2.2), arm("b", 2.5, 2.61, 2.7)))
    assert found.winner is found.arms[0]
    assert found.verdict.startswith("a has the lowest loss, by 0.50")
    assert [row[0] for row in comparison_rows(found)] == ["a", "b"]


def test_no_winner_where_the_interval_holds_0() -> None:
    found = Comparison((arm("a", 2.0, 2.3, 2.2), arm("b", 2.3, 2.2, 2.4)))
    assert found.winner is None
    assert found.verdict.startswith("no winner: a has the lowest mean")


def test_one_seed_among_several_schemes_names_no_winner() -> None:
    assert Comparison((arm("a", 1.0), arm("b", 2.0))).verdict.startswith("no winner is named from 1 seed:")
    assert Comparison((arm("a", 1.0, 1.0), arm("b", 2.0, 2.0))).verdict.startswith("no winner is named from 2 seeds:")


def test_more_schemes_need_wider_intervals() -> None:
    """Of many, one is the lowest by chance: the intervals hold for all together."""
    two = Comparison((arm("a", 2.0, 2.0, 2.0), arm("b", 2.10, 2.16, 2.13)))
    many = Comparison((*two.arms, *(arm(f"c{i}", 3.0, 3.1, 3.2) for i in range(8))))
    assert many.behind(many.arms[1]).half > 2 * two.behind(two.arms[1]).half


def test_a_diverged_scheme_is_behind() -> None:
    found = Comparison((arm("a", 2.0, 2.1, 2.0), arm("b", 1.9, math.inf, 1.9)))
    assert found.lowest.label == "a"
    assert found.behind(found.arms[1]).mean == math.inf
    assert found.winner is found.arms[0]
    assert comparison_rows(found)[1][0] == "b"


def test_who_diverges_everywhere_wins_nothing() -> None:
    for first, second in (((3.0, math.inf, 3.0), (2.0, math.inf, 2.0)), ((math.inf,) * 3, (math.inf,) * 3)):
        found = Comparison((arm("a", *first), arm("b", *second)))
        assert found.winner is None
        assert "diverged" in found.verdict
    assert Comparison((arm("a", 3.0, math.inf, 3.0), arm("b", 2.0, math.inf, 2.0))).lowest.label == "b"


def test_the_verdict_says_what_it_rests_on() -> None:
    assert "at the one learning rate 0.001" in Comparison((arm("a", 2.0, 2.1, 2.2), arm("b", 2.5, 2.6, 2.7))).verdict
    edge = tuple(replace(a, rates={1e-3: 0.0, 2e-3: 0.0}) for a in (arm("a", 2.0, 2.1, 2.2), arm("b", 2.5, 2.6, 2.7)))
    assert "may lie beyond" in Comparison(edge).verdict


def test_a_best_rate_beside_one_that_diverged_may_lie_beyond() -> None:
    arms = (arm("a", 2.0, 2.1, 2.2), arm("b", 2.5, 2.6, 2.7))
    rates = {1e-3: 3.0, 2e-3: 2.0, 4e-3: math.inf}
    assert "may lie beyond" in Comparison(tuple(replace(a, rate=2e-3, rates=rates) for a in arms)).verdict
    rates[4e-3] = 2.5
    assert "each at its best of 3" in Comparison(tuple(replace(a, rate=2e-3, rates=rates) for a in arms)).verdict


def test_spikes() -> None:
    calm = [3.0 + 0.01 * (-1) ** i for i in range(SPIKE_WINDOW + 20)]
    assert count_spikes(calm) == 0
    assert count_spikes([*calm, 3.5, *calm[:5]]) == 1
    assert count_spikes([*calm, math.inf]) == 1


def test_schemes_by_name(tiny) -> None:
    recipe = load_recipe(str(tiny))
    changed = with_scheme(recipe, "lingua:base_std=0.02,model.norm=sandwich")
    assert changed.init.model_dump()["base_std"] == 0.02
    assert changed.model.norm == "sandwich"
    assert with_scheme(changed, "recipe").init == changed.init
    assert with_scheme(changed, "lingua").init.model_dump()["base_std"] is None
    with pytest.raises(UserError, match="did you mean"):
        with_scheme(recipe, "lingau")
    with pytest.raises(UserError, match="KEY=VALUE"):
        with_scheme(recipe, "lingua:base_std")


def test_drift_and_edges_of_a_sweep() -> None:
    rates = (1e-3, 2e-3, 4e-3, 8e-3, 16e-3)

    def losses(best: float) -> tuple[float, ...]:
        return tuple((math.log2(rate) - math.log2(best)) ** 2 for rate in rates)

    moving = Sweep("width", (64, 128, 256), rates, tuple((losses(8e-3 / k), losses(8e-3 / k)) for k in (1, 2, 4)), True)
    assert moving.trend.slope.mean == pytest.approx(-1.0)
    assert moving.trend.status == "fail"
    assert moving.at_the_edge == ()
    still = Sweep("width", (64, 128), rates, ((losses(4e-3),) * 2, (losses(4e-3),) * 2), True)
    assert still.trend.status == "pass"
    alone = Sweep("width", (64, 128), rates, ((losses(4e-3),), (losses(4e-3),)), True)
    assert alone.trend.status == "warn"  # one seed has no interval
    edge = Sweep("depth", (2, 4), rates, ((losses(1e-3),), (losses(4e-3),)), True)
    assert edge.at_the_edge == (2,)
    assert edge.trend.status is None
