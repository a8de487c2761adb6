"""Going back to a checkpoint after a spike of the loss, to go on with other data (`isogloss.train.guard`)."""

from isogloss.checkpoint.retention import delete_after
from isogloss.parallel.first_rank import rank_0_first
from isogloss.run.session import Session
from isogloss.run.state import find_rewind_target, restore
from isogloss.train.display import Display
from isogloss.train.loop import DivergedError, StepInfo
from isogloss.train.metrics import Metrics


def rewind(session: Session, spike: StepInfo, metrics: Metrics, display: Display) -> None:
    """Go back to the newest scheduled checkpoint, and pass over the batches from there to the spike. Collective.

    Those written since, by a signal or the clock, are of steps that are undone: they go.

    Args:
        session: no checkpoint is being written.
        spike: the step whose loss spiked; it has been made, and is undone with those before it.
        metrics: records it, and drops what was recorded since the checkpoint.
        display: says so.

    Raises:
        DivergedError: that has happened too often, or there is no checkpoint.
    """
    config, progress = session.recipe.train.spike, session.progress
    assert config is not None
    what = f"the loss spiked to {spike.loss:.3f}, above {session.guard.threshold():.3f}"
    checkpoint = find_rewind_target(session, display)
    if checkpoint is None or progress.rewinds >= config.max_rewinds:
        why = (
            "there is no checkpoint of checkpoint.every yet"
            if checkpoint is None
            else f"the run has gone back {progress.rewinds} times"
        )
        raise DivergedError(
            f"step {spike.step}: {what}, and {why}. Lower optim.lr, lengthen optim.schedule.warmup, or raise "
            "train.spike.deviations or train.spike.max_rewinds"
        )
    restore(session, checkpoint)
    progress.go_back(checkpoint.state["progress"])
    rank_0_first(
        session.ranks,
        f"deleting checkpoints past step {progress.step}, before rewind {progress.rewinds}",
        lambda: delete_after(session.folder.checkpoints, progress.step) if session.ranks.first else None,
    )
    passed_over = spike.step - progress.step
    metrics.rewind(spike.step, progress.step, progress.rewinds, loss=spike.loss, passed_over=passed_over)
    display.say(
        f"step {spike.step}: {what}; back to step {progress.step}, passing over {passed_over} batches "
        f"({progress.rewinds} of {config.max_rewinds})"
    )
