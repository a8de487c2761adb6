"""The steps of a session, and what is done between them: watching, saving, stopping, going back."""

import math
import signal
import time

from isogloss.checkpoint.asynchronous import Saver
from isogloss.checkpoint.layout import checkpoint_folders
from isogloss.checkpoint.room import short_of_room
from isogloss.data.prefetch import Prefetcher
from isogloss.parallel.env import PATIENCE
from isogloss.run.description import mend_folder
from isogloss.run.rewind import rewind
from isogloss.run.session import Session
from isogloss.run.state import RunState, checkpoint_bytes, save
from isogloss.run.watch import Watch
from isogloss.train.agreement import Found, agree
from isogloss.train.display import Display
from isogloss.train.hooks import every
from isogloss.train.loop import DivergedError, training_steps
from isogloss.train.metrics import Metrics
from isogloss.train.signals import TIME_LIMIT, Interrupted, stop_requests


def run_steps(session: Session, metrics: Metrics, display: Display, until: float | None) -> None:
    """Train to the last step. Collective.

    Args:
        session: ready for its next step.
        metrics: records what is measured.
        display: shows it.
        until: when the run's limit of time is reached, by ``time.monotonic``; ``None`` without one.

    Raises:
        Interrupted: a signal, or the limit, asked for the end; the state is saved.
        DivergedError: too many steps were not finite, or the loss spiked too often.
        SaveFailedError: no checkpoint could be written.
    """
    recipe, progress = session.recipe, session.progress
    if progress.step == recipe.train.steps:
        return
    watchdog, plan = session.watchdog, recipe.train.plan()
    watch = Watch(session, metrics, display)
    pinned = session.machine.device == "cuda"
    size = sum(checkpoint_bytes(session.size.n_parameters, recipe.optim))
    saved_at = time.monotonic()
    hooks = [
        watch.log,
        every(recipe.watch.validate_every, watch.validate, at_end=False),
        every(recipe.watch.sample_every, watch.sample, at_end=False),
    ]

    def shape() -> tuple[int, int]:  # of the next batch
        at = progress.step + progress.passed_over
        return plan.size(at), plan.divisor(at)

    display.start(progress.step, recipe.train.steps)
    if progress.step and session.machine.compiled:
        display.wait("compiling the blocks, where they are not in the cache: up to half a minute, minutes in float8")
    try:
        with (
            Prefetcher(session.batches, last_step=recipe.train.steps + progress.passed_over, pinned=pinned) as ahead,
            Saver(
                session.folder.checkpoints,
                recipe.checkpoint,
                patience=PATIENCE,
                watched=watchdog.phase,
                schema=RunState,
            ) as saver,
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
            for info in watchdog.over(steps, progress, shape):
                asked = request.asked or (signal.SIGPIPE if display.lost else 0)
                if session.ranks.first and mend_folder(session, metrics, display):
                    saved_at = -math.inf  # until a checkpoint is there again
                late = time.monotonic() - saved_at >= 60 * recipe.checkpoint.minutes
                spiked = session.guard.spikes(info.loss, bool(info.nonfinite))
                with watchdog.phase(f"agreeing on what follows step {info.step}"):
                    saver.poll()
                    found = agree(Found(asked, late, spiked))
                if found.spiked:
                    with watchdog.phase(f"going back before the spike at step {info.step}"):
                        saver.finish()
                        rewind(session, info, metrics, display)
                    ahead.last_step = recipe.train.steps + progress.passed_over
                    continue
                for hook in hooks:
                    hook(info)
                stopping = found.asked and not info.last
                # Not in a row of steps that are not finite: it would push the last good checkpoint out.
                scheduled = info.step % recipe.checkpoint.every == 0 and not info.nonfinite
                if info.last or stopping or scheduled or (found.late and not info.nonfinite):
                    if session.ranks.first and (short := short_of_room(session.folder.checkpoints, size)):
                        display.say(f"warning: {short}; trying anyway")
                    with watchdog.phase(f"saving step {info.step}"):
                        save(session, saver, metrics, scheduled)
                    saved_at = time.monotonic()
                if stopping or info.last:
                    with watchdog.phase(f"waiting for the checkpoint of step {info.step}"):
                        saver.finish()
                if stopping:
                    why = " (train.max_minutes)" if found.asked == TIME_LIMIT else ""
                    display.say(f"stopped after step {info.step}{why}, saved; the same command goes on from there")
                    raise Interrupted(found.asked, session.ranks.world_size > 1)
    except DivergedError as error:
        newest = max(checkpoint_folders(session.folder.checkpoints), default=None)
        kept = "There is no checkpoint yet." if newest is None else f"The newest checkpoint is that of step {newest}."
        raise DivergedError(f"{error} {kept}") from error
    finally:
        display.stop()
