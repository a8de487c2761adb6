"""The verb ``isogloss estimate``: what a run will take, before it is run."""

from typing import Annotated

import typer

from isogloss.cli.shared import RecipeArguments, split_words
from isogloss.exit_codes import FAILED
from isogloss.streams import emit


def estimate(
    arguments: RecipeArguments = None,
    gpus: Annotated[int, typer.Option(help="Ranks, one for each GPU.", min=1)] = 1,
    gpu: Annotated[
        str, typer.Option(help="Their kind, such as h100 (docs/launch.md has the table), or cpu: here.")
    ] = "h100",
    mfu: Annotated[float, typer.Option(help="Share of the peak that is reached.", min=0.01, max=1.0)] = 0.4,
    network: Annotated[float, typer.Option(help="GB/s between machines, for each GPU.", min=0.1)] = 50.0,
    tensor: Annotated[int | None, typer.Option(help="Short for parallel.tensor=N.", min=1)] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Parameters, operations, memory by part, time, traffic and checkpoint sizes of a run; nothing is run.

    Exit code 1 where it does not fit into the GPUs' memory.
    """
    import json

    from isogloss.recipe import load_recipe
    from isogloss.run.estimate import estimate_recipe, estimate_rows
    from isogloss.run.estimate.gpus import find_gpu
    from isogloss.terminal import open_console
    from isogloss.train.display import results_table

    name, overrides = split_words(arguments)
    kind = find_gpu(gpu)
    recipe = load_recipe(name, [*overrides, *([] if tensor is None else [f"parallel.tensor={tensor}"])])
    found = estimate_recipe(recipe, gpus)
    if as_json:
        emit(json.dumps(found.as_dict(kind, mfu), indent=1))
    else:
        title = f"{recipe.name} on {gpus} x {gpu}"
        open_console().print(results_table(estimate_rows(found, kind, mfu, network * 1e9), title))
    if not found.fits(kind):
        raise typer.Exit(FAILED)
