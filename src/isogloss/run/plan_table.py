"""A recipe's plan, and what differs between two of them, as tables: for a terminal, a document or a program."""

import csv
import io
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from isogloss.config.describe import ABSENT, diff
from isogloss.config.yaml import write_value
from isogloss.init.signals import Signals
from isogloss.report.tables import markdown_table
from isogloss.run.plan import RecipePlan
from isogloss.terminal import Table

NUMBERS = frozenset({"shape", "fan-in", "nominal", "std", "group", "std of B / A"})
"""Columns that stand to the right."""
SPARE = ("std", "lr, decay, eps", "shape", "nominal", "role", "fan-in", "group")
"""Columns that a narrow terminal goes without, the last of them first."""

_DECIDES = ("model.", "init.", "optim.", "seed")
"""The settings that initial weights and their updates follow from."""

Rows = list[tuple[str, ...]]


def plan_table(plan: RecipePlan) -> Rows:
    """Heading and rows. Layers with equal rules are shown once, as ``layers.0-3.…``."""
    heading = ("parameter", "role", "shape", "fan-in", "rule", "nominal", "std", "lr, decay, eps", "group")
    rows = [
        (
            name,
            row["role"],
            _shape(row),
            str(row["fan_in"]),
            _rule(row),
            _std(row, "std"),
            _std(row, "effective_std"),
            _factors(row),
            "" if row["group"] is None else str(row["group"]),
        )
        for name, row in _grouped(plan.rows)
    ]
    return [heading, *rows]


def footer(plan: RecipePlan) -> list[str]:
    """The reasons of rules that have one to give, the forward multipliers that are not 1, the predicted signals."""
    s, reasons = plan.signals, {}
    for name, row in _grouped(plan.rows):
        if row["why"]:
            reasons.setdefault(row["why"], []).append(name)
    factors = [f"{name} {value:.4g}" for name, value in asdict(plan.multipliers).items() if value != 1.0]
    return [
        *(f"{names[0]}{f' and {len(names) - 1} more' if names[1:] else ''}: {why}" for why, names in reasons.items()),
        *([f"forward multipliers: {', '.join(factors)}"] if factors else []),
        f"predicted on random tokens: stream {s.stream[0]:.3g} -> {s.stream[-1]:.3g}, of which the embedding "
        f"{s.embedding_share:.2g}; the last layer writes {s.mixer_write[-1]:.2g} (mixer), {s.ffn_write[-1]:.2g} (ffn)",
        f"attention logits {s.attention_logit_std[0]:.2g} .. {s.attention_logit_std[-1]:.2g}; gradient at the "
        f"embedding {s.gradient_ratio:.3g} times that at the last layer",
        f"logits {s.logit_std:.3g}; loss {s.loss:.3f} nats (ln V is {math.log(plan.n_vocab):.3f})",
    ]


def diff_rows(a: RecipePlan, b: RecipePlan) -> list[dict[str, Any]]:
    """What differs between two plans, and what comes of it: ``what``, ``a`` and ``b``, and the ``ratio`` of b to a.

    First the settings that differ, then the parameters, the forward multipliers and the predicted signals. Of a
    parameter a and b are rules, with shapes and the optimizer's factors where these differ (learning rate, decay,
    epsilon), and the ratio is that of the stds after the cut.
    """
    others = {row["name"]: row for row in b.rows}
    merged = []
    for row in a.rows:
        other = others.pop(row["name"], None)
        said = _said(row, other)
        if said[0] != said[1]:
            merged.append(row | {"rule": said, "std": (_value(row), _value(other))})
    for row in others.values():
        merged.append(row | {"rule": ("absent", _rule(row)), "std": (None, _value(row))})
    found: list[tuple[str, tuple[Any, Any], tuple[Any, Any]]] = [
        (f"setting: {key}", (_written(x), _written(y)), (None, None))
        for key, x, y in diff(a.recipe, b.recipe)
        if key.startswith(_DECIDES)
    ]
    found += [(name, row["rule"], row["std"]) for name, row in _grouped(merged)]
    for name, value in asdict(a.multipliers).items():
        if value != (other := getattr(b.multipliers, name)):
            found.append((f"multiplier: {name}", (value, other), (value, other)))
    found += [(what, values, values) for what, values in _compared(a.signals, b.signals).items()]
    return [
        {"what": what, "a": left, "b": right, "ratio": y / x if x and y is not None else None}
        for what, (left, right), (x, y) in found
    ]


def _written(value: Any) -> str:
    return "absent" if value is ABSENT else write_value(value)


def _said(row: dict[str, Any], other: dict[str, Any] | None) -> tuple[str, str]:
    """Two rules, with all else in which the parameters differ."""
    if other is None:
        return _rule(row), "absent"
    said = [_rule(row), _rule(other)]
    facts = [_shape, _factors, lambda of: of["role"]]
    if said[0] == said[1]:
        facts.append(lambda of: f"std {_value(of):.6g}, bound {of['bound'] or math.inf:.6g}")
    for fact in facts:
        pair = fact(row), fact(other)
        if pair[0] != pair[1]:
            said = [f"{text}; {found or '1, 1, 1'}" for text, found in zip(said, pair, strict=True)]
    return said[0], said[1]


def diff_table(rows: Sequence[Mapping[str, Any]]) -> Rows:
    """Heading and rows of `diff_rows`."""

    def cell(value: Any) -> str:
        return "" if value is None else value if isinstance(value, str) else f"{value:.4g}"

    return [("what", "A", "B", "std of B / A"), *(tuple(cell(value) for value in row.values()) for row in rows)]


def as_table(table: Rows, width: int) -> Table:
    """For rich's console of this width; a caption names columns that it has no room for."""
    columns = list(zip(*table, strict=True))
    left_out = []
    while sum(max(map(len, column)) + 3 for column in columns) >= width:
        spare = [column for column in columns if column[0] in SPARE]
        if not spare:
            break
        left_out.append(max(spare, key=lambda column: SPARE.index(column[0])))
        columns.remove(left_out[-1])
    caption = f"no room for {'; '.join(column[0] for column in left_out)} (--format shows all)" if left_out else None
    found = Table(caption=caption, caption_justify="left")
    for index, (name, *_) in enumerate(columns):  # the first stays in one piece
        found.add_column(name, justify="right" if name in NUMBERS else "left", overflow="fold", no_wrap=index == 0)
    for row in zip(*(column[1:] for column in columns), strict=True):
        found.add_row(*row)
    return found


def as_csv(rows: Sequence[Mapping[str, Any]]) -> str:
    """With a heading; of a plan, one line a parameter."""
    out = io.StringIO()
    writer = csv.DictWriter(out, fieldnames=list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows({**row, "shape": _shape(row)} if "shape" in row else row for row in rows)
    return out.getvalue()


def as_markdown(table: Rows, below: Sequence[str]) -> str:
    """A table for a document, its names as code, and sentences below it."""
    heading, *rows = table
    lines = markdown_table(heading, [(what if " " in what else f"`{what}`", *cells) for what, *cells in rows])
    return "\n".join([lines, *below, ""]) if below else lines


def _compared(a: Signals, b: Signals) -> dict[str, tuple[float, float]]:
    return {
        "predicted: last stream": (a.stream[-1], b.stream[-1]),
        "predicted: last mixer write": (a.mixer_write[-1], b.mixer_write[-1]),
        "predicted: last ffn write": (a.ffn_write[-1], b.ffn_write[-1]),
        "predicted: last attention logits": (a.attention_logit_std[-1], b.attention_logit_std[-1]),
        "predicted: gradient embedding / last": (a.gradient_ratio, b.gradient_ratio),
        "predicted: loss": (a.loss, b.loss),
    }


def _grouped(rows: list[dict[str, Any]]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Rows that differ in nothing but their layer, as one with a span of layers in its name."""
    groups: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
    for row in rows:
        name = row["name"] if row["layer"] is None else row["name"].replace(f".{row['layer']}.", ".{}.", 1)
        groups.setdefault((name, row["rule"], row["std"], _factors(row)), []).append(row)
    for (name, *_), same in groups.items():
        layers = [row["layer"] for row in same]
        span = f"{layers[0]}" if len(layers) == 1 else f"{layers[0]}-{layers[-1]}"
        yield name.replace("{}", span), same[0]


def _rule(row: dict[str, Any]) -> str:
    if row["distribution"] == "constant":
        return f"constant {row['rule']}"
    cut = "" if row["cut"] is None else f", cut {row['cut']:g}"
    return row["rule"] + cut + (f" compensated: within {row['bound']:.4g}" if row["compensated"] else "")


def _value(row: dict[str, Any] | None) -> float | None:
    if row is None:
        return None
    return row["value"] if row["distribution"] == "constant" else row["effective_std"]


def _std(row: dict[str, Any], which: str) -> str:
    return "" if row["distribution"] == "constant" else f"{row[which]:.4g}"


def _shape(row: Mapping[str, Any]) -> str:
    return "x".join(map(str, row["shape"]))


def _factors(row: dict[str, Any]) -> str:
    factors = [row["lr"], row["weight_decay"], row["eps"]]
    return "" if factors == [1.0] * 3 else ", ".join(f"{factor:.4g}" for factor in factors)
