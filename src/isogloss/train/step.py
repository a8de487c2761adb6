"""One optimizer step: micro-batches' gradients, normalised by the global count of targets, clipped, checked, applied.

``g = (1 / n) sum_i grad L_i`` over micro-batches i, with n the targets of the whole batch: the result does not depend
on how rows are spread over micro-batches.
"""

from dataclasses import dataclass

import torch
from torch import nn

from isogloss.models.protocol import Batch, LanguageModel
from isogloss.nn.precision import autocast
from isogloss.nn.roles import declared_tensors


@dataclass(frozen=True)
class StepResult:
    """What a step did.

    Args:
        loss: mean negative log-likelihood of the batch, nats a target.
        grad_norm: the global norm before clipping.
        n_targets: targets in the batch.
        nonfinite: what was not finite, so that the step was skipped; empty for a step that was made.
    """

    loss: float
    grad_norm: float
    n_targets: int
    nonfinite: str = ""


def train_step(
    model: LanguageModel,
    optimizer: torch.optim.Optimizer,
    batch: Batch,
    *,
    micro_batch_size: int,
    clip: float,
    precision: str,
) -> StepResult:
    """One step on ``batch``, at the learning rate that the optimizer's groups hold.

    A loss or gradient that is not finite changes neither weights nor optimizer state.
    """
    assert isinstance(model, nn.Module)
    device = next(model.parameters()).device
    n_targets = batch.n_targets()
    nll = torch.zeros((), device=device)
    for micro_batch in batch.split(micro_batch_size):
        with autocast(device, precision):
            output = model.loss(micro_batch.to(device))
        (output.total / n_targets).backward()
        nll += output.nll
    parameters = list(model.parameters())
    grad_norm = nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])
    loss, norm = float(nll) / n_targets, float(grad_norm)
    nonfinite = _nonfinite(model, loss, norm)
    if not nonfinite:
        # Only now: clipping by a norm that is not finite would spoil every gradient, and hide which one it was.
        nn.utils.clip_grads_with_norm_(parameters, clip, grad_norm)
        optimizer.step()
    optimizer.zero_grad()
    return StepResult(loss, norm, n_targets, nonfinite)


def _nonfinite(model: nn.Module, loss: float, grad_norm: float) -> str:
    """Name what is not finite."""
    if loss != loss or abs(loss) == float("inf"):
        return "the loss"
    if grad_norm == grad_norm and abs(grad_norm) != float("inf"):
        return ""
    for site, tensor in declared_tensors(model):
        if tensor.grad is not None and not bool(torch.isfinite(tensor.grad).all()):
            return f"the gradient of {site.name}"
    return "the gradient's norm"
