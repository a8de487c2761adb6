"""A best rate is where a parabola has it; beside divergence it is an edge, and what is not known is in the interval."""

import math
from io import StringIO

import pytest
from rich.console import Console

from isogloss.recipe import load_recipe
from isogloss.study.optimum import find_optimum
from isogloss.study.results import show_sweep
from isogloss.study.sweep import Sweep
from isogloss.study.trials import open_study
from isogloss.train.display import Display

RATES = tuple(1e-3 * 2.0**k for k in range(6))


def parabola(best: float, diverges_above: float = math.inf) -> tuple[float, ...]:
    return tuple(math.inf if rate > diverges_above else 2.0 + 0.1 * math.log2(rate / best) ** 2 for rate in RATES)


def sweep(*losses: tuple[float, ...], rates: tuple[float, ...] = RATES) -> Sweep:
    sizes = tuple(64 * 2**k for k in range(len(losses)))
    return Sweep("width", sizes, rates, tuple((row, row) for row in losses), True)


def test_a_parabola_has_its_vertex_and_no_doubt() -> None:
    best = find_optimum(RATES, parabola(5e-3))
    assert (best.rate, best.low, best.high) == (pytest.approx(5e-3),) * 3
    assert not best.is_edge


def test_a_drift_below_the_step_of_the_grid_is_seen_beside_divergence() -> None:
    """As one would meet it: the same grid rate is lowest at every width, and the next one diverges."""
    bests = [7.5e-3 * 2 ** (-0.46 * k) for k in range(3)]
    found = sweep(*(parabola(best, 8e-3) for best in bests))
    slope = found.trend.slope
    assert slope.mean == pytest.approx(-0.46, abs=0.01)
    assert slope.low < -0.46 < slope.high
    assert slope.half > 0.15
    assert found.trend.status is None
    assert set(found.at_the_edge) >= {64}


@pytest.mark.parametrize("towards", [-1, 1])
@pytest.mark.parametrize("gone", [math.inf, math.nan, 60.0, 4.0])
def test_a_neighbour_that_diverged_leaves_an_edge(gone: float, towards: int) -> None:
    losses = [2.9, 2.6, 2.4, 2.3, gone, gone]
    rates = RATES
    if towards < 0:
        losses, rates = losses[::-1], tuple(1 / rate for rate in RATES[::-1])
    best = find_optimum(rates, losses)
    i = losses.index(2.3)
    assert best.is_edge
    assert (best.low, best.high) == (rates[i - 1], rates[i + 1])
    assert best.rate == pytest.approx(rates[i] * 2 ** (towards * 0.5))  # by the three that are left


def test_two_losses_beside_divergence_are_no_parabola() -> None:
    best = find_optimum(RATES[:4], [3.0, 2.0, math.inf, math.inf])
    assert (best.rate, best.low, best.high, best.is_edge) == (2e-3, 1e-3, 4e-3, True)
    best = find_optimum(RATES[:3], [math.inf, 2.0, math.inf])
    assert (best.rate, best.low, best.high, best.is_edge) == (2e-3, 1e-3, 4e-3, True)


def test_at_an_end_of_the_rates_the_range_has_no_end() -> None:
    first, last = find_optimum(RATES[:3], [1.0, 2.0, 3.0]), find_optimum(RATES[:3], [3.0, 2.0, 1.0])
    assert (first.rate, first.low, first.high, first.is_edge) == (1e-3, 0.0, 2e-3, True)
    assert (last.rate, last.low, last.high, last.is_edge) == (4e-3, 2e-3, math.inf, True)
    found = sweep(parabola(1e-3), parabola(4e-3))
    assert found.at_the_edge == (64,)
    assert found.trend.slope.half == math.inf


def test_three_rates_know_no_more_than_half_a_step() -> None:
    best = find_optimum(RATES[:3], [2.1, 2.0, 2.1])
    assert (best.rate, best.is_edge) == (pytest.approx(2e-3), False)
    assert (best.low, best.high) == (pytest.approx(2e-3 / 2**0.5), pytest.approx(2e-3 * 2**0.5))
    still = sweep(*[(2.1, 2.0, 2.1)] * 3, rates=RATES[:3])
    assert still.trend.slope.half == pytest.approx(0.5)  # from one end of the widths to the other, a step in all
    assert still.trend.status == "warn"


def test_losses_that_are_no_parabola_widen_the_interval() -> None:
    kinked = tuple(2.0 + abs(math.log2(rate / 5e-3)) for rate in RATES)
    best = find_optimum(RATES, kinked)
    assert best.low < 5e-3 < best.high
    assert best.low < best.rate < best.high


def test_where_every_rate_diverges_nothing_is_claimed() -> None:
    found = sweep((math.inf,) * 6, parabola(5e-3))
    assert found.at_the_edge == (64,)
    assert found.trend.status is None
    assert math.isnan(found.trend.slope.mean)
    assert found.advice() == ["width 64: every rate diverged; give --rates below 0.001"]


def test_an_edge_is_said_with_the_rates_that_refine_it(tiny) -> None:
    console = Console(record=True, width=400, file=StringIO())
    study = open_study(load_recipe(str(tiny)), tiny.parent / "studies", 1, Display(console))
    study.folder.mkdir()
    show_sweep(study, sweep(parabola(7e-3, 8e-3), parabola(6e-3, 8e-3)))
    said = console.export_text()
    assert "as promised" not in said
    assert "(edge)" in said
    assert "an edge, not an optimum; the best rate lies between 0.004 and 0.016" in said
    assert "--rates 0.004,0.00476," in said
