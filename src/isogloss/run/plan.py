"""The initialisation plan of a recipe, as rows and as a table."""

from collections.abc import Sequence
from typing import Any

from rich.table import Table

from isogloss.build import plan_model
from isogloss.data.tokenizers.loading import build_tokenizer
from isogloss.recipe import load_recipe


def plan_recipe(name: str, overrides: Sequence[str] = ()) -> list[dict[str, Any]]:
    """One row a parameter, on the meta device: no weights are made, and no text is read.

    Where the recipe leaves the vocabulary to the tokenizer, it is taken to be the size asked of the tokenizer.
    """
    recipe = load_recipe(name, overrides)
    if recipe.model.vocab_size is None:
        tokenizer = recipe.tokenizer
        n_tokens = tokenizer.vocab_size if tokenizer.type == "bpe" else build_tokenizer(tokenizer, tuple).n_tokens
        recipe = recipe.with_vocabulary(n_tokens)
    return [entry.row() for entry in plan_model(recipe.model, recipe.init).plan.values()]


def plan_table(rows: list[dict[str, Any]]) -> Table:
    """Layers with equal rules are shown once, as ``layers.0-3.…``."""
    table = Table()
    for column in ("parameter", "role", "shape", "fan-in", "rule", "std", "cut", "effective std"):
        table.add_column(
            column, justify="left" if column in ("parameter", "role", "rule") else "right", overflow="fold"
        )
    groups: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
    for row in rows:
        name = row["name"] if row["layer"] is None else row["name"].replace(f".{row['layer']}.", ".{}.", 1)
        groups.setdefault((name, row["rule"], row["std"]), []).append(row)
    for (name, rule, std), same in groups.items():
        layers = [row["layer"] for row in same]
        span = f"{layers[0]}" if len(layers) == 1 else f"{layers[0]}-{layers[-1]}"
        cut = same[0]["cut"]
        table.add_row(
            name.replace("{}", span),
            same[0]["role"],
            "x".join(map(str, same[0]["shape"])),
            str(same[0]["fan_in"]),
            rule,
            f"{std:.5f}",
            "" if cut is None else f"{cut:g} std",
            f"{same[0]['effective_std']:.5f}",
        )
    return table
