"""Signals are a picture, silent and broken ones too, in which each of them is drawn."""

from dataclasses import replace
from pathlib import Path

import pytest
from matplotlib.image import imread

from isogloss.init.signals import Signals
from isogloss.report.signals import plot_signals

SIGNALS = Signals((0.1, 0.2, 0.4), (0.1, 0.2), (0.1, 0.3), (4.0, 2.0, 1.0), (1.0, 1.1), 1.0, 8.0)


def draw(path: Path, measured: Signals, predicted: Signals = SIGNALS):
    plot_signals(measured, predicted, "a model", path)
    assert path.read_bytes().startswith(b"\x89PNG")
    return imread(path)


@pytest.mark.parametrize("value", [0.0, float("nan"), float("inf")])
def test_it_is_a_picture(tmp_path: Path, value: float) -> None:
    height, width = draw(tmp_path / "a.png", replace(SIGNALS, mixer_write=(value, value))).shape[:2]
    assert 500 < height < width


def test_every_signal_is_drawn(tmp_path: Path) -> None:
    equal = draw(tmp_path / "a.png", SIGNALS)
    for name in ("stream", "mixer_write", "ffn_write", "gradient", "attention_logit_std"):
        other = replace(SIGNALS, **{name: tuple(1.3 * x for x in getattr(SIGNALS, name))})
        assert (draw(tmp_path / "b.png", other) != equal).any(), name
        assert (draw(tmp_path / "b.png", SIGNALS, other) != equal).any(), name
