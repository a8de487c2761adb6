"""The initialisation plan of a recipe: its rows, the signals it will give, and both as tables."""

import csv
import io
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any

import torch
from rich.table import Table

from isogloss.build import plan_model
from isogloss.data.synthetic.corpus import SyntheticCorpus
from isogloss.data.synthetic.task import SyntheticConfig
from isogloss.data.tokenizers.config import BPEConfig
from isogloss.data.tokenizers.loading import build_tokenizer
from isogloss.init.predict import predict_signals
from isogloss.init.signals import Signals
from isogloss.nn.multipliers import Multipliers
from isogloss.recipe import Recipe, load_recipe

N_TOKENS = 128
"""Of the row of random tokens that signals are predicted for; a real batch has repetitions, see `init verify`."""


@dataclass(frozen=True)
class RecipePlan:
    """One row a parameter, and what they will give."""

    rows: list[dict[str, Any]]
    multipliers: Multipliers
    signals: Signals
    n_vocab: int


def plan_recipe(name: str, overrides: Sequence[str] = ()) -> RecipePlan:
    """Plan on the meta device: no weights are made, and no text is read.

    Where the recipe leaves the vocabulary to the tokenizer, it is taken to be the size asked of the tokenizer.
    """
    recipe = _with_planned_vocabulary(load_recipe(name, overrides))
    planned, n_vocab = plan_model(recipe.model, recipe.init), recipe.model.vocab_size
    assert n_vocab is not None
    n_tokens = min(recipe.data.seq_len, N_TOKENS)
    tokens = torch.randint(n_vocab, (1, n_tokens), generator=torch.Generator().manual_seed(0))
    with _one_thread():
        signals = predict_signals(recipe.model, planned.model.multipliers, planned.plan, tokens)
    return RecipePlan([entry.row() for entry in planned.plan.values()], planned.model.multipliers, signals, n_vocab)


@contextmanager
def _one_thread() -> Iterator[None]:
    """For matrices of N_TOKENS squared, over which threads wait for each other several times as long as they work."""
    former = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(former)


def _with_planned_vocabulary(recipe: Recipe) -> Recipe:
    """The recipe with a vocabulary, without reading any text."""
    if recipe.model.vocab_size is not None:
        return recipe
    match recipe.data, recipe.tokenizer:
        case SyntheticConfig() as data, _:
            n_tokens = SyntheticCorpus(data).tokenizer.n_tokens
        case _, BPEConfig() as tokenizer:
            n_tokens = tokenizer.vocab_size
        case _, tokenizer:
            n_tokens = build_tokenizer(tokenizer, tuple).n_tokens
    return recipe.with_vocabulary(n_tokens)


def plan_table(plan: RecipePlan) -> Table:
    """Layers with equal rules are shown once, as ``layers.0-3.…``; the optimizer's factors where there are some."""
    factors = any(_factors(row) for row in plan.rows)
    table = Table(caption="std: after the cut, where there is one", caption_justify="left")
    for column in ("parameter", "role", "shape", "rule", "std", *(["lr, decay, eps"] if factors else [])):
        table.add_column(column, justify="right" if column in ("shape", "std") else "left", overflow="fold")
    for name, row in _grouped(plan.rows):
        shape = "x".join(map(str, row["shape"]))
        cells = [name, row["role"], shape, _rule(row), _std(row)]
        table.add_row(*cells, *([_factors(row)] if factors else []))
    return table


def signal_lines(plan: RecipePlan) -> list[str]:
    """The forward multipliers, where there are some, and the predicted signals in words."""
    s = plan.signals
    factors = [f"{name} {value:.4g}" for name, value in asdict(plan.multipliers).items() if value != 1.0]
    return [
        *([f"forward multipliers: {', '.join(factors)}"] if factors else []),
        f"predicted on random tokens: stream {s.stream[0]:.3g} -> {s.stream[-1]:.3g}, of which the embedding "
        f"{s.embedding_share:.2g}; the last layer writes {s.mixer_write[-1]:.2g} (mixer), {s.ffn_write[-1]:.2g} (ffn)",
        f"attention logits {s.attention_logit_std[0]:.2g} .. {s.attention_logit_std[-1]:.2g}; gradient at the "
        f"embedding {s.gradient_ratio:.3g} times that at the last layer",
        f"logits {s.logit_std:.3g}; loss {s.loss:.3f} nats (ln V is {math.log(plan.n_vocab):.3f})",
    ]


def diff_table(a: RecipePlan, b: RecipePlan) -> Table:
    """What differs between two plans, and what comes of it."""
    table = Table()
    for column in ("parameter", "rule of A", "rule of B", "std of B / A"):
        table.add_column(column, justify="right" if "/" in column else "left", overflow="fold")
    others = {row["name"]: row for row in b.rows}
    pairs = [(row, others.pop(row["name"], None)) for row in a.rows]
    merged = [
        row | {"rule": (_rule(row), _rule(other) if other else "absent"), "std": (_value(row), _value(other))}
        for row, other in pairs
        if other is None or (_rule(row), _factors(row)) != (_rule(other), _factors(other))
    ]
    merged += [row | {"rule": ("absent", _rule(row)), "std": (None, _value(row))} for row in others.values()]
    for name, row in _grouped(merged):
        left, right = row["std"]
        table.add_row(name, *row["rule"], f"{right / left:.4g}" if left and right is not None else "")
    for what, (x, y) in _compared(a.signals, b.signals).items():
        table.add_row(what, f"{x:.4g}", f"{y:.4g}", f"{y / x:.4g}" if x else "")
    return table


def as_csv(plan: RecipePlan) -> str:
    """One line a parameter, with a heading."""
    out = io.StringIO()
    writer = csv.DictWriter(out, fieldnames=list(plan.rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(row | {"shape": "x".join(map(str, row["shape"]))} for row in plan.rows)
    return out.getvalue()


def as_markdown(plan: RecipePlan) -> str:
    """A table for a document, and the signals below it."""
    lines = ["| parameter | role | shape | rule | std |", "|---|---|---|---|---|"]
    for name, row in _grouped(plan.rows):
        shape = "x".join(map(str, row["shape"]))
        lines.append(f"| `{name}` | {row['role']} | {shape} | {_rule(row)} | {_std(row)} |")
    return "\n".join([*lines, "", *signal_lines(plan), ""])


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
    return row["rule"] + ("" if row["cut"] is None else f", cut {row['cut']:g}")


def _value(row: dict[str, Any] | None) -> float | None:
    if row is None:
        return None
    return row["value"] if row["distribution"] == "constant" else row["effective_std"]


def _std(row: dict[str, Any]) -> str:
    return "" if row["distribution"] == "constant" else f"{row['effective_std']:.5f}"


def _factors(row: dict[str, Any]) -> str:
    factors = [row["lr"], row["weight_decay"], row["eps"]]
    return "" if factors == [1.0] * 3 else ", ".join(f"{factor:.4g}" for factor in factors)
