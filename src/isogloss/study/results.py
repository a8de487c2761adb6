"""What a study found: said in a table, and kept in its folder as JSON, Markdown, a picture and, compared, a page."""

import hashlib
import json
import math
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from isogloss.durable import write_whole
from isogloss.init.scheme import Axis
from isogloss.report.panels import Line, Panel, draw
from isogloss.report.tables import markdown_table, terminal_table, write_page
from isogloss.study import compare, slopes
from isogloss.study.compare import Comparison
from isogloss.study.slopes import Slope
from isogloss.study.sweep import Sweep
from isogloss.study.trials import Study
from isogloss.train.metrics import finite


def show_slopes(study: Study, axis: Axis, found: Sequence[Slope], steps: int) -> None:
    """The slopes of a coordinate check."""
    scheme = study.recipe.init.type
    name = _name(study, f"coordinate-{axis}-{scheme}", [s.sizes for s in found[:1]], len(found[0].values))
    title = f"{scheme}: how quantities go with the {axis}, {steps} steps"
    rows = slopes.slope_rows(found)
    panels = [_slope_panel(s, axis) for s in found]
    draw(panels, study.folder / f"{name}.png", title)
    data = [{"quantity": s.name, "sizes": s.sizes, "values": s.values, "promised": s.promised} for s in found]
    _keep(study, name, slopes.COLUMNS, rows, {"axis": axis, "steps": steps, "slopes": data})
    study.display.show(terminal_table(title, slopes.COLUMNS, rows))
    study.display.say("what each quantity is, and which rule it betrays: isogloss/study/coordinates.py, and the guide")
    if all(s.promised is None for s in found):
        study.display.say(
            f"{scheme} promises nothing about the {axis}: a learning rate that is best at one may not be at another"
        )
    _say_where(study, name, ("png", "md", "json"))


def _slope_panel(found: Slope, axis: Axis) -> Panel:
    """Measured, and through its first point the promised power."""
    lines = [Line("", found.sizes, found.values, "o-")]
    status = "" if found.status is None else f": {found.status.upper()}"
    if found.promised is not None:
        first = sum(values[0] for values in found.values) / len(found.values)
        promise = [first * (size / found.sizes[0]) ** found.promised for size in found.sizes]
        lines.append(Line("promised", found.sizes, [promise], "--"))
    return Panel(f"{found.name}{status}", axis, "", lines, "xy")


def show_sweep(study: Study, found: Sweep) -> None:
    """Losses over learning rates, and where the best one lies."""
    scheme = study.recipe.init.type
    name = _name(study, f"lr-sweep-{found.axis}-{scheme}", found.sizes, found.rates, len(found.losses[0]))
    title = f"{scheme}: validation loss by learning rate and {found.axis}, {study.recipe.train.steps} steps"
    trend = found.trend
    columns = (found.axis, *(f"{rate:g}" for rate in found.rates), "best rate")
    rows = []
    for i, (size, seeds) in enumerate(zip(found.sizes, found.losses, strict=True)):
        means = [sum(column) / len(column) for column in zip(*seeds, strict=True)]
        best = [values[i] for values in trend.values]
        edge = " (edge)" if size in found.at_the_edge else ""
        rows.append((str(size), *(f"{m:.4f}" for m in means), f"{sum(best) / len(best):.3g}{edge}"))
    lines = [
        Line(f"{found.axis} {size}", found.rates, [_no_infinities(s) for s in seeds], "o-")
        for size, seeds in zip(found.sizes, found.losses, strict=True)
    ]
    best = Panel("best learning rate", found.axis, "rate", [Line("", found.sizes, trend.values, "o-")], "xy")
    draw(
        [Panel("", "learning rate", "validation loss, nats", lines, "x", top=1.3), best],
        study.folder / f"{name}.png",
        title,
    )
    data = {"axis": found.axis, "sizes": found.sizes, "rates": found.rates, "losses": found.losses}
    data["best"] = [[asdict(best) for best in seeds] for seeds in found.best]
    _keep(study, name, columns, rows, data)
    study.display.show(terminal_table(title, columns, rows))
    study.display.say(f"the best rate goes as {found.axis}^({slopes.two_digits(trend.slope)}): {_judged(found)}")
    for sentence in found.advice():
        study.display.say(sentence)
    _say_where(study, name, ("png", "md", "json"))


def show_comparison(study: Study, found: Comparison) -> None:
    """Schemes side by side, and the verdict."""
    recipe = study.recipe
    n_seeds = len(found.arms[0].results)
    labels = [arm.label for arm in found.arms]
    short = "-".join(label.partition(":")[0] for label in labels)[:60]
    name = _name(study, f"compare-{short}", labels, sorted(found.arms[0].rates), n_seeds)
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


def _judged(found: Sweep) -> str:
    if found.trend.promised is None:
        at_the_edge = "not judged, as not every size has an optimum among the rates"
        return at_the_edge if found.at_the_edge else "the scheme promises nothing"
    judged = {None: "not judged", "pass": "as promised", "fail": "not as promised"}
    said = judged.get(found.trend.status, "as promised, but with an interval too wide to tell: more seeds, more sizes")
    return f"{said} (0 +- {slopes.TOLERANCE})"


def _keep(study: Study, name: str, columns: Sequence[str], rows: Sequence[Sequence[str]], data: dict[str, Any]) -> None:
    write_whole(study.folder / f"{name}.md", markdown_table(columns, rows).encode())
    record = {"recipe": study.recipe.model_dump(mode="json"), "columns": columns, "rows": rows, **data}
    write_whole(study.folder / f"{name}.json", json.dumps(finite(record), indent=1).encode())


def _name(study: Study, words: str, *decides: object) -> str:
    """A file's name that another study of the same schemes does not have."""
    recipe = study.recipe.model_dump(mode="json", exclude={"name", "runs_dir", "watch", "checkpoint", "trackers"})
    text = json.dumps([recipe, study.corpus.name, decides], sort_keys=True)
    return f"{words}-{hashlib.sha256(text.encode()).hexdigest()[:6]}"


def _say_where(study: Study, name: str, kinds: Sequence[str]) -> None:
    path: Path = study.folder / name
    study.display.say(f"kept in {path}.{{{','.join(kinds)}}}")


def _no_infinities(values: Sequence[float]) -> list[float]:
    return [value if math.isfinite(value) else math.nan for value in values]
