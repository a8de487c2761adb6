"""Measured signals of a model beside predicted ones, layer by layer, as a picture."""

import math
from pathlib import Path

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullLocator

from isogloss.init.signals import Signals
from isogloss.report.saving import save_figure

PANELS = (
    ("residual stream, RMS", {"stream": ""}),
    ("writes to it, RMS", {"mixer_write": "mixer, ", "ffn_write": "feed-forward, "}),
    ("gradient, over the last layer's", {"gradient": ""}),
    ("attention logits, std", {"attention_logit_std": ""}),
)


def plot_signals(measured: Signals, predicted: Signals, title: str, path: Path) -> None:
    """Draw four panels over the layers as a PNG: measured as points, predicted as lines.

    Args:
        measured: of one batch.
        predicted: of the plan and the same batch.
        title: of the figure.
        path: of the PNG.
    """
    figure = Figure(figsize=(9, 6.4), layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(title, parse_math=False)  # a path, which may hold dollars
    for axes, (what, lines) in zip(figure.subplots(2, 2).flat, PANELS, strict=True):
        values: list[float] = []
        for (name, label), color in zip(lines.items(), ("C0", "C1"), strict=False):
            found, expected = getattr(measured, name), getattr(predicted, name)
            axes.plot(expected, color=color, lw=1.5, label=f"{label}predicted")
            axes.plot(found, "o", color=color, ms=4, mfc="none", label=f"{label}measured")
            values += [*found, *expected]
        if all(0 < value < math.inf for value in values):  # ratios count, unless something is silent
            axes.set_yscale("log")
            axes.set_ylim(min(values) / 1.5, max(values) * 2)  # small differences shall look small
            axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            axes.yaxis.set_major_formatter("{x:g}")
            axes.yaxis.set_minor_locator(NullLocator())
        axes.set(title=what, xlabel="layer")
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.grid(alpha=0.3)
        axes.legend(fontsize=8)
    save_figure(figure, path, dpi=140)
