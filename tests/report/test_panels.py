"""Figures of panels: of a size that can be looked at, with labels that can be read."""

from pathlib import Path

import pytest
from matplotlib.figure import Figure
from matplotlib.image import imread

from isogloss.report.panels import Line, Panel, draw

RATES = [2.0**-k for k in range(10, 3, -1)]


@pytest.mark.parametrize("n_panels", [1, 2, 9, 10, 29])
def test_no_picture_is_larger_than_a_screen_shows(tmp_path: Path, n_panels: int) -> None:
    panel = Panel("loss", "rate", "loss", [Line("a", RATES, [RATES])], "x")
    draw([panel] * n_panels, tmp_path / "a.png")
    height, width = imread(tmp_path / "a.png").shape[:2]
    assert max(height, width) <= 2400
    assert height <= 1.2 * width


def test_rates_are_labelled_as_numbers(tmp_path: Path, monkeypatch) -> None:
    figures = []
    original = Figure.savefig
    monkeypatch.setattr(Figure, "savefig", lambda self, *a, **k: (original(self, *a, **k), figures.append(self))[1])
    draw([Panel("loss", "rate", "loss", [Line("a", RATES, [RATES])], "x")], tmp_path / "a.png")
    labels = [label.get_text() for label in figures[0].axes[0].get_xticklabels() if label.get_text()]
    assert labels
    assert all(0.0009 < float(label) < 0.07 for label in labels)
    assert len(labels) <= 7
