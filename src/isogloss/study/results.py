"""What a study found: said in a table, and kept in its folder as JSON, Markdown, a picture and, compared, a page."""

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from isogloss.init.scheme import Axis
from isogloss.report.panels import Line, Panel, draw
from isogloss.report.tables import markdown_table, terminal_table, write_page
from isogloss.study import compare, slopes
from isogloss.study.compare import Comparison
from isogloss.study.slopes import Slope
from isogloss.study.sweep import Sweep
from isogloss.study.trials import Study


def show_slopes(study: Study, axis: Axis, found: Sequence[Slope], steps: int) -> None:
    """The slopes of a coordinate check."""
    scheme = study.recipe.init.type
    name = f"coordinate-{axis}-{scheme}"
    title = f"{scheme}: how quantities go with the {axis}, {steps} steps"
    rows = slopes.slope_rows(found)
    panels = [Panel(s.name, axis, "", [Line("", s.sizes, s.values, "o-")], "xy") for s in found]
    draw(panels, study.folder / f"{name}.png", title)
    data = [{"quantity": s.name, "sizes": s.sizes, "values": s.values, "promised": s.promised} for s in found]
    _keep(study, name, slopes.COLUMNS, rows, {"axis": axis, "steps": steps, "slopes": data})
    study.display.show(terminal_table(title, slopes.COLUMNS, rows))
    if all(s.promised is None for s in found):
        study.display.say(
            f"{scheme} promises nothing about the {axis}: a learning rate that is best at one may not be at another"
        )
    _say_where(study, name, ("png", "md", "json"))


def show_sweep(study: Study, found: Sweep) -> None:
    """Losses over learning rates, and where the best one lies."""
    scheme = study.recipe.init.type
    name = f"lr-sweep-{found.axis}-{scheme}"
    title = f"{scheme}: validation loss by learning rate and {found.axis}, {study.recipe.train.steps} steps"
    drift = found.drift
    columns = (found.axis, *(f"{rate:g}" for rate in found.rates), "best rate")
    rows = []
    for i, (size, seeds) in enumerate(zip(found.sizes, found.losses, strict=True)):
        means = [sum(column) / len(column) for column in zip(*seeds, strict=True)]
        best = [values[i] for values in drift.values]
        rows.append((str(size), *(f"{m:.4f}" for m in means), f"{sum(best) / len(best):.3g}"))
    lines = [
        Line(f"{found.axis} {size}", found.rates, [_no_infinities(s) for s in seeds], "o-")
        for size, seeds in zip(found.sizes, found.losses, strict=True)
    ]
    best = Panel("best learning rate", found.axis, "rate", [Line("", found.sizes, drift.values, "o-")], "xy")
    draw(
        [Panel("", "learning rate", "validation loss, nats", lines, "x", top=1.3), best],
        study.folder / f"{name}.png",
        title,
    )
    data = {"axis": found.axis, "sizes": found.sizes, "rates": found.rates, "losses": found.losses}
    _keep(study, name, columns, rows, data)
    study.display.show(terminal_table(title, columns, rows))
    promise = {
        None: "no promise",
        "pass": "as promised",
        "warn": "as promised, within a wide interval",
        "fail": "promised 0",
    }
    study.display.say(f"the best rate goes as {found.axis}^({drift.slope}): {promise[drift.status]}")
    if found.at_the_edge:
        sizes = ", ".join(map(str, found.at_the_edge))
        study.display.say(
            f"at {found.axis} {sizes} the lowest loss is at an end of the rates: widen --rates to be sure"
        )
    _say_where(study, name, ("png", "md", "json"))


def show_comparison(study: Study, found: Comparison) -> None:
    """Schemes side by side, and the verdict."""
    name = "compare-" + "-".join(arm.label.partition(":")[0] for arm in found.arms)[:80]
    recipe = study.recipe
    n_seeds = len(found.arms[0].results)
    title = f"{' against '.join(arm.label for arm in found.arms)}: {n_seeds} seeds, {recipe.train.steps} steps"
    rows = compare.comparison_rows(found)

    def panel(what: str, key: str, log: str, at: str | None = None, top: float = math.inf) -> Panel:
        lines = []
        for arm in found.arms:
            length = min(len(result[key]) for result in arm.results)
            x = arm.results[0][at][:length] if at else range(1, length + 1)
            lines.append(Line(arm.label, list(x), [_no_infinities(result[key][:length]) for result in arm.results]))
        return Panel(what, "step", what, lines, log, top)

    draw(
        [
            panel("training loss, nats", "loss", "", top=1.6),
            panel("gradient norm", "grad_norm", "y"),
            panel("largest attention logit", "attention_logit", "y", "attention_steps"),
        ],
        study.folder / f"{name}.png",
        title,
    )
    data = [
        {"scheme": arm.label, "rate": arm.rate, "rates": arm.rates, "validation": arm.validation, "spikes": arm.spikes}
        for arm in found.arms
    ]
    _keep(study, name, compare.COLUMNS, rows, {"arms": data, "verdict": found.verdict})
    model = recipe.model
    sentences = [
        found.verdict,
        f"{model.type}, width {model.d_model}, {model.n_layers} layers; {recipe.train.steps} steps of "
        f"{recipe.train.batch_size} rows of {recipe.data.seq_len} tokens; equal seeds share batches and the uniforms "
        "behind the weights. Intervals: 95 %, Student's t over seeds; of differences, for all schemes together. Bands: "
        "from the lowest seed to the highest.",
    ]
    page = study.folder / f"{name}.html"
    write_page(page, title, sentences, compare.COLUMNS, rows, study.folder / f"{name}.png")
    study.display.show(terminal_table(title, compare.COLUMNS, rows))
    study.display.say(found.verdict)
    _say_where(study, name, ("html", "png", "md", "json"))


def _keep(study: Study, name: str, columns: Sequence[str], rows: Sequence[Sequence[str]], data: dict[str, Any]) -> None:
    (study.folder / f"{name}.md").write_text(markdown_table(columns, rows))
    record = {"recipe": study.recipe.model_dump(mode="json"), "columns": columns, "rows": rows, **data}
    (study.folder / f"{name}.json").write_text(json.dumps(record, indent=1))


def _say_where(study: Study, name: str, kinds: Sequence[str]) -> None:
    path: Path = study.folder / name
    study.display.say(f"kept in {path}.{{{','.join(kinds)}}}")


def _no_infinities(values: Sequence[float | None]) -> list[float]:
    return [math.nan if value is None or not math.isfinite(value) else value for value in values]
