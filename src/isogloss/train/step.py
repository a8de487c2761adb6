"""One optimizer step: micro-batches' gradients, normalised by the global count of targets, clipped, checked, applied.

``g = (1 / n) sum_i grad L_i`` over micro-batches i, with n the targets of the whole batch: the result does not depend
on how rows are spread over micro-batches and ranks.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from isogloss.init.apply import from_all_ranks, local_part
from isogloss.models.protocol import Batch, LanguageModel
from isogloss.nn.precision import Precision, autocast, computing_device
from isogloss.nn.roles import declared_tensors
from isogloss.parallel.fsdp import reduce_gradients
from isogloss.parallel.gradients import clip_gradients, gradient_norm
from isogloss.parallel.mesh import Layout


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
    precision: Precision,
    layout: Layout | None = None,
) -> StepResult:
    """One step on ``batch``, at the learning rate that the optimizer's groups hold.

    A loss or gradient that is not finite changes neither weights nor optimizer state.

    Args:
        model: its gradients are zero.
        optimizer: over its parameters.
        batch: this rank's rows of the step's batch.
        micro_batch_size: rows at a time.
        clip: the bound of the gradient's global norm.
        precision: ``bf16`` or ``fp32``.
        layout: the ranks that share the step, as the model was built with; all return the same.
    """
    assert isinstance(model, nn.Module)
    device = computing_device(model)
    count: int | Tensor = batch.n_targets()
    if layout is not None:  # not read before the end: that would wait for the step before
        count = layout.sum_over_targets(torch.full((), count, device=device))
    nll = torch.zeros((), device=device)
    micro_batches = batch.split(micro_batch_size)
    for number, micro_batch in enumerate(micro_batches, start=1):
        if layout is not None:
            reduce_gradients(model, now=number == len(micro_batches))
        with autocast(device, precision):
            output = model.loss(micro_batch.to(device))
        (output.total / count).backward()
        nll += output.nll
    if layout is not None:
        layout.agreed_sum(nll)
    parameters = list(model.parameters())
    grad_norm = gradient_norm(parameters)
    n_targets = int(count)
    loss, norm = float(nll) / n_targets if n_targets else math.nan, float(grad_norm)
    # All are the same on all ranks, and so is what follows from them.
    nonfinite = _nonfinite(model, loss, norm) if n_targets else "the loss of a batch without targets"
    if not nonfinite:
        # Only now: clipping by a norm that is not finite would spoil every gradient, and hide which one it was.
        clip_gradients(parameters, clip, grad_norm)
        optimizer.step()
    optimizer.zero_grad()
    return StepResult(loss, norm, n_targets, nonfinite)


def _nonfinite(model: nn.Module, loss: float, grad_norm: float) -> str:
    """Name what is not finite."""
    if not math.isfinite(loss):
        return "the loss"
    if math.isfinite(grad_norm):
        return ""
    found = ""
    for site, tensor in declared_tensors(model):
        if tensor.grad is not None and not bool(torch.isfinite(local_part(tensor.grad)[0]).all()):
            found = f"the gradient of {site.name}"
            break
    return next((name for name in from_all_ranks(found) if name), "the gradient's norm")
