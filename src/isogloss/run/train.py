"""A run from its recipe: prepared, built, resumed where it stopped, trained, finished.

The whole of a run's state is its weights, the optimizer's moments and a few counts: batches, learning rates and initial
weights are functions of the recipe and the step. So a run that is killed and started again ends with the same bits.
"""

import signal
import time
from contextlib import ExitStack, suppress
from dataclasses import replace
from datetime import timedelta
from typing import Any

import torch
from rich.console import Console

from isogloss.build import PlannedModel, materialise, plan_model
from isogloss.checkpoint.asynchronous import Saver
from isogloss.checkpoint.layout import has_checkpoints
from isogloss.checkpoint.load import newest_checkpoint
from isogloss.checkpoint.peers import join_peers
from isogloss.config.base import UserError
from isogloss.data.corpus import Corpus
from isogloss.data.loader import open_loader
from isogloss.data.opening import open_corpus
from isogloss.data.prefetch import Prefetcher
from isogloss.data.rows.packing import PackedRows
from isogloss.data.tokenizers.loading import keep_tokenizer, load_tokenizer
from isogloss.init.fingerprint import fingerprint
from isogloss.models.weights import model_tensors
from isogloss.optim.groups import create_optimizer
from isogloss.optim.state import allot_optimizer_tensors, cast_moments, optimizer_tensors
from isogloss.parallel.env import Ranks, agreed, process_group, rank_0_first
from isogloss.parallel.mesh import Axes, Layout, check_axes, find_axes
from isogloss.recipe import Recipe
from isogloss.run.finish import finish, show_results
from isogloss.run.folder import RunFolder, check_changes
from isogloss.run.rewind import rewind
from isogloss.run.session import Session
from isogloss.run.watch import Watch
from isogloss.train.agreement import Found, agree, many_ranks
from isogloss.train.display import Display, banner
from isogloss.train.estimate import Estimate, estimate
from isogloss.train.first_error import first_error
from isogloss.train.guard import SpikeGuard
from isogloss.train.hooks import Window, every
from isogloss.train.loop import Progress, training_steps
from isogloss.train.machine import Machine, compiler_found, find_machine, measure_peak
from isogloss.train.metrics import Metrics
from isogloss.train.signals import TIME_LIMIT, Interrupted, stop_requests
from isogloss.train.trackers import create_trackers
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
    patience = timedelta(minutes=recipe.parallel.timeout)
    # The watchdog, which knows who is waited for, is to speak before the process group does.
    with process_group(_device(recipe), 1.5 * patience) as ranks, first_error(ranks):
        try:
            return _train(recipe, display, fresh, ranks, until)
        except Interrupted as asked:  # on all ranks at the same step: they leave together
            ended = asked
    raise ended


def _train(recipe: Recipe, display: Display, fresh: bool, ranks: Ranks, until: float | None) -> dict[str, Any]:
    with ExitStack() as stack:
        axes = find_axes(recipe.parallel, ranks.world_size)
        for _, size, divisor in recipe.train.plan().pieces(0, recipe.train.steps):
            check_axes(axes, recipe.model, recipe.data.seq_len // divisor, size)
        folder = RunFolder(recipe.folder)
        if not ranks.first:  # the first rank alone shows and writes
            display = Display(Console(quiet=True))

        def take() -> None:
            if ranks.first and fresh:
                with folder.locked():
                    folder.set_aside(display.say)
            if ranks.first:
                stack.enter_context(folder.locked())

        rank_0_first(ranks, "taking the run's folder", take)
        session = _open(recipe, folder, display, ranks, axes)
        if session is None:
            summary = folder.summary()
            assert summary is not None
            display.say(f"{recipe.name} has finished its {summary['steps']} steps; --fresh would train it anew")
        else:
            with _open_metrics(session) as metrics:
                _run_steps(session, metrics, display, until)
                summary = finish(session, metrics, display)
        show_results(folder, recipe, summary, display)
    return summary


def _device(recipe: Recipe) -> str:
    """What ranks talk about: numbers on GPUs, or on CPUs."""
    return "cuda" if recipe.train.device != "cpu" and torch.cuda.is_available() else "cpu"


def _open(recipe: Recipe, folder: RunFolder, display: Display, ranks: Ranks, axes: Axes) -> Session | None:
    """Everything ready for the next step; ``None`` if the run has finished."""
    saved = folder.saved_recipe()
    if saved is None and has_checkpoints(folder.checkpoints):
        raise UserError(
            f"{folder.path} has checkpoints but no recipe.yaml to say of what; put it back, or pass --fresh to set the "
            "folder aside"
        )
    changes = check_changes(saved, recipe) if saved is not None else []
    summary = folder.summary()
    if summary is not None and summary["steps"] >= recipe.train.steps:
        return None
    for change in changes:
        display.say(f"going on with a changed recipe: {change}")
    corpus = rank_0_first(
        ranks,
        "preparing the corpus",
        lambda: open_corpus(recipe.data, recipe.tokenizer, display.say, verify=ranks.first),
    )
    recipe = recipe.with_vocabulary(corpus.tokenizer.n_tokens)
    planned = plan_model(recipe.model, recipe.init)
    expected = _estimate(recipe, planned)
    machine = agreed(
        _choose_machine(recipe, folder, expected, changes, display, ranks.world_size) if ranks.first else None
    )
    assert machine is not None
    peak = measure_peak(torch.device(machine.device), machine.precision) * ranks.world_size
    steps, seq_len = recipe.train.steps, recipe.data.seq_len
    tokens = recipe.train.plan().rows_before(steps) * seq_len
    per_step, n_tokens = recipe.train.batch_size * seq_len, corpus.facts("train").n_tokens
    display.say(banner(recipe.name, str(folder.path), expected, machine, peak, steps, per_step, tokens, n_tokens))
    for block in planned.model.blocks():
        block.mixer.check_device(machine.device)
    session = _build(recipe, folder, corpus, machine, expected, planned, ranks, axes)
    _say_rows(session, display)
    _resume(session, display)
    if ranks.first:
        _keep_description(session, planned)
    return session


def _say_rows(session: Session, display: Display) -> None:
    """What packing costs, source by source, and the lowest loss, where they are known."""
    corpus, cut = session.corpus, session.recipe.data.cut()
    for name, one in [(f"{part.name}: ", part.corpus) for part in corpus.parts] or [("", corpus)]:
        if isinstance(rows := one.rows("train", *cut), PackedRows):
            display.say(f"  {name}{cut.packing}: {rows.waste()}")
    if corpus.floor is not None:
        display.say(f"  no model can do better than {corpus.floor:.4f} nats a target here")


def _keep_description(session: Session, planned: PlannedModel) -> None:
    """Write what says what the run is: a resume, and whoever reads the folder, needs it."""
    recipe, folder = session.recipe, session.folder
    folder.save_recipe(recipe)
    folder.save_json("machine.json", session.machine.as_dict())
    folder.save_plan([entry.row() for entry in planned.plan.values()], session.initial)
    _copy_tokenizer(session.corpus, folder)


def _copy_tokenizer(corpus: Corpus, folder: RunFolder) -> None:
    """Copy the tokenizer into the run's folder, whole or not at all."""
    with suppress(UserError):  # a damaged one is written anew
        if folder.tokenizer.is_dir() and load_tokenizer(folder.tokenizer).fingerprint == corpus.tokenizer.fingerprint:
            return
    keep_tokenizer(corpus.tokenizer, folder.tokenizer)


def _open_metrics(session: Session) -> Metrics:
    recipe, folder = session.recipe, session.folder
    if not session.ranks.first:
        return Metrics(None, session.progress.step)
    trackers = create_trackers(recipe.trackers, folder.path, recipe.name, recipe.model_dump(mode="json"))
    return Metrics(folder.metrics_file, session.progress.step, trackers)


def _estimate(recipe: Recipe, planned: PlannedModel) -> Estimate:
    seq_len = recipe.data.seq_len
    flops = sum(
        float(planned.model.flops_per_token(seq_len // divisor)) * n_steps * size * seq_len
        for n_steps, size, divisor in recipe.train.plan().pieces(0, recipe.train.steps)
    )
    sites = [entry.site for entry in planned.plan.values()]
    return estimate(sites, flops, recipe.train.largest_micro_batch, seq_len)


def _choose_machine(
    recipe: Recipe, folder: RunFolder, expected: Estimate, changes: list[str], display: Display, n_ranks: int
) -> Machine:
    """The decisions that the run began with, as long as they can be kept; they change the last bits."""
    former = folder.saved_machine()
    redecide = any(c.startswith(("train.device", "train.precision", "train.compile")) for c in changes)
    if former is None or redecide:
        return replace(find_machine(recipe.train, expected.flops / n_ranks), ranks=n_ranks)
    kept = recipe.train.model_copy(
        update={
            "device": former.device if former.device == "cpu" or torch.cuda.is_available() else "auto",
            "precision": former.precision,
            "compile": "on" if former.compiled and compiler_found() else "off",
        }
    )
    here = replace(find_machine(kept, expected.flops / n_ranks), ranks=n_ranks)
    for what, was in former.as_dict().items():
        if was != (now := getattr(here, what)):
            display.say(f"note: the run began with {what} {was} and goes on with {now}: not bit for bit the same")
    return here


def _build(
    recipe: Recipe,
    folder: RunFolder,
    corpus: Corpus,
    machine: Machine,
    expected: Estimate,
    planned: PlannedModel,
    ranks: Ranks,
    axes: Axes,
) -> Session:
    layout = Layout(axes, recipe.parallel, machine.device) if ranks.world_size > 1 else None
    model = materialise(
        planned,
        seed=recipe.seed,
        device=torch.device(machine.device),
        compiled=machine.compiled,
        recompute=recipe.train.recompute,
        layout=layout,
        precision=machine.precision,
    )
    loader = open_loader(corpus, recipe.data.cut(), recipe.train.plan(), recipe.seed, recipe.train.steps)
    optimizer = create_optimizer(model, recipe.optim, planned.plan)
    return Session(
        recipe,
        folder,
        corpus,
        machine,
        model,
        optimizer,
        loader,
        Progress(),
        Window(),
        expected,
        SpikeGuard(recipe.train.spike),
        ranks,
        layout,
    )


def _resume(session: Session, display: Display) -> None:
    """Put back the newest whole checkpoint, if there is one; the weights of a run that begins are fingerprinted."""
    root = session.folder.checkpoints
    checkpoint = newest_checkpoint(root, lambda text: display.say(f"warning: {text}"), join_peers())
    if checkpoint is None:
        session.initial = fingerprint(session.model)
        return
    session.initial = checkpoint.state.get("initial_weights")
    saved = checkpoint.state["progress"]
    for change in session.loader.resume(checkpoint.state["loader"], saved["step"] + saved.get("passed_over", 0)):
        display.say(change)
    checkpoint.load_into("model", model_tensors(session.model))
    moments = allot_optimizer_tensors(session.model, session.optimizer, checkpoint.shapes("optimizer"))
    checkpoint.load_into("optimizer", moments)
    cast_moments(session.optimizer, torch.bfloat16 if session.recipe.optim.moments == "bf16" else torch.float32)
    session.progress = Progress(**checkpoint.state["progress"])
    session.progress.skipped_in_a_row = 0  # whoever goes on has changed something, or wants to see it again
    session.window.load(checkpoint.state["window"])
    session.guard.load(checkpoint.state.get("guard", []))
    if session.progress.step > session.recipe.train.steps:
        raise UserError(
            f"{session.folder.path} stands at step {session.progress.step}, past train.steps="
            f"{session.recipe.train.steps}; give this run another name (name=...), or more steps"
        )
    display.say(f"resuming after step {session.progress.step} ({checkpoint.folder.name})")


def _save(session: Session, saver: Saver) -> None:
    saver.save(
        session.progress.step,
        {
            "model": model_tensors(session.model),
            "optimizer": optimizer_tensors(session.model, session.optimizer),
        },
        {
            "progress": session.progress.as_dict(),
            "loader": session.loader.state(),
            "window": session.window.state(),
            "guard": session.guard.state(),
            "initial_weights": session.initial,
        },
    )


def _run_steps(session: Session, metrics: Metrics, display: Display, until: float | None) -> None:
    recipe, progress = session.recipe, session.progress
    if progress.step == recipe.train.steps:
        return
    watch = Watch(session, metrics, display)
    saved_at = time.monotonic()
    hooks = [
        watch.log,
        every(recipe.watch.validate_every, watch.validate, at_end=False),
        every(recipe.watch.sample_every, watch.sample, at_end=False),
    ]
    display.start(progress.step, recipe.train.steps)
    if progress.step and session.machine.compiled:
        display.wait("compiling the blocks, where they are not in the cache: up to half a minute")
    try:
        with (
            Prefetcher(session.batches, last_step=recipe.train.steps, pinned=session.machine.device == "cuda") as ahead,
            Saver(session.folder.checkpoints, recipe.checkpoint) as saver,
            Watchdog(session.ranks, 60 * recipe.parallel.timeout) as watchdog,
            stop_requests(until, loud=session.ranks.first) as request,
        ):
            steps = training_steps(
                session.model,
                session.optimizer,
                ahead,
                recipe.train,
                recipe.optim,
                progress,
                session.machine.precision,
                session.machine.compiled,
                session.layout,
            )
            for info in watchdog.over(steps, progress):
                saver.poll()
                asked = request.asked or (signal.SIGPIPE if display.lost else 0)
                late = time.monotonic() - saved_at >= 60 * recipe.checkpoint.minutes
                spiked = session.guard.spikes(info.loss, bool(info.nonfinite))
                with watchdog.step(info.step):
                    found = agree(Found(asked, late, spiked))
                if found.spiked:
                    saver.finish()
                    rewind(session, info, metrics, display)
                    continue
                for hook in hooks:
                    hook(info)
                stopping = found.asked and not info.last
                due = info.step % recipe.checkpoint.every == 0 or found.late
                # Not in a row of steps that are not finite: it would push the last good checkpoint out.
                if info.last or stopping or (due and not info.nonfinite):
                    _save(session, saver)
                    saved_at = time.monotonic()
                if stopping:
                    saver.finish()
                    why = " (train.max_minutes)" if found.asked == TIME_LIMIT else ""
                    display.say(f"stopped after step {info.step}{why}, saved; the same command goes on from there")
                    raise Interrupted(found.asked, many_ranks())
    finally:
        display.stop()
