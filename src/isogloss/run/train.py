"""A run from its recipe: opened, resumed where it stopped, trained, finished.

The whole of a run's state is its weights, the optimizer's moments and a few counts: batches, learning rates and initial
weights are functions of the recipe and the step. So a run that is killed and started again ends with the same bits.
"""

import time
from contextlib import ExitStack
from typing import Any

import torch

from isogloss.config.quantity import count
from isogloss.parallel.env import Ranks, find_ranks, process_group, started_again, wait_for_all
from isogloss.parallel.first_rank import from_rank_0, rank_0_first
from isogloss.recipe import Recipe, is_run_folder
from isogloss.run.finish import finish, show_results
from isogloss.run.folder import RunFolder
from isogloss.run.opening import open_session
from isogloss.run.place import settle_place
from isogloss.run.session import Session
from isogloss.run.steps import run_steps
from isogloss.terminal import open_console
from isogloss.train.display import Display
from isogloss.train.first_error import first_error
from isogloss.train.metrics import Metrics, read_metrics
from isogloss.train.signals import Interrupted, leave_at_once
from isogloss.train.trackers import TrackedRun, create_trackers
from isogloss.train.watchdog import Watchdog


def train(recipe: Recipe, display: Display, *, fresh: bool = False) -> dict[str, Any]:
    """Train a recipe to its end, or go on where it stopped; return the summary.

    Args:
        recipe: as loaded.
        display: where a person reads.
        fresh: set a former run of that name aside and begin anew.

    Raises:
        UserError: anything the user can mend.
        Interrupted: a signal asked for the end; the state is saved.
    """
    limit = recipe.train.max_minutes
    until = None if limit is None else time.monotonic() + 60 * limit
    parallel = recipe.parallel
    with (
        leave_at_once(many=find_ranks().world_size > 1),
        process_group(_device(recipe), parallel.patience, parallel.arrival) as ranks,
        first_error(ranks),
        Watchdog(ranks, 60 * parallel.timeout) as watchdog,
    ):
        ended: Interrupted | None = None
        summary: dict[str, Any] = {}
        try:
            summary = _train(recipe, display, fresh, ranks, watchdog, until)
        except Interrupted as asked:  # on all ranks at the same step: they leave together
            ended = asked
        with watchdog.phase("leaving"):
            wait_for_all(ranks)
    if ended is not None:
        raise ended
    return summary


def _train(
    recipe: Recipe, display: Display, fresh: bool, ranks: Ranks, watchdog: Watchdog, until: float | None
) -> dict[str, Any]:
    with ExitStack() as stack:
        axes = recipe.axes(ranks.world_size)
        recipe.check_float8(axes, _device(recipe))
        folder = RunFolder(recipe.folder)
        if not ranks.first:  # the first rank alone shows and writes
            display = Display(open_console(quiet=True))

        def take() -> None:
            if ranks.first and fresh and not started_again():  # what it did before is not to be lost
                with folder.locked():
                    folder.set_aside(display.say)
            if ranks.first:
                stack.enter_context(folder.locked())
                if is_run_folder(folder.path):
                    settle_place(folder, display.say)

        with watchdog.alone("taking the run's folder"):
            rank_0_first(ranks, "taking the run's folder", take)
        session = open_session(recipe, folder, display, ranks, axes, watchdog)
        if session is None:
            summary = from_rank_0(folder.summary() if ranks.first else None)
            assert summary is not None
            display.say(
                f"{recipe.name} has finished its {count(summary['steps'], 'step')}; "
                "its text is not looked at again, and --fresh would train it anew"
            )
        else:
            with _open_metrics(session, display) as metrics:
                run_steps(session, metrics, display, until)
                summary = finish(session, metrics, display)
        show_results(folder, recipe, summary, display)
    return summary


def _device(recipe: Recipe) -> str:
    """What ranks talk about: numbers on GPUs, or on CPUs."""
    return "cuda" if recipe.train.device != "cpu" and torch.cuda.is_available() else "cpu"


def _open_metrics(session: Session, display: Display) -> Metrics:
    """What the first rank writes them with; on the others it drops them."""
    recipe, folder, progress = session.recipe, session.folder, session.progress
    if not session.ranks.first:
        return Metrics(None, progress.step)
    records = read_metrics(folder.metrics_file)  # a rewind's step was undone, and trackers never kept it
    last_step = max((record["step"] for record in records if record["kind"] != "rewind"), default=0)
    config = recipe.model_dump(mode="json")
    tracked = TrackedRun(folder.path, recipe.name, config, progress.step, last_step, display.say)
    trackers = create_trackers(recipe.trackers, tracked)
    metrics = Metrics(folder.metrics_file, progress.step, trackers, progress.rewinds)
    # After its last checkpoint a run records more of that step: such records must not stand in for lost ones.
    n_lost = max((session.n_records or 0) - metrics.n_records, (session.n_settled or 0) - metrics.n_settled)
    if session.n_records is not None and n_lost > 0:
        display.say(
            f"warning: {folder.metrics_file} has {max(session.n_records - n_lost, 0):,} of the {session.n_records:,} "
            f"records up to step {progress.step:,}: the others are lost; the training itself is not affected"
        )
    return metrics
