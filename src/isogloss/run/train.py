"""A run from its recipe: prepared, built, resumed where it stopped, trained, finished.

The whole of a run's state is its weights, the optimizer's moments and a few counts: batches, learning rates and initial
weights are functions of the recipe and the step. So a run that is killed and started again ends with the same bits.
"""

import signal
import time
from contextlib import suppress
from typing import Any

import torch

from isogloss.build import PlannedModel, materialise, plan_model
from isogloss.checkpoint import has_checkpoints, newest_checkpoint, save_checkpoint
from isogloss.config.base import UserError
from isogloss.data.corpus import Corpus
from isogloss.data.loader import open_loader
from isogloss.data.opening import open_corpus
from isogloss.data.prefetch import Prefetcher
from isogloss.data.rows.packing import PackedRows
from isogloss.data.tokenizers.loading import keep_tokenizer, load_tokenizer
from isogloss.init.fingerprint import fingerprint
from isogloss.models.weights import load_weights, model_tensors
from isogloss.optim.groups import create_optimizer
from isogloss.optim.state import load_optimizer_tensors, optimizer_tensors
from isogloss.recipe import Recipe
from isogloss.run.finish import finish, show_results
from isogloss.run.folder import RunFolder, check_changes
from isogloss.run.session import Session
from isogloss.run.watch import Watch
from isogloss.train.display import Display, banner
from isogloss.train.estimate import Estimate, estimate
from isogloss.train.hooks import Window, every
from isogloss.train.loop import Progress, StepInfo, training_steps
from isogloss.train.machine import Machine, compiler_found, find_machine, measure_peak
from isogloss.train.metrics import Metrics
from isogloss.train.signals import Interrupted, stop_requests
from isogloss.train.trackers import create_trackers


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
    folder = RunFolder(recipe.folder)
    if fresh:
        with folder.locked():
            folder.set_aside(display.say)
    with folder.locked():
        session = _open(recipe, folder, display)
        if session is None:
            summary = folder.summary()
            assert summary is not None
            display.say(f"{recipe.name} has finished its {summary['steps']} steps; --fresh would train it anew")
        else:
            with _open_metrics(session) as metrics:
                _run_steps(session, metrics, display)
                summary = finish(session, metrics, display)
        show_results(folder, recipe, summary, display)
    return summary


def _open(recipe: Recipe, folder: RunFolder, display: Display) -> Session | None:
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
    corpus = open_corpus(recipe.data, recipe.tokenizer, display.say, verify=True)
    recipe = recipe.with_vocabulary(corpus.tokenizer.n_tokens)
    planned = plan_model(recipe.model, recipe.init)
    expected = _estimate(recipe, planned)
    machine = _choose_machine(recipe, folder, expected, changes, display)
    peak = measure_peak(torch.device(machine.device), machine.precision)
    steps, seq_len = recipe.train.steps, recipe.data.seq_len
    tokens = recipe.train.plan().rows_before(steps) * seq_len
    per_step, n_tokens = recipe.train.batch_size * seq_len, corpus.facts("train").n_tokens
    display.say(banner(recipe.name, str(folder.path), expected, machine, peak, steps, per_step, tokens, n_tokens))
    for block in planned.model.blocks():
        block.mixer.check_device(machine.device)
    session = _build(recipe, folder, corpus, machine, expected, planned)
    _say_rows(session, display)
    _resume(session, display)
    folder.save_recipe(recipe)
    folder.save_json("machine.json", machine.as_dict())
    folder.save_plan([entry.row() for entry in planned.plan.values()], session.initial)
    _copy_tokenizer(corpus, folder)
    return session


def _say_rows(session: Session, display: Display) -> None:
    """What packing costs, source by source, and the lowest loss, where they are known."""
    corpus, cut = session.corpus, session.recipe.data.cut()
    for name, one in [(f"{part.name}: ", part.corpus) for part in corpus.parts] or [("", corpus)]:
        if isinstance(rows := one.rows("train", *cut), PackedRows):
            display.say(f"  {name}{cut.packing}: {rows.waste()}")
    if corpus.floor is not None:
        display.say(f"  no model can do better than {corpus.floor:.4f} nats a target here")


def _copy_tokenizer(corpus: Corpus, folder: RunFolder) -> None:
    """Copy the tokenizer into the run's folder, whole or not at all."""
    with suppress(UserError):  # a damaged one is written anew
        if folder.tokenizer.is_dir() and load_tokenizer(folder.tokenizer).fingerprint == corpus.tokenizer.fingerprint:
            return
    keep_tokenizer(corpus.tokenizer, folder.tokenizer)


def _open_metrics(session: Session) -> Metrics:
    recipe, folder = session.recipe, session.folder
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
    recipe: Recipe, folder: RunFolder, expected: Estimate, changes: list[str], display: Display
) -> Machine:
    """The decisions that the run began with, as long as they can be kept; they change the last bits."""
    former = folder.saved_machine()
    redecide = any(c.startswith(("train.device", "train.precision", "train.compile")) for c in changes)
    if former is None or redecide:
        return find_machine(recipe.train, expected.flops)
    kept = recipe.train.model_copy(
        update={
            "device": former.device if former.device == "cpu" or torch.cuda.is_available() else "auto",
            "precision": former.precision,
            "compile": "on" if former.compiled and compiler_found() else "off",
        }
    )
    here = find_machine(kept, expected.flops)
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
) -> Session:
    device = torch.device(machine.device)
    model = materialise(planned, seed=recipe.seed, device=device, compiled=machine.compiled)
    loader = open_loader(corpus, recipe.data.cut(), recipe.train.plan(), recipe.seed, recipe.train.steps)
    optimizer = create_optimizer(model, recipe.optim, planned.plan)
    return Session(recipe, folder, corpus, machine, model, optimizer, loader, Progress(), Window(), expected)


def _resume(session: Session, display: Display) -> None:
    """Put back the newest whole checkpoint, if there is one; the weights of a run that begins are fingerprinted."""
    checkpoint = newest_checkpoint(session.folder.checkpoints, lambda text: display.say(f"warning: {text}"))
    if checkpoint is None:
        session.initial = fingerprint(session.model)
        return
    session.initial = checkpoint.state.get("initial_weights")
    for change in session.loader.resume(checkpoint.state["loader"], checkpoint.state["progress"]["step"]):
        display.say(change)
    load_weights(session.model, checkpoint.tensors("model"))
    load_optimizer_tensors(session.model, session.optimizer, checkpoint.tensors("optimizer"))
    session.progress = Progress(**checkpoint.state["progress"])
    session.progress.skipped_in_a_row = 0  # whoever goes on has changed something, or wants to see it again
    session.window.load(checkpoint.state["window"])
    if session.progress.step > session.recipe.train.steps:
        raise UserError(
            f"{session.folder.path} stands at step {session.progress.step}, past train.steps="
            f"{session.recipe.train.steps}; give this run another name (name=...), or more steps"
        )
    display.say(f"resuming after step {session.progress.step} ({checkpoint.folder.name})")


def _save(session: Session) -> None:
    save_checkpoint(
        session.folder.checkpoints,
        session.progress.step,
        {
            "model": model_tensors(session.model),
            "optimizer": optimizer_tensors(session.model, session.optimizer),
        },
        {
            "progress": session.progress.as_dict(),
            "loader": session.loader.state(),
            "window": session.window.state(),
            "initial_weights": session.initial,
        },
        session.recipe.checkpoint,
    )


def _run_steps(session: Session, metrics: Metrics, display: Display) -> None:
    recipe, progress = session.recipe, session.progress
    if progress.step == recipe.train.steps:
        return
    watch = Watch(session, metrics, display)
    saved_at = time.monotonic()

    def save(info: StepInfo) -> None:
        nonlocal saved_at
        late = time.monotonic() - saved_at >= 60 * recipe.checkpoint.minutes
        due = info.step % recipe.checkpoint.every == 0 or late
        # Not in a row of steps that are not finite: it would push the last good checkpoint out.
        if info.last or (due and not info.nonfinite):
            _save(session)
            saved_at = time.monotonic()

    hooks = [
        watch.log,
        every(recipe.watch.validate_every, watch.validate, at_end=False),
        every(recipe.watch.sample_every, watch.sample, at_end=False),
        save,
    ]
    display.start(progress.step, recipe.train.steps)
    if progress.step and session.machine.compiled:
        display.wait("compiling the blocks, where they are not in the cache: up to half a minute")
    pinned = session.machine.device == "cuda"
    ahead = Prefetcher(session.loader, last_step=recipe.train.steps, pinned=pinned)
    try:
        with ahead, stop_requests() as request:
            for info in training_steps(
                session.model,
                session.optimizer,
                ahead,
                recipe.train,
                recipe.optim,
                progress,
                session.machine.precision,
                session.machine.compiled,
            ):
                for hook in hooks:
                    hook(info)
                asked = request.signal_number or (signal.SIGPIPE if display.lost else None)
                if asked is not None and not info.last:
                    _save(session)
                    display.say(f"stopped after step {info.step}, saved; the same command goes on from there")
                    raise Interrupted(asked)
    finally:
        display.stop()
