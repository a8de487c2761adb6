"""Figures of panels of lines, with bands where there are intervals."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from isogloss.report.saving import save_figure


@dataclass(frozen=True)
class Line:
    """One line: the mean of some samples, and a band from the lowest to the highest of them.

    Args:
        label: in the legend; empty for none.
        x: where.
        samples: values at each x, of one seed each.
        style: matplotlib's short form, such as ``o-``.
    """

    label: str
    x: Sequence[float]
    samples: Sequence[Sequence[float]]
    style: str = "-"


@dataclass(frozen=True)
class Panel:
    """One pair of axes; both logarithmic, if ``log``; cut at the top at ``top`` times the lowest value."""

    title: str
    x_label: str
    y_label: str
    lines: Sequence[Line]
    log: str = ""
    top: float = math.inf


MAX_LABELS = 6
"""Of one axis."""
MAX_PIXELS = 2400
"""Of the longer side of a picture."""


def draw(panels: Sequence[Panel], path: Path, title: str = "") -> None:
    """Draw panels as a PNG: up to three beside each other, and more where there are more than nine."""
    # Here, since it takes a while, and a study begins without it.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    columns = min(len(panels), max(3, math.isqrt(len(panels) - 1) + 1))  # no page is much higher than it is wide
    rows = -(-len(panels) // columns)
    figure = Figure(figsize=(1.0 + 4.2 * columns, 0.6 + 3.4 * rows), layout="constrained")
    FigureCanvasAgg(figure)
    for index, panel in enumerate(panels):
        _draw(figure.add_subplot(rows, columns, index + 1), panel)
    figure.suptitle(title, parse_math=False)
    save_figure(figure, path, dpi=min(130.0, MAX_PIXELS / float(max(figure.get_size_inches()))))


def _label_places(axes, places: Sequence[float]) -> None:
    """Label the places where something was measured, 0.003 and not 2^-8; not all of them, where they are many."""
    shown = sorted({x for x in places if x > 0})
    axes.set_xticks(shown[:: 1 + (len(shown) - 1) // MAX_LABELS], minor=False)
    axes.xaxis.set_major_formatter("{x:.3g}")
    axes.minorticks_off()


def _draw(axes, panel: Panel) -> None:
    lows = []
    for line in panel.lines:
        columns = list(zip(*line.samples, strict=True))
        means = [sum(column) / len(column) for column in columns]
        (drawn,) = axes.plot(line.x, means, line.style, lw=1.3, ms=4, label=line.label or None)
        if len(line.samples) > 1:
            axes.fill_between(
                line.x, list(map(min, columns)), list(map(max, columns)), color=drawn.get_color(), alpha=0.2
            )
        lows += [mean for mean in means if math.isfinite(mean)]
    axes.set(xlabel=panel.x_label, ylabel=panel.y_label, title=panel.title)
    if "x" in panel.log:
        axes.set_xscale("log", base=2)
        _label_places(axes, [x for line in panel.lines for x in line.x])
    if "y" in panel.log:
        axes.set_yscale("log")
    if math.isfinite(panel.top) and lows:
        low, high = min(lows), min(max(lows), panel.top * min(lows))
        margin = 0.05 * (high - low) or 0.05 * abs(high)
        axes.set_ylim(low - margin, high + margin)
    if panel.log == "xy" and lows and min(lows) > 0:  # what is flat must look flat
        bottom, top = axes.get_ylim()
        axes.set_ylim(min(bottom, min(lows) / 2), max(top, max(lows) * 2))
    axes.grid(alpha=0.3)
    if any(line.label for line in panel.lines):
        axes.legend(fontsize=8)
