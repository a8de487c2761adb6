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
    # The first losses are often far above all others: the axis holds them where that costs less than half of it.
    highest = max([*lines.values(), *(r[value] for r in validation)], default=1.0)
    top = 1.6 * highest
    if train and (first := max(r[value] for r in train)) <= 2 * top:
        top = max(top, 1.05 * first)
    figure = Figure(figsize=(7, 4.2), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    if train:
        axes.plot([r["tokens"] for r in train], [r[value] for r in train], lw=1, label="training")
    # The last validation reads all of the split, those before it its first rows: not one curve.
    for part, style, label in ((validation[:-1], "o-", "validation, first rows"), (validation[-1:], "D", "validation")):
        if part:  # markers at the edge are drawn whole
            x, y = [r["tokens"] for r in part], [r[value] for r in part]
            axes.plot(x, y, style, ms=4, label=label, clip_on=False, zorder=3)
    heights = sorted(lines.values())
    for (name, height), style in zip(lines.items(), ("--", ":", "-."), strict=False):
        axes.axhline(height, color="grey", ls=style, lw=1)
        crowded = any(0 < other - height < 0.06 * top for other in heights)  # then its label stands below its line
        side = {"ha": "right", "va": "top" if crowded else "bottom", "fontsize": 8}
        axes.annotate(name, (0.995, height), xycoords=("axes fraction", "data"), **side)
    unit = "bits per byte" if in_bits else "nats a target"
    axes.set(xlabel="training tokens", ylabel=unit)
    axes.set_title(title, parse_math=False)
    axes.set_ylim(0, top)
    if axes.get_legend_handles_labels()[0]:
        axes.legend(loc="upper right")
    axes.grid(alpha=0.3)
    save_figure(figure, path, dpi=140)
