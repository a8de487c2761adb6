"""The verbs of ``isogloss launch``: several ranks on this machine, or a SLURM job."""

import sys
from typing import Annotated

import typer

from isogloss.cli.shared import RecipeArguments, split_words
from isogloss.streams import emit, say

launch_app = typer.Typer(help="Start a run on several ranks: here, or as a SLURM job.", no_args_is_help=True)

DryRun = Annotated[bool, typer.Option("--dry-run", help="Print what would run, and do nothing.")]


@launch_app.command("local")
def launch_local(
    arguments: RecipeArguments = None,
    ranks: Annotated[int | None, typer.Option(help="Processes; one for each GPU if not given, else 2.", min=1)] = None,
    threads: Annotated[int | None, typer.Option(help="CPU threads of each; the cores shared out.", min=1)] = None,
    max_restarts: Annotated[int, typer.Option(help="Start all ranks again so often after one has failed.", min=0)] = 0,
    fresh: Annotated[bool, typer.Option("--fresh", help="Set a former run of that name aside and begin anew.")] = False,
    dry_run: DryRun = False,
) -> None:
    """Train on several ranks of this machine; signals are passed on to them.

    Exit code 75: a time limit or a scheduler's signal ended it, it has saved, and the same command goes on.
    """
    import torch

    from isogloss.launch.local import LocalLaunch, check_local, launch_local
    from isogloss.recipe import load_recipe
    from isogloss.run.folder import RunFolder

    name, overrides = split_words(arguments)
    recipe = load_recipe(name, overrides)  # what is wrong in it is said once, before any rank starts
    n_gpus = 0 if recipe.train.device == "cpu" else torch.cuda.device_count()
    launch = LocalLaunch([name, *overrides], ranks or n_gpus or 2, threads, max_restarts, fresh)
    check_local(launch, n_gpus)
    recipe.axes(launch.ranks)
    if dry_run:
        emit(launch.describe())
        return
    RunFolder(recipe.folder).check_free()  # its first rank takes it, and could only say so seconds later
    sys.exit(launch_local(launch))


@launch_app.command("slurm")
def launch_slurm(
    arguments: RecipeArguments = None,
    nodes: Annotated[int, typer.Option(help="Machines.", min=1)] = 1,
    gpus_per_node: Annotated[int, typer.Option(help="GPUs, and ranks, of each; 0 for one CPU rank.", min=0)] = 8,
    time: Annotated[str, typer.Option(help="Limit of one go: 90 (minutes), 2:30:00, 1-12:00:00.")] = "24:00:00",
    partition: Annotated[str | None, typer.Option(help="Where; the cluster's default if not given.")] = None,
    account: Annotated[str | None, typer.Option(help="To whom it is charged.")] = None,
    cpus_per_rank: Annotated[int, typer.Option(help="Cores of each rank.", min=1)] = 8,
    lead: Annotated[float, typer.Option(help="Minutes before the limit at which it saves.", min=0.5)] = 3.0,
    sbatch: Annotated[list[str] | None, typer.Option(help="A further option of sbatch; may be repeated.")] = None,
    dry_run: DryRun = False,
) -> None:
    """Submit a run as a SLURM job that saves before its time limit and queues again until it has finished.

    The code and the resolved recipe are copied beside the job when it is submitted.
    """
    from isogloss.launch.slurm import SlurmLaunch, parse_time, plan_slurm, submit
    from isogloss.recipe import load_recipe

    recipe = load_recipe(*split_words(arguments))
    minutes, options = parse_time(time), tuple(sbatch or ())
    asked = SlurmLaunch(nodes, gpus_per_node, minutes, partition, account, cpus_per_rank, lead, options)
    job = plan_slurm(recipe, asked)
    if dry_run:
        emit(job.script, end="")
        say(f"# beside it: {job.recipe[0]} (the resolved recipe) and {job.code} (the package as it is now)")
        return
    say(submit(job))
