"""The signals of a real model on a real batch: one forward and one backward pass, in float32."""

import math
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from isogloss.init.signals import Signals, over_last
from isogloss.models.decoder import Decoder
from isogloss.models.protocol import IGNORED, Batch
from isogloss.nn.softcap import softcap


def measure_signals(model: Decoder, batch: Batch, trained: bool = False) -> Signals:
    """What `predict_signals` predicts, measured. The model's gradients are left as they were, empty or not.

    Args:
        model: with its weights; not compiled.
        batch: on the model's device.
        trained: whether the loss is the cross-entropy of the batch's targets. Log-sum-exp less the mean logit is the
            loss that is expected of a model that knows nothing of them, without their noise.
    """
    seen: dict[str, list[Any]] = {"stream": [], "mixer": [], "ffn": [], "queries": [], "keys": [], "normed": []}
    branch = model.multipliers.branch

    def keep_stream(module: nn.Module, inputs: Any, output: Tensor) -> None:
        output.retain_grad()
        seen["stream"].append(output)

    def keep_embedding(module: nn.Module, inputs: Any) -> None:
        inputs[0].retain_grad()
        seen["stream"].append(inputs[0])

    def keep_size(kind: str, module: nn.Module, inputs: Any, output: Tensor) -> None:
        seen[kind].append(branch * _rms(output))

    def keep_vectors(kind: str, head_dim: int, module: nn.Module, inputs: Any, output: Tensor) -> None:
        seen[kind].append(output.detach().unflatten(-1, (-1, head_dim)) if output.ndim == 3 else output.detach())

    def keep_normed(module: nn.Module, inputs: Any, output: Tensor) -> None:
        seen["normed"].append(output.detach())

    blocks = model.blocks()
    handles = [blocks[0].register_forward_pre_hook(keep_embedding), model.norm.register_forward_hook(keep_normed)]
    for block in blocks:
        handles.append(block.register_forward_hook(keep_stream))
        for kind, module in zip(("mixer", "ffn"), block.written_by, strict=True):
            handles.append(module.register_forward_hook(partial(keep_size, kind)))
        for kind, module in (("queries", block.mixer.q_norm), ("keys", block.mixer.k_norm)):
            handles.append(module.register_forward_hook(partial(keep_vectors, kind, block.mixer.head_dim)))
    former = [p.grad for p in model.parameters()]
    try:
        output = model.loss(batch)
        (output.total / batch.n_targets()).backward()
    finally:
        for handle in handles:
            handle.remove()
        for parameter, grad in zip(model.parameters(), former, strict=True):
            parameter.grad = grad
    with torch.no_grad():
        logits = model.logits(model.multipliers.logits * seen["normed"][0])
        nll = float(output.nll.detach()) / max(1, int(batch.n_targets()))
    streams = seen["stream"]
    gradients = [_rms(stream.grad) for stream in streams]
    logits = logits[batch.targets != IGNORED].double()
    return Signals(
        stream=tuple(_rms(stream) for stream in streams),
        mixer_write=tuple(seen["mixer"]),
        ffn_write=tuple(seen["ffn"]),
        gradient=over_last(gradients),
        attention_logit_std=tuple(
            _logit_std(q, k, block.mixer.scale, block.mixer.config.softcap)
            for q, k, block in zip(seen["queries"], seen["keys"], blocks, strict=True)
        ),
        logit_std=float(logits.std(-1, correction=0).mean()),
        loss=nll if trained else float((logits.logsumexp(-1) - logits.mean(-1)).mean()),
    )


def _rms(x: Tensor) -> float:
    return math.sqrt(float(x.detach().double().square().mean()))


def _logit_std(q: Tensor, k: Tensor, scale: float, cap: float | None) -> float:
    """Over all pairs of positions of a row and over heads; rotation keeps lengths, so it is left out."""
    k = k.repeat_interleave(q.shape[2] // k.shape[2], 2)
    logits = scale * torch.einsum("bshc,bthc->bhst", q.double(), k.double())
    logits = logits if cap is None else softcap(logits, cap)
    return math.sqrt(float(logits.square().mean()))
