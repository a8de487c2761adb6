"""The verbs of ``isogloss init`` that look at one model's weights: plan, verify, audit."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from isogloss.cli.shared import RecipeArguments, console, expanded, split_words, warn

init_app = typer.Typer(help="Plan, verify, compare and audit initial weights.", no_args_is_help=True)


class PlanFormat(StrEnum):
    """How a plan is printed."""

    TABLE = "table"
    JSON = "json"
    CSV = "csv"
    MARKDOWN = "markdown"


class AuditFormat(StrEnum):
    """How an audit is printed."""

    TABLE = "table"
    JSON = "json"
    MARKDOWN = "markdown"


@init_app.command("plan")
def init_plan(
    arguments: RecipeArguments = None,
    diff: Annotated[
        list[str] | None,
        typer.Option(help="Show what differs from this recipe, or with this KEY=VALUE; may be repeated."),
    ] = None,
    form: Annotated[PlanFormat, typer.Option("--format", help="How it is printed.")] = PlanFormat.TABLE,
) -> None:
    """The rule and the scale that every weight of a recipe's model starts from, and the signals they will give."""
    import json
    from dataclasses import asdict

    from isogloss.run import plan_table as tables
    from isogloss.run.plan import plan_recipe

    name, overrides = split_words(arguments)
    plan = plan_recipe(name, overrides)
    if diff:
        other, changes = split_words(diff)
        other = name if "=" in diff[0] else other
        whole = rows = tables.diff_rows(plan, plan_recipe(other, [*overrides, *changes]))
        table, below = tables.diff_table(rows), []
    else:
        rows, table, below = plan.rows, tables.plan_table(plan), tables.footer(plan)
        whole = {"parameters": rows, "multipliers": asdict(plan.multipliers), "signals": asdict(plan.signals)}
    match form:
        case PlanFormat.JSON:
            print(json.dumps(whole, indent=1))
        case PlanFormat.CSV:
            print(tables.as_csv(rows), end="")
        case PlanFormat.MARKDOWN:
            print(tables.as_markdown(table, below), end="")
        case PlanFormat.TABLE:
            out = console()
            out.print(tables.as_table(table, out.width))
            print("".join(f"{line}\n" for line in below), end="")


@init_app.command("verify")
def init_verify(
    arguments: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[RECIPE|CHECKPOINT] [KEY=VALUE]...",
            help="A recipe, then overrides; or a checkpoint's folder, whose weights are checked or, trained, compared.",
        ),
    ] = None,
    fingerprint: Annotated[
        bool,
        typer.Option(
            "--fingerprint",
            help="Print a SHA-256 of each initial weight; of a run's folder or a checkpoint, compare with its own.",
        ),
    ] = False,
    weights: Annotated[
        Path | None,
        typer.Option(
            parser=expanded, help="Check initial weights of this safetensors file instead of those made here."
        ),
    ] = None,
    plot: Annotated[
        Path | None, typer.Option(parser=expanded, help="Draw measured and predicted signals as this PNG.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Make a recipe's model; check its weights against the plan and its first batch against the prediction.

    Exit code 1 where something fails.
    """
    from rich.console import Console

    from isogloss.config.base import UserError
    from isogloss.config.paths import expand
    from isogloss.init.verify import Status
    from isogloss.recipe import load_recipe
    from isogloss.report.signals import plot_signals
    from isogloss.run import fingerprint as fingerprints
    from isogloss.run import verify as verification
    from isogloss.train.display import Display

    name, overrides = split_words(arguments)
    path = expand(name)
    run = fingerprints.run_of(path)
    if run != path and (overrides or weights):
        raise UserError(f"{name} is a checkpoint, which has a recipe and weights of its own; leave the rest out")
    if fingerprint and (weights or plot or as_json):
        raise UserError("--fingerprint goes with no other option")
    if plot is not None and not plot.absolute().parent.is_dir():
        raise UserError(f"{plot}: there is no folder {plot.parent} to draw into")
    display = Display(Console(stderr=True) if as_json else console())
    if fingerprint:
        stored = fingerprints.stored_fingerprint(path)
        recipe = load_recipe(str(run), overrides)
        device = "cpu" if stored is None else fingerprints.device_of(run, display)
        made = fingerprints.recipe_fingerprint(recipe, display, device)
        if not fingerprints.show_fingerprint(made, stored, display):
            raise typer.Exit(1)
        return
    if run != path:
        found = verification.verify_checkpoint(path, display, warn)
    else:
        found = verification.verify_recipe(load_recipe(name, overrides), display, weights)
    if as_json:
        print(verification.as_json(found))
    else:
        verification.show_verification(found, display)
    if plot is not None:
        plot_signals(found.measured, found.predicted, f"{name}, step {found.step}", plot)
    if found.status == Status.FAIL:
        raise typer.Exit(1)


@init_app.command("audit")
def init_audit(
    target: Annotated[
        str,
        typer.Argument(help="package.module:function, hf:TYPE (hf:llama), or a Hugging Face config.json or folder."),
    ],
    settings: Annotated[
        list[str] | None,
        typer.Argument(metavar="[KEY=VALUE]...", help="The function's keywords or the config's fields."),
    ] = None,
    expect: Annotated[str | None, typer.Option(help="Compare its scales with those of this scheme.")] = None,
    form: Annotated[AuditFormat, typer.Option("--format", help="How it is printed.")] = AuditFormat.TABLE,
    max_gib: Annotated[float, typer.Option(help="Refuse a model with more GiB of weights.", min=0)] = 2.0,
) -> None:
    """Find what is wrong with the initialisation of any PyTorch model, by initialising it and running it once.

    Exit code 1 where it finds something graver than a note.
    """
    from isogloss.audit.audit import audit
    from isogloss.audit.expectation import find_scheme
    from isogloss.audit.report import as_json, as_markdown, as_tables
    from isogloss.audit.target import find_target

    scheme = find_scheme(expect) if expect else None
    found = audit(find_target(target, settings or []), scheme, int(max_gib * 2**30))
    match form:
        case AuditFormat.JSON:
            print(as_json(found))
        case AuditFormat.MARKDOWN:
            print(as_markdown(found), end="")
        case AuditFormat.TABLE:
            console().print(as_tables(found))
    if found.failed:
        raise typer.Exit(1)
