"""What of a session a checkpoint holds, and how a session takes it back."""

from collections.abc import Callable
from typing import Annotated, Any

import torch
from pydantic import ConfigDict, Field, field_validator, model_validator
from torch.distributed.tensor import DTensor

from isogloss.checkpoint.asynchronous import Saver
from isogloss.checkpoint.load import Checkpoint, newest_checkpoint
from isogloss.checkpoint.peers import join_peers
from isogloss.checkpoint.retention import REWIND_TARGET
from isogloss.config.base import UserError
from isogloss.config.stored import Count, Stored
from isogloss.init.fingerprint import fingerprint
from isogloss.models.weights import find_nonfinite, model_tensors, nonfinite_in_words
from isogloss.optim.groups import AdamWConfig
from isogloss.optim.state import allot_optimizer_tensors, cast_moments, optimizer_tensors
from isogloss.parallel.env import PATIENCE
from isogloss.run.session import Session
from isogloss.train.display import Display
from isogloss.train.loop import Progress
from isogloss.train.metrics import Metrics

_NotNegative = Annotated[float, Field(ge=0)]


class _Progress(Stored):
    """As ``Progress``; earlier versions saved no rewinds."""

    step: Count
    tokens: Count
    skipped: Count
    skipped_in_a_row: Count
    seconds: _NotNegative
    passed_over: Count = 0
    rewinds: Count = 0

    @field_validator("step")
    @classmethod
    def _check_step(cls, step: int, info: Any) -> int:
        if info.context is not None and step != info.context["step"]:
            raise ValueError(f"it is of step {step}, its checkpoint of step {info.context['step']}")
        return step


class _Step(Stored):
    """As ``StepInfo``; the loss and the gradient of a step that was skipped need not be finite."""

    model_config = ConfigDict(allow_inf_nan=True)

    step: Count
    loss: float
    grad_norm: float
    lr: _NotNegative
    n_targets: Count
    seconds: _NotNegative
    nonfinite: str
    last: bool
    warming: bool = False


class _Segment(Stored):
    """As ``isogloss.data.rows.mixing.Segment``."""

    start: Count
    block: Annotated[Count, Field(gt=0)]
    names: list[str]
    caps: list[Count | None]
    points: list[tuple[Count, list[_NotNegative]]]

    @model_validator(mode="after")
    def _check_lengths(self) -> "_Segment":
        n = len(self.names)
        if not self.points or len(self.caps) != n or any(len(weights) != n for _, weights in self.points):
            raise ValueError(f"not one cap and one weight for each of the {n} names")
        return self


class _Mixture(Stored):
    sources: dict[str, str]
    segments: Annotated[list[_Segment], Field(min_length=1)]


class _Loader(Stored):
    """As ``Loader.state``, which is compared with what the run has now: only what is used otherwise has a type here."""

    model_config = ConfigDict(extra="allow")

    seq_len: Count
    batch_size: Count
    seed: Count
    mixture: _Mixture | None = None


class RunState(Stored):
    """The schema of a run's ``state.json``."""

    model_config = ConfigDict(extra="allow")  # of a later version

    progress: _Progress
    loader: _Loader
    window: list[_Step]
    guard: list[float] = Field(default_factory=list)
    initial_weights: dict[str, str] | None = None
    records: Count | None = None
    settled_records: Count | None = None
    rewind_target: bool | None = None


def checkpoint_bytes(n_parameters: int, optim: AdamWConfig) -> tuple[int, int]:
    """Of a checkpoint's model, and of its optimizer's state."""
    return 4 * n_parameters, (4 if optim.moments == "bf16" else 8) * n_parameters


def save(session: Session, saver: Saver, metrics: Metrics, scheduled: bool) -> None:
    """Save, or begin to, once what was recorded up to now is on the disk. Collective.

    Args:
        session: after a step.
        saver: of its checkpoints.
        metrics: of the run.
        scheduled: whether the steps alone call for a checkpoint here, and not a signal or the clock: only to such a one
            the run may go back.
    """
    metrics.sync()
    target = {} if session.recipe.train.spike is None else {REWIND_TARGET: scheduled}
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
            "records": metrics.n_records,
            "settled_records": metrics.n_settled,
        }
        | target,
    )


def find_newest(
    session: Session, display: Display, wanted: Callable[[Checkpoint], bool] | None = None
) -> Checkpoint | None:
    """The newest whole checkpoint of the run, the same for all ranks, if there is one. Collective.

    Args:
        session: of the run.
        display: shows which are damaged.
        wanted: as of `newest_checkpoint`.

    Raises:
        UserError: there are checkpoints and none is whole.
    """
    root = session.folder.checkpoints
    return newest_checkpoint(root, lambda text: display.say(f"warning: {text}"), join_peers(PATIENCE), RunState, wanted)


def find_rewind_target(session: Session, display: Display) -> Checkpoint | None:
    """The newest whole checkpoint that the steps alone have called for. Collective.

    A signal, the clock or the end of an earlier session must not change where a run goes back to.

    Raises:
        UserError: there are checkpoints and none is whole.
    """

    def wanted(checkpoint: Checkpoint) -> bool:
        by_step = checkpoint.step % session.recipe.checkpoint.every == 0  # of a version that did not say
        return checkpoint.state.get(REWIND_TARGET, by_step)

    return find_newest(session, display, wanted)


def resume(session: Session, display: Display) -> None:
    """Put back the newest whole checkpoint, if there is one; the weights of a run that begins are fingerprinted.

    Collective.

    Raises:
        UserError: there are checkpoints and none is whole, or the newest does not fit the recipe or its data.
    """
    checkpoint = find_newest(session, display)
    if checkpoint is None:
        session.initial = fingerprint(session.model)
        return
    session.initial = checkpoint.state.get("initial_weights")
    session.n_records = checkpoint.state.get("records")
    session.n_settled = checkpoint.state.get("settled_records")
    saved = checkpoint.state["progress"]
    if saved["step"] > session.recipe.train.steps:
        raise UserError(
            f"{session.folder.path} stands at step {saved['step']}, past train.steps={session.recipe.train.steps}; "
            "give this run another name (name=...), or more steps"
        )
    for change in session.loader.resume(checkpoint.state["loader"], saved["step"] + saved.get("passed_over", 0)):
        display.say(change)
    restore(session, checkpoint)
    _check_finite(session, checkpoint)
    session.progress = Progress(**saved)
    session.progress.skipped_in_a_row = 0  # whoever goes on has changed something, or wants to see it again
    display.say(f"resuming after step {session.progress.step} ({checkpoint.folder.name})")


def _check_finite(session: Session, checkpoint: Checkpoint) -> None:
    """Refuse to go on from numbers that are not finite: no later step makes them so. Collective.

    Raises:
        UserError: naming them.
    """
    parts = {**model_tensors(session.model), **optimizer_tensors(session.model, session.optimizer)}
    with join_peers(PATIENCE).together(UserError):
        here = ((name, tensor.to_local() if isinstance(tensor, DTensor) else tensor) for name, tensor in parts.items())
        if counts := find_nonfinite(here):
            raise UserError(
                f"{checkpoint.folder} holds {nonfinite_in_words(counts)}, and training cannot mend them; move that "
                "folder away to go on from the checkpoint before it"
            )


def restore(session: Session, checkpoint: Checkpoint) -> None:
    """Take back the weights, the optimizer's state and what the window and the guard have seen. Collective."""
    checkpoint.load_into("model", model_tensors(session.model))
    moments = allot_optimizer_tensors(session.model, session.optimizer, checkpoint.shapes("optimizer"))
    checkpoint.load_into("optimizer", moments)
    cast_moments(session.optimizer, torch.bfloat16 if session.recipe.optim.moments == "bf16" else torch.float32)
    session.window.load(checkpoint.state["window"])
    session.guard.load(checkpoint.state.get("guard", []))
