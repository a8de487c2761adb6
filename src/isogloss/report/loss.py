"""The loss curve of a run, from its recorded numbers."""

from pathlib import Path
from typing import Any

from isogloss.report.saving import save_figure


def plot_loss(
    records: list[dict[str, Any]], baselines: dict[str, float], title: str, path: Path, *, floor: float | None = None
) -> None:
    """Draw the loss against tokens as a PNG: training, validation, and what it is compared with as lines across.

    In bits per byte with compressors' lines; in nats a target where the data are no text, or the floor is known.

    Args:
        records: of ``metrics.jsonl``; ``train`` records have ``tokens``.
        baselines: name -> bits per byte.
        title: of the figure.
        path: of the PNG.
        floor: the lowest loss there is, nats a target.
    """
    # Here, since it takes a while, and a run begins without it.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    in_bits = floor is None and any(r.get("bits_per_byte") is not None for r in records)
    value = "bits_per_byte" if in_bits else "loss"
    lines = {f"{name} -9": bits for name, bits in baselines.items()} if in_bits else {}
    if floor is not None:
        lines["floor"] = floor
    train = [r for r in records if r["kind"] == "train" and r[value] is not None]
    validation = [r for r in records if r["kind"] == "validation" and r[value] is not None]
    figure = Figure(figsize=(7, 4.2), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    axes.plot([r["tokens"] for r in train], [r[value] for r in train], lw=1, label="training")
    # The last validation reads all of the split, those before it its first rows: not one curve.
    for part, style, label in ((validation[:-1], "o-", "validation, first rows"), (validation[-1:], "D", "validation")):
        axes.plot([r["tokens"] for r in part], [r[value] for r in part], style, ms=4, label=label)
    for (name, height), style in zip(lines.items(), ("--", ":", "-."), strict=False):
        axes.axhline(height, color="grey", ls=style, lw=1)
        axes.annotate(name, (1, height), xycoords=("axes fraction", "data"), ha="right", va="bottom", fontsize=8)
    unit = "bits per byte" if in_bits else "nats a target"
    axes.set(xlabel="training tokens", ylabel=unit)
    axes.set_title(title, parse_math=False)
    highest = max([*lines.values(), *(r[value] for r in validation)], default=1.0)
    axes.set_ylim(0, 1.6 * highest)
    axes.legend()
    axes.grid(alpha=0.3)
    save_figure(figure, path, dpi=140)
