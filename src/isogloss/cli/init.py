"""The verbs of ``isogloss init`` that look at one model's weights: plan, verify, audit."""

from collections.abc import Iterable
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from isogloss.cli.errors import defects_end_with
from isogloss.cli.shared import RecipeArguments, console, expanded, split_words, warn
from isogloss.exit_codes import AUDIT_DEFECT, FAILED, OK
from isogloss.streams import emit, only_ours, say

init_app = typer.Typer(help="Plan, verify, compare and audit initial weights.", no_args_is_help=True)


class PlanFormat(StrEnum):
    """How a plan is printed."""

    TABLE = "table"
    JSON = "json"
    CSV = "csv"
    MARKDOWN = "markdown"


class FailOn(StrEnum):
    """From which severity on an audit fails."""

    NOTE = "note"
    WARNING = "warning"
    ERROR = "error"


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
    strict: Annotated[bool, typer.Option("--strict", help="Exit with code 1 where there is a warning.")] = False,
) -> None:
    """The rule and the scale that every weight of a recipe's model starts from, and the signals they will give."""
    import json
    from dataclasses import asdict

    from isogloss.run import plan_table as tables
    from isogloss.run.plan import plan_recipe

    name, overrides = split_words(arguments)
    plan = plan_recipe(name, overrides)
    warnings = list(plan.warnings)
    if diff:
        other, changes = split_words(diff)
        other = name if "=" in diff[0] else other
        changed = plan_recipe(other, [*overrides, *changes])
        warnings = [f"{which}: {said}" for which, one in (("A", plan), ("B", changed)) for said in one.warnings]
        whole = rows = tables.diff_rows(plan, changed)
        table, below = tables.diff_table(rows), []
    else:
        rows, table, below = plan.rows, tables.plan_table(plan), tables.footer(plan)
        whole = {"parameters": rows, "multipliers": asdict(plan.multipliers), "signals": asdict(plan.signals)}
        whole["warnings"] = warnings
    match form:
        case PlanFormat.JSON:
            emit(json.dumps(whole, indent=1))
        case PlanFormat.CSV:
            emit(tables.as_csv(rows), end="")
        case PlanFormat.MARKDOWN:
            emit(tables.as_markdown(table, below), end="")
        case PlanFormat.TABLE:
            out = console()
            out.print(tables.as_table(table, out.width))
            say("".join(f"{line}\n" for line in below), end="")
    _warn_all(warnings)
    if strict and warnings:
        raise typer.Exit(FAILED)


def _warn_all(warnings: Iterable[str]) -> None:
    for message in warnings:
        warn(message)


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
    strict: Annotated[bool, typer.Option("--strict", help="Exit with code 1 where there is a warning too.")] = False,
) -> None:
    """Make a recipe's model; check its weights against the plan and its first batch against the prediction.

    Exit code 1 where something fails. Warns where the start itself is unsound: a loss far above ln V, loud logits.
    """
    from isogloss.config.base import UserError
    from isogloss.config.paths import expand
    from isogloss.init.verify import Status
    from isogloss.recipe import load_recipe
    from isogloss.report.signals import plot_signals
    from isogloss.run import fingerprint as fingerprints
    from isogloss.run import verify as verification
    from isogloss.terminal import open_console
    from isogloss.train.display import Display

    name, overrides = split_words(arguments)
    path = expand(name)
    run = fingerprints.run_of(path)
    if run != path and (overrides or weights):
        raise UserError(f"{name} is a checkpoint, which has a recipe and weights of its own; leave the rest out")
    if fingerprint and (weights or plot or as_json or strict):
        raise UserError("--fingerprint goes with no other option")
    if plot is not None and not plot.absolute().parent.is_dir():
        raise UserError(f"{plot}: there is no folder {plot.parent} to draw into")
    display = Display(open_console(stderr=True) if as_json else console())
    if fingerprint:
        stored = fingerprints.stored_fingerprint(path)
        recipe = load_recipe(str(run), overrides)
        device = "cpu" if stored is None else fingerprints.device_of(run, display)
        made = fingerprints.recipe_fingerprint(recipe, display, device)
        if not fingerprints.show_fingerprint(made, stored, display):
            raise typer.Exit(FAILED)
        return
    if run != path:
        found = verification.verify_checkpoint(path, display, warn)
    else:
        found = verification.verify_recipe(load_recipe(name, overrides), display, weights)
    if as_json:
        emit(verification.as_json(found))
    else:
        verification.show_verification(found, display)
    if plot is not None:
        plot_signals(found.measured, found.predicted, f"{name}, step {found.step}", plot)
    _warn_all(found.warnings)
    if found.status in ({Status.FAIL, Status.WARN} if strict else {Status.FAIL}):
        raise typer.Exit(FAILED)


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
    fail_on: Annotated[FailOn, typer.Option(help="The least severity that gives exit code 1.")] = FailOn.WARNING,
    ignore: Annotated[
        list[str] | None,
        typer.Option(
            metavar="CODE:PATTERN", help="Leave findings out, such as I09:layers.*.norm or I08:*; may be repeated."
        ),
    ] = None,
    baseline: Annotated[
        Path | None,
        typer.Option(parser=expanded, help="Count only findings that are not in this file, or are graver than there."),
    ] = None,
    write_baseline: Annotated[
        Path | None,
        typer.Option(parser=expanded, help="Write all findings into this file, for --baseline, and end with 0."),
    ] = None,
    form: Annotated[AuditFormat, typer.Option("--format", help="How it is printed.")] = AuditFormat.TABLE,
    max_gib: Annotated[float, typer.Option(help="Refuse a model with more GiB of weights.", min=0)] = 2.0,
) -> None:
    """Find what is wrong with the initialisation of any PyTorch model, by initialising it and running it once.

    This imports and runs the target's code, with your rights: audit only code that you would run yourself.

    Exit code 0: no findings; 1: findings as grave as --fail-on says; 2: what you can mend, such as a target that cannot
    be built; 3: no findings, but not all could be judged; 4: a defect of the audit. Standard output has the report
    alone: what the target prints goes to standard error.
    """
    from isogloss.audit import verdict
    from isogloss.audit.audit import audit
    from isogloss.audit.expectation import find_scheme
    from isogloss.audit.findings import Severity
    from isogloss.audit.report import as_json, as_markdown, as_tables
    from isogloss.audit.target import find_target
    from isogloss.terminal import open_console

    rules = verdict.parse_rules(ignore or [])
    if baseline is not None:
        verdict.read_baseline(baseline)  # damaged ones are refused before the work
    with only_ours() as out, defects_end_with(AUDIT_DEFECT):
        scheme = find_scheme(expect) if expect else None
        found = audit(find_target(target, settings or []), scheme, int(max_gib * 2**30))
        judged = verdict.judge(found, Severity(fail_on), rules, baseline)
        match form:
            case AuditFormat.JSON:
                emit(as_json(judged), stream=out)
            case AuditFormat.MARKDOWN:
                emit(as_markdown(judged), end="", stream=out)
            case AuditFormat.TABLE:
                width = console().width if out.isatty() else 150
                open_console(file=out, width=width).print(as_tables(judged))
    if write_baseline is not None:
        verdict.write_baseline(found, write_baseline)
        return
    if judged.exit_code != OK:
        raise typer.Exit(judged.exit_code)
