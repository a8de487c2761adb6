"""A run made ready for its next step: its corpus, machine, model and optimizer, and the files that say what it is."""

from dataclasses import replace
from typing import Any

import torch

from isogloss.build import PlannedModel, materialise, plan_model
from isogloss.checkpoint.layout import checkpoint_folders, has_checkpoints
from isogloss.checkpoint.room import check_room
from isogloss.config.base import UserError
from isogloss.data.corpus import Corpus
from isogloss.data.loader import open_loader
from isogloss.data.opening import open_corpus
from isogloss.data.rows.packing import PackedRows
from isogloss.nn.compiler import compiler_found
from isogloss.optim.groups import create_optimizer
from isogloss.parallel.env import Ranks
from isogloss.parallel.first_rank import from_rank_0, rank_0_first, told_by_rank_0
from isogloss.parallel.mesh import Axes, Layout
from isogloss.recipe import Recipe
from isogloss.run.description import keep_description
from isogloss.run.estimate.memory import estimate_memory
from isogloss.run.estimate.sizes import Sizes
from isogloss.run.folder import RunFolder, check_changes, check_finished
from isogloss.run.rates import describe_rates
from isogloss.run.session import Session
from isogloss.run.state import checkpoint_bytes, resume
from isogloss.train.display import Display, banner
from isogloss.train.guard import SpikeGuard
from isogloss.train.hooks import Window
from isogloss.train.loop import Progress
from isogloss.train.machine import Machine, check_machine, find_machine, measure_peak
from isogloss.train.size import RunSize, parameters_by_part
from isogloss.train.trackers import check_trackers
from isogloss.train.watchdog import Watchdog


def open_session(
    recipe: Recipe, folder: RunFolder, display: Display, ranks: Ranks, axes: Axes, watchdog: Watchdog
) -> Session | None:
    """Everything ready for the next step; ``None`` if the run has finished. Collective.

    Args:
        recipe: as loaded.
        folder: of the run, taken.
        display: told of the corpus, the machine and the checkpoint.
        ranks: this process among the others.
        axes: how they are laid out.
        watchdog: told of each phase.

    Raises:
        UserError: the folder, the data, the machine or a checkpoint does not fit the recipe.
    """
    with watchdog.phase("looking into the run's folder"):
        there = from_rank_0(_look_into(folder) if ranks.first else None)
    assert there is not None
    saved, summary = there
    changes = check_changes(saved, recipe) if saved is not None else []
    if summary is not None and summary["steps"] >= recipe.train.steps:
        for change in check_finished(folder.path, summary["steps"], changes):
            display.say(f"not used, for the run has finished: {change}")
        return None
    for change in changes:
        display.say(f"going on with a changed recipe: {change}")
    with watchdog.alone("looking for what the settings need"):
        rank_0_first(
            ranks,
            "looking for what the settings need",
            lambda: _check_settings(recipe, folder, changes) if ranks.first else None,
        )
    with watchdog.alone("preparing the corpus"):
        found = rank_0_first(
            ranks, "preparing the corpus", lambda: _find_corpus(recipe, display) if ranks.first else None
        )
    with watchdog.phase("opening the corpus"):
        corpus = told_by_rank_0(ranks, "opening the corpus", found)
    recipe = recipe.with_vocabulary(corpus.tokenizer.n_tokens)
    planned = plan_model(recipe.model, recipe.init)
    sites = [entry.site for entry in planned.plan.values()]
    size = RunSize(parameters_by_part(sites), recipe.flops(planned.model))
    with watchdog.phase("looking at the machine"):
        machine = from_rank_0(
            _choose_machine(recipe, folder, size, changes, display, ranks.world_size) if ranks.first else None
        )
    assert machine is not None
    peak = measure_peak(torch.device(machine.device), machine.precision) * ranks.world_size
    if ranks.first:
        said = banner(
            recipe.name,
            str(folder.path),
            size,
            machine,
            peak=peak,
            memory=_memory(recipe, machine, axes, planned),
            steps=recipe.train.steps,
            tokens_per_step=recipe.train.batch_size * recipe.data.seq_len,
            tokens=recipe.n_tokens,
            corpus_tokens=corpus.facts("train").n_tokens,
            log_every=recipe.watch.log_every,
        )
        display.say(said)
    if recipe.train.float8 != "off":
        emulated = ", emulated: slow, to study its numerics" if machine.device == "cpu" else ""
        display.say(f"  projections in float8, {recipe.train.float8} scales{emulated}")
    with watchdog.alone("finding room for checkpoints"):
        rank_0_first(ranks, "finding room for checkpoints", lambda: _find_room(recipe, folder, size, ranks, display))
    for block in planned.model.blocks():
        block.mixer.check_device(machine.device)
    with watchdog.phase("building the model"):
        session = _build(recipe, folder, corpus, machine, size, planned, ranks, watchdog, axes)
    if saved is None:  # looks at every document's beginning: not again at each start
        with watchdog.alone("counting what packing wastes"):
            rank_0_first(ranks, "counting what packing wastes", lambda: _say_waste(session, display))
    if corpus.floor is not None:
        display.say(f"  no model can do better than {corpus.floor:.4f} nats a target here")
    with watchdog.phase("loading the newest checkpoint"):
        resume(session, display)
    if session.progress.step == recipe.train.steps:  # only its summary is missing
        check_finished(folder.path, session.progress.step, changes)
    if saved is not None and session.progress.step:
        for line in describe_rates(saved, recipe, session.progress.step):
            display.say(line)
    if ranks.first:
        keep_description(session, planned, display)
    return session


def _look_into(folder: RunFolder) -> tuple[Recipe | None, dict[str, Any] | None]:
    """The recipe and the summary that are there, on rank 0: others may still see what was there before."""
    saved = folder.saved_recipe()
    if saved is None and has_checkpoints(folder.checkpoints):
        raise UserError(
            f"{folder.path} has checkpoints but no recipe.yaml to say of what; put it back, or pass --fresh to set the "
            "folder aside"
        )
    return saved, folder.summary()


def _check_settings(recipe: Recipe, folder: RunFolder, changes: list[str]) -> None:
    """Refuse what can be refused without the corpus, which may take hours to prepare.

    Raises:
        UserError: a device, a compiler or a library is not here.
    """
    check_trackers(recipe.trackers)
    if _kept_machine(folder, changes) is None:  # else what the run began with is kept as far as it can be
        device = check_machine(recipe.train)
        known = recipe if recipe.model.vocab_size is not None else recipe.with_vocabulary(257)
        for block in plan_model(known.model, known.init).model.blocks():
            block.mixer.check_device(device.type)


def _kept_machine(folder: RunFolder, changes: list[str]) -> Machine | None:
    """Return the machine decisions of the run's start, if they are kept on resume."""
    redecide = any(c.startswith(("train.device", "train.precision", "train.float8", "train.compile")) for c in changes)
    return None if redecide else folder.saved_machine()


def _find_corpus(recipe: Recipe, display: Display) -> Corpus:
    """The data of the recipe, with the tables of its training rows."""
    corpus = open_corpus(recipe.data, recipe.tokenizer, display.say)
    for one in _alone(corpus).values():
        one.rows("train", *recipe.data.cut())
    return corpus


def _alone(corpus: Corpus) -> dict[str, Corpus]:
    """By name, the corpora that one is mixed from; itself, without a name, if it is not mixed."""
    return {part.name: part.corpus for part in corpus.parts} or {"": corpus}


def _choose_machine(
    recipe: Recipe, folder: RunFolder, size: RunSize, changes: list[str], display: Display, n_ranks: int
) -> Machine:
    """The decisions that the run began with, as long as they can be kept; they change the last bits."""
    former = _kept_machine(folder, changes)
    if former is None:
        return replace(find_machine(recipe.train, size.flops / n_ranks), ranks=n_ranks)
    device = former.device if torch.cuda.is_available() else "cpu"
    kept = recipe.train.model_copy(
        update={
            "device": device,
            "precision": former.precision,
            "compile": "on" if former.compiled and compiler_found(device) else "off",
        }
    )
    here = replace(find_machine(kept, size.flops / n_ranks), ranks=n_ranks)
    for what, was in former.as_dict().items():
        if was != (now := getattr(here, what)):
            display.say(f"note: the run began with {what} {was} and goes on with {now}: not bit for bit the same")
    return here


def _memory(recipe: Recipe, machine: Machine, axes: Axes, planned: PlannedModel) -> float:
    """Bytes of a rank that training here will take; of blocks that are not compiled."""
    here = {"device": machine.device, "precision": machine.precision}
    decided = recipe.model_copy(update={"train": recipe.train.model_copy(update=here)})
    return estimate_memory(decided, axes, Sizes(decided, axes, planned.plan)).total


def _find_room(recipe: Recipe, folder: RunFolder, size: RunSize, ranks: Ranks, display: Display) -> None:
    """On the first rank; a run that has only to be finished writes no checkpoint."""
    root, steps = folder.checkpoints, recipe.train.steps
    if ranks.first and steps not in checkpoint_folders(root):
        n_bytes = sum(checkpoint_bytes(size.n_parameters, recipe.optim))
        check_room(root, n_bytes, steps, recipe.checkpoint, lambda text: display.say(f"warning: {text}"))


def _build(
    recipe: Recipe,
    folder: RunFolder,
    corpus: Corpus,
    machine: Machine,
    size: RunSize,
    planned: PlannedModel,
    ranks: Ranks,
    watchdog: Watchdog,
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
        float8=recipe.train.float8,
    )
    optimizer = create_optimizer(model, recipe.optim, planned.plan)
    return Session(
        recipe,
        folder,
        corpus,
        machine,
        model,
        optimizer,
        open_loader(corpus, recipe.data.cut(), recipe.train.plan(), recipe.seed, recipe.train.steps),
        Progress(),
        Window(),
        size,
        SpikeGuard(recipe.train.spike),
        ranks,
        watchdog,
        layout,
    )


def _say_waste(session: Session, display: Display) -> None:
    """What packing costs, source by source, where it is known. On the first rank."""
    if not session.ranks.first:
        return
    cut = session.recipe.data.cut()
    for name, corpus in _alone(session.corpus).items():
        if isinstance(rows := corpus.rows("train", *cut), PackedRows):
            display.say(f"  {name}{': ' if name else ''}{cut.packing}: {rows.waste()}")
