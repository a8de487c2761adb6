"""The loss curve of a run, from its recorded numbers."""

from pathlib import Path
from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure


def plot_loss(records: list[dict[str, Any]], baselines: dict[str, float], title: str, path: Path) -> None:
    """Draw bits per byte against tokens as a PNG: training, validation, and compressors' as lines across.

    Args:
        records: of ``metrics.jsonl``; ``train`` records have ``tokens``.
        baselines: name -> bits per byte.
        title: of the figure.
        path: of the PNG.
    """
    train = [r for r in records if r["kind"] == "train"]
    validation = [r for r in records if r["kind"] == "validation" and r["bits_per_byte"] is not None]
    figure = Figure(figsize=(7, 4.2), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    made = [r for r in train if r["bits_per_byte"] is not None]
    axes.plot([r["tokens"] for r in made], [r["bits_per_byte"] for r in made], lw=1, label="training")
    # The last validation reads all of the split, those before it its first rows: not one curve.
    for part, style, label in ((validation[:-1], "o-", "validation, first rows"), (validation[-1:], "D", "validation")):
        axes.plot([r["tokens"] for r in part], [r["bits_per_byte"] for r in part], style, ms=4, label=label)
    for (name, bits), style in zip(baselines.items(), ("--", ":", "-."), strict=False):
        axes.axhline(bits, color="grey", ls=style, lw=1)
        axes.annotate(f"{name} -9", (1, bits), xycoords=("axes fraction", "data"), ha="right", va="bottom", fontsize=8)
    axes.set(xlabel="training tokens", ylabel="bits per byte", title=title)
    highest = max([*baselines.values(), *(r["bits_per_byte"] for r in validation)], default=1.0)
    axes.set_ylim(0, 1.6 * highest)
    axes.legend()
    axes.grid(alpha=0.3)
    figure.savefig(path, dpi=140)
