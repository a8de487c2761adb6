"""Every shipped recipe loads, can be planned, and trains when its model and text are made tiny."""

import json
import math
from pathlib import Path

import pytest
from rich.console import Console

from isogloss.config.base import UserError
from isogloss.data.synthetic.task import SyntheticConfig
from isogloss.recipe import DEFAULT, load_recipe, shipped_recipes
from isogloss.run.estimate import estimate_recipe
from isogloss.run.plan import plan_recipe
from isogloss.run.train import train
from isogloss.train.display import Display

RECIPES = shipped_recipes()
recipes = pytest.mark.parametrize("name", RECIPES)


def first_line(path: Path) -> str:
    return path.read_text().splitlines()[0]


def test_the_default_is_shipped() -> None:
    assert DEFAULT in RECIPES


@recipes
def test_it_bears_its_files_name(name: str) -> None:
    assert load_recipe(name).name == RECIPES[name].stem == name


@recipes
def test_its_first_line_says_what_it_is_and_no_other_says_the_same(name: str) -> None:
    line = first_line(RECIPES[name])
    assert line.startswith("# ")
    assert [other for other, path in RECIPES.items() if first_line(path) == line] == [name]


def test_a_scheme_that_is_for_other_models_is_refused_before_any_text_is_read() -> None:
    with pytest.raises(UserError, match="deepnorm is for post-norm blocks; set model"):
        load_recipe(DEFAULT, ["init={type: deepnorm}"])


WARMUPS = {"markov-tiny": 60, "recall-tiny": 60, "stdlib-hour": 100, "stdlib-small": 60}
"""In steps, at the number of steps that each recipe is shipped with: what its published figures were made with."""


@recipes
def test_its_warm_up_follows_the_number_of_steps(name: str) -> None:
    assert load_recipe(name).in_steps().optim.schedule.warmup == WARMUPS[name]
    for steps in (1, 2, 20, 100_000):
        recipe = load_recipe(name, [f"train.steps={steps}"])
        assert recipe.in_steps().optim.schedule.warmup <= 0.06 * steps


@recipes
def test_its_rates_are_those_of_a_warm_up_in_steps(name: str) -> None:
    recipe = load_recipe(name)
    schedule, steps = recipe.optim.schedule, recipe.train.steps
    in_steps = load_recipe(name, [f"optim.schedule.warmup={WARMUPS[name]}"]).optim.schedule
    assert [schedule.multiplier(k, steps) for k in range(steps + 1)] == [
        in_steps.multiplier(k, steps) for k in range(steps + 1)
    ]


@recipes
def test_its_weights_can_be_planned(name: str) -> None:
    rows = plan_recipe(name).rows
    layers = {row["layer"] for row in rows} - {None}
    assert layers == set(range(load_recipe(name).model.n_layers))
    assert all(row["effective_std"] > 0 for row in rows if len(row["shape"]) == 2)


@recipes
def test_what_it_takes_can_be_estimated(name: str) -> None:
    found = estimate_recipe(load_recipe(name), 1)
    assert found.n_parameters == sum(math.prod(row["shape"]) for row in plan_recipe(name).rows)


@recipes
def test_it_trains_when_made_tiny(name: str, tiny: Path) -> None:
    """Two steps; what the recipe says of heads' number, norms, caps, schedule and initialisation stays."""
    root = tiny.parent
    recipe = load_recipe(name)
    # Only what makes it slow is changed, so that a setting that cannot train is found here.
    text = [
        f"data={{type: files, train: [{root}/corpus], seq_len: 24, validation_bytes: 400, "
        f"prepared_dir: {root}/prepared, within_document: {json.dumps(recipe.data.cut().within_document)}}}",
        "tokenizer={type: bytes}",
    ]
    small = [
        f"runs_dir={root}/runs",
        *(["data.validation_rows=4"] if isinstance(recipe.data, SyntheticConfig) else text),
        f"model.d_model={4 * recipe.model.mixer.heads(recipe.model.d_model).n_heads}",
        "model.mixer.head_dim=4",
        "model.n_layers=1",
        "model.ffn.d_ff=16",
        "train={steps: 2, batch_size: 2, device: cpu, precision: fp32, compile: 'off'}",
        "watch.sample_tokens=4",
    ]
    summary = train(load_recipe(name, small), Display(Console(quiet=True)))
    assert summary["steps"] == 2
    assert summary["skipped_steps"] == 0
    assert 0 < summary["validation"]["loss"] < 2 * math.log(257)
