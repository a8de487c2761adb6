"""The verbs of ``isogloss config``."""

import sys
from typing import Annotated

import typer

from isogloss.cli.shared import RecipeArguments, split_words
from isogloss.streams import emit, is_unicode, say

config_app = typer.Typer(help="Look at recipes and their settings.", no_args_is_help=True)


@config_app.command("show")
def config_show(arguments: RecipeArguments = None) -> None:
    """The whole recipe, defaults and overrides included, as YAML."""
    from isogloss.config.load import dump_config
    from isogloss.recipe import load_recipe

    recipe = load_recipe(*split_words(arguments))
    emit(dump_config(recipe, in_ascii=not is_unicode(sys.stdout)), end="")


@config_app.command("schema")
def config_schema() -> None:
    """The JSON schema of a recipe, for editors."""
    import json

    from isogloss.config.describe import schema
    from isogloss.recipe import Recipe

    emit(json.dumps(schema(Recipe), indent=2))


@config_app.command("explain")
def config_explain(
    key: Annotated[
        str, typer.Argument(help="A dotted key, such as optim.lr or model; all sections if not given.")
    ] = "",
    recipe: Annotated[str, typer.Option(help="Whose values are shown.")] = "",
) -> None:
    """What a setting means, what it may be and what it is."""
    from isogloss.config.describe import explain
    from isogloss.recipe import DEFAULT, Recipe, load_recipe

    say(explain(Recipe, key, load_recipe(recipe or DEFAULT)))


@config_app.command("diff")
def config_diff(a: str, b: str) -> None:
    """What differs between two recipes."""
    from isogloss.config.describe import diff, in_words
    from isogloss.recipe import load_recipe

    for change in diff(load_recipe(a), load_recipe(b)):
        say(in_words(change))
