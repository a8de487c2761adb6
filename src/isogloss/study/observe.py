"""What happens inside a model on one batch, without changing it: what each matrix reads, the stream, the logits."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from isogloss.mixers.attention import Attention
from isogloss.models.decoder import Decoder
from isogloss.models.protocol import Batch
from isogloss.nn.linear import Linear
from isogloss.nn.norm import RMSNorm
from isogloss.nn.roles import canonical_name
from isogloss.nn.rotary import rotate


@dataclass(frozen=True)
class Observation:
    """One forward pass, in float32.

    Args:
        inputs: canonical name of a matrix's weight -> what it read, (B, T, fan_in).
        normed: canonical name of a gain -> what it is multiplied by, (B, T, D).
        stream: after the embedding, then after each layer, (B, T, D).
        attention_logits: of each layer, (n,): every query with every key it may look at, over rows and heads.
        aligned_logits: of each layer: the logit of a query and a key of typical lengths that point the same way.
        logits: of the output, (B, T, V).
    """

    inputs: dict[str, Tensor]
    normed: dict[str, Tensor]
    stream: list[Tensor]
    attention_logits: list[Tensor]
    aligned_logits: list[float]
    logits: Tensor


@torch.no_grad()
@torch.compiler.set_stance("force_eager")
def observe(model: Decoder, batch: Batch) -> Observation:
    """Run a model once and keep what passes through it.

    Args:
        model: of attention mixers; compiled or not, it runs eagerly.
        batch: on the model's device; rows short enough to keep all logits.
    """
    inputs: dict[str, Tensor] = {}
    normed: dict[str, Tensor] = {}
    stream: list[Tensor] = []
    attention: list[Tensor] = []
    aligned: list[float] = []
    handles = []

    def keep(place: dict[str, Tensor], name: str, of: Callable[[Any, Tensor], Tensor]) -> Callable[..., None]:
        def hook(module: nn.Module, arguments: Any, output: Tensor) -> None:
            place[name] = of(arguments[0], output)

        return hook

    for name, module in model.named_modules():
        name = canonical_name(name)
        if isinstance(module, Linear):
            handles.append(module.register_forward_hook(keep(inputs, f"{name}.weight", lambda read, written: read)))
        elif isinstance(module, RMSNorm):
            gain = module.weight
            handles.append(
                module.register_forward_hook(keep(normed, f"{name}.weight", lambda read, written, g=gain: written / g))
            )
    blocks = model.blocks()

    def keep_first(module: nn.Module, arguments: Any) -> None:
        stream.append(arguments[0])

    def keep_stream(module: nn.Module, arguments: Any, output: Tensor) -> None:
        stream.append(output)

    handles.append(blocks[0].register_forward_pre_hook(keep_first))
    for block in blocks:
        handles.append(block.register_forward_hook(keep_stream))
        handles += _watch_attention(block.mixer, batch, attention, aligned)
    try:
        hidden = model.trunk(batch.tokens, batch.documents)
    finally:
        for handle in handles:
            handle.remove()
    if model.head is not None:
        inputs["head.weight"] = hidden
    return Observation(inputs, normed, stream, attention, aligned, model.logits(hidden))


def _watch_attention(mixer: Attention, batch: Batch, kept: list[Tensor], aligned: list[float]) -> list[Any]:
    vectors: dict[str, Tensor] = {}

    def keep(name: str) -> Callable[..., None]:
        def hook(module: nn.Module, arguments: Any, output: Tensor) -> None:
            vectors[name] = output.unflatten(-1, (-1, mixer.head_dim)) if output.ndim == 3 else output

        return hook

    def multiply(module: nn.Module, arguments: Any, output: Tensor) -> None:
        prepared = arguments[1]
        q, k = (rotate(vectors[name].transpose(1, 2), prepared.cos, prepared.sin) for name in ("q", "k"))
        k = k.repeat_interleave(mixer.n_heads // mixer.n_kv_heads, 1)
        scores = mixer.scale * q @ k.transpose(-1, -2)
        position = torch.arange(scores.shape[-1], device=scores.device)
        seen = position[:, None] >= position
        if mixer.config.window is not None:
            seen = seen & (position[:, None] - position < mixer.config.window)
        if batch.documents is not None:
            seen = seen & (batch.documents[:, None, :, None] == batch.documents[:, None, None, :])
        kept.append(scores[seen.expand_as(scores)])
        aligned.append(mixer.scale * mixer.head_dim * rms(q) * rms(k))

    return [
        mixer.q_norm.register_forward_hook(keep("q")),
        mixer.k_norm.register_forward_hook(keep("k")),
        mixer.register_forward_hook(multiply),
    ]


def rms(x: Tensor) -> float:
    """Root mean square over all elements."""
    return float(x.detach().double().square().mean().sqrt())
