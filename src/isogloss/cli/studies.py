"""The verbs of ``isogloss init`` that train many small models: coordinate, lr-sweep, compare."""

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from isogloss.cli.shared import RecipeArguments, console, expanded, integers_of, numbers_of, split_words
from isogloss.exit_codes import FAILED

if TYPE_CHECKING:
    from isogloss.study.trials import Study


class SizeAxis(StrEnum):
    """How models grow in a study."""

    WIDTH = "width"
    DEPTH = "depth"


Sizes = Annotated[str, typer.Option("--sizes", help="Widths or depths, such as 64,128,256.", show_default=False)]
Seeds = Annotated[int, typer.Option(help="How many seeds, from the recipe's on.", min=1)]
Jobs = Annotated[int | None, typer.Option(help="Processes, sharing the cores; one a core if not given.", min=1)]
Out = Annotated[
    Path,
    typer.Option("--out", parser=expanded, help="Where trials and results are kept; a stopped study goes on there."),
]


def coordinate(
    arguments: RecipeArguments = None,
    axis: Annotated[SizeAxis, typer.Option(help="What grows.")] = SizeAxis.WIDTH,
    sizes: Sizes = "",
    steps: Annotated[int, typer.Option(help="Training steps before what has changed is measured.", min=1)] = 4,
    seeds: Seeds = 3,
    jobs: Jobs = None,
    out: Out = Path("studies"),
) -> None:
    """How activations and their change go with a model's width or depth: does the recipe's scheme keep its promises?

    Exit code 1 where it does not.
    """
    from isogloss.init.verify import Status
    from isogloss.study.coordinates import check_coordinates
    from isogloss.study.families import DEFAULT_SIZES
    from isogloss.study.results import show_slopes
    from isogloss.study.slopes import worst

    study = _open_study(arguments, out, jobs)
    found = check_coordinates(study, axis.value, integers_of(sizes) or DEFAULT_SIZES[axis.value], steps, seeds)
    show_slopes(study, axis.value, found, steps)
    if worst(found) == Status.FAIL:
        raise typer.Exit(FAILED)


def lr_sweep(
    arguments: RecipeArguments = None,
    axis: Annotated[SizeAxis, typer.Option(help="What grows.")] = SizeAxis.WIDTH,
    sizes: Sizes = "",
    rates: Annotated[str, typer.Option(help="Peak learning rates, such as 1e-3,2e-3,4e-3.", show_default=False)] = "",
    seeds: Seeds = 3,
    jobs: Jobs = None,
    out: Out = Path("studies"),
) -> None:
    """Where the best learning rate lies at each width or depth: does it transfer?

    Rates that are not given: the recipe's, and three halvings and two doublings of it.
    """
    from isogloss.study.families import DEFAULT_SIZES
    from isogloss.study.results import show_sweep
    from isogloss.study.sweep import sweep_rates

    study = _open_study(arguments, out, jobs)
    chosen = numbers_of(rates) or [study.recipe.optim.lr * 2.0**k for k in range(-3, 3)]
    show_sweep(study, sweep_rates(study, axis.value, integers_of(sizes) or DEFAULT_SIZES[axis.value], chosen, seeds))


def compare(
    schemes: Annotated[
        list[str], typer.Argument(metavar="SCHEME...", help="NAME, NAME:KEY=VALUE,..., or recipe for its own scheme.")
    ],
    recipe: Annotated[str, typer.Option(help="The recipe that all share; the default one if not given.")] = "",
    settings: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Change the recipe; may be repeated.")
    ] = None,
    rates: Annotated[
        str, typer.Option(help="Peak learning rates; each scheme's best counts. The recipe's, if none is given.")
    ] = "",
    seeds: Seeds = 3,
    jobs: Jobs = None,
    out: Out = Path("studies"),
) -> None:
    """Train with different schemes side by side, on the same batches and random numbers, and compare the losses."""
    from isogloss.config.base import UserError
    from isogloss.study.compare import compare_schemes
    from isogloss.study.results import show_comparison

    if inits := [setting for setting in settings or [] if setting.partition("=")[0].split(".")[0] == "init"]:
        raise UserError(f"--set {inits[0]}: schemes have settings of their own here; write them as NAME:KEY=VALUE")
    study = _open_study([*([recipe] if recipe else []), *(settings or [])], out, jobs)
    show_comparison(study, compare_schemes(study, schemes, numbers_of(rates), seeds))


def _open_study(arguments: list[str] | None, out: Path, jobs: int | None) -> "Study":
    from isogloss.recipe import load_recipe
    from isogloss.study.trials import open_study
    from isogloss.train.display import Display

    return open_study(load_recipe(*split_words(arguments)), out, jobs, Display(console()))
