"""Measured signals of a model beside predicted ones, layer by layer, as a picture."""

from pathlib import Path

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from isogloss.init.signals import Signals

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
    figure.suptitle(title)
    for axes, (what, lines) in zip(figure.subplots(2, 2).flat, PANELS, strict=True):
        values: list[float] = []
        for (name, label), color in zip(lines.items(), ("C0", "C1"), strict=False):
            found, expected = getattr(measured, name), getattr(predicted, name)
            axes.plot(expected, color=color, lw=1.5, label=f"{label}predicted")
            axes.plot(found, "o", color=color, ms=4, mfc="none", label=f"{label}measured")
            values += [*found, *expected]
        # By their ratios, unless something is silent.
        axes.set_yscale("log" if all(value > 0 for value in values) else "linear")
        axes.set(title=what, xlabel="layer")
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.grid(alpha=0.3, which="both")
        axes.legend(fontsize=8)
    figure.savefig(path, dpi=140, format="png")
