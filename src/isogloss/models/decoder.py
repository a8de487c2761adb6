"""The decoder-only language model: embedding, residual blocks, final norm, linear head.

``logits = cap(c norm(x_L) W_head^T)``, ``x_0 = e E[tokens]``, c and e the scheme's multipliers (mostly 1); the
head is the embedding itself where it is tied.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, cast

import torch
from jaxtyping import Float, Int, Integer
from pydantic import Field, model_validator
from torch import Tensor, nn

from isogloss.config.base import Config, UserError
from isogloss.mixers.attention import AttentionConfig
from isogloss.mixers.registry import MixerConfig
from isogloss.models.block import Block, NormPlacement
from isogloss.models.protocol import IGNORED, Batch, LossOutput, as_ids
from isogloss.nn.feed_forward import FeedForwardConfig, SwiGLUConfig
from isogloss.nn.linear import Embedding, Linear
from isogloss.nn.loss import chunk_loss, linear_cross_entropy
from isogloss.nn.multipliers import Multipliers
from isogloss.nn.norm import RMSNorm
from isogloss.nn.roles import Role
from isogloss.nn.softcap import softcap


class DecoderConfig(Config):
    """A decoder-only Transformer."""

    type: Literal["decoder"] = "decoder"
    d_model: int = Field(gt=0)
    """Width of the residual stream."""
    n_layers: int = Field(gt=0)
    """How many blocks."""
    mixer: MixerConfig = AttentionConfig()
    """How a block mixes positions."""
    ffn: FeedForwardConfig = SwiGLUConfig()
    """What a block does at each position."""
    vocab_size: int | None = Field(default=None, gt=0)
    """Rows of the embedding, at least the tokenizer's tokens; exactly those if not given."""
    tied_head: bool = False
    """Whether the head is the embedding."""
    norm: NormPlacement = "pre"
    """Where a block norms: pre, post, output (of a branch), or sandwich (before and after); see models/block.py."""
    norm_eps: float = Field(default=1e-5, gt=0)
    """Added to the mean square in every norm of the stream."""
    logit_softcap: float | None = Field(default=None, gt=0)
    """Bound output logits smoothly to +- this."""
    z_loss: float = Field(default=0.0, ge=0)
    """Coefficient of the squared log-partition in the training loss; 1e-4 in PaLM."""

    @model_validator(mode="after")
    def _check(self) -> "DecoderConfig":
        self.mixer.heads(self.d_model)
        return self

    def written_out(self) -> "DecoderConfig":
        """The same model with the sizes given that follow from others."""
        heads = self.mixer.heads(self.d_model)
        mixer = self.mixer.model_copy(update=heads._asdict())
        ffn = self.ffn.model_copy(update={"d_ff": self.ffn.width(self.d_model)})
        return self.model_copy(update={"mixer": mixer, "ffn": ffn})


@dataclass
class DecoderState:
    """What decoding carries: how many tokens each row has seen, and one cache a layer."""

    length: int
    max_len: int
    caches: list[Any]


class Decoder(nn.Module):
    """A decoder whose config says its vocabulary."""

    def __init__(self, config: DecoderConfig, multipliers: Multipliers) -> None:
        super().__init__()
        if config.vocab_size is None:
            raise UserError("a model needs a vocab_size: that of its tokenizer (n_tokens), or Recipe.with_vocabulary")
        self.config, self.multipliers = config, multipliers
        self.embedding = Embedding(config.vocab_size, config.d_model)
        blocks = [
            Block(
                config.mixer,
                config.ffn,
                config.d_model,
                config.norm_eps,
                config.norm,
                multipliers,
                index,
                config.n_layers,
            )
            for index in range(config.n_layers)
        ]
        self.layers = nn.ModuleList(blocks)
        self.norm = RMSNorm(config.d_model, config.norm_eps)
        self.head = None if config.tied_head else Linear(config.d_model, config.vocab_size, Role.HEAD)
        self.loss_kernel: Callable[..., Any] = chunk_loss  # build puts the compiled form here

    def trunk(
        self,
        tokens: Int[Tensor, "B T"],
        documents: Int[Tensor, "B T"] | None = None,
        state: DecoderState | None = None,
        positions: Int[Tensor, " T"] | None = None,
    ) -> Float[Tensor, "B T D"]:
        """The normed residual stream, times its multiplier: what the head reads."""
        start = 0 if state is None else state.length
        end = start + tokens.shape[1]
        if state is not None and end > state.max_len:
            raise ValueError(f"the state holds {state.max_len} tokens a row, asked to hold {end}; make a longer one")
        if positions is None:
            positions = torch.arange(start, end, device=tokens.device)
        blocks = self.blocks()
        mixers = {block.mixer.config: block.mixer for block in blocks}
        decoding = state is not None
        prepared = {config: mixer.prepare(positions, end, documents, decoding) for config, mixer in mixers.items()}
        x = _times(self.multipliers.embedding, self.embedding(tokens))
        for index, block in enumerate(blocks):
            x = block(x, prepared[block.mixer.config], None if state is None else state.caches[index])
        if state is not None:
            state.length = end
        return _times(self.multipliers.logits, self.norm(x))

    @property
    def vocab_size(self) -> int:
        """V: ids below it can be read and predicted."""
        return self.embedding.num_embeddings

    def head_weight(self) -> Float[Tensor, "V D"]:
        """The weight of the output head."""
        return self.embedding.weight if self.head is None else self.head.weight

    def forward(self, tokens: Integer[Tensor, "B T"], state: DecoderState | None = None) -> Float[Tensor, "B T V"]:
        """Logits in float32; with ``state`` the tokens continue what it has seen, and it is advanced in place."""
        return self.logits(self.trunk(as_ids(tokens), state=state))

    def logits(self, hidden: Float[Tensor, "B T D"]) -> Float[Tensor, "B T V"]:
        """What the head makes of the trunk's output, in float32."""
        logits = nn.functional.linear(hidden, self.head_weight()).float()
        cap = self.config.logit_softcap
        return logits if cap is None else softcap(logits, cap)

    def loss(self, batch: Batch) -> LossOutput:
        """The loss summed over the targets of a batch, in nats."""
        hidden = self.trunk(batch.tokens, batch.documents, positions=batch.positions)
        total, nll = linear_cross_entropy(
            hidden.flatten(0, 1),
            self.head_weight(),
            batch.targets.flatten(),
            ignored=IGNORED,
            cap=self.config.logit_softcap,
            z_loss=self.config.z_loss,
            kernel=self.loss_kernel,
        )
        return LossOutput(total, nll)

    def blocks(self) -> Sequence[Block]:
        """The layers, in order."""
        return cast("list[Block]", list(self.layers))

    def flops_per_token(self, seq_len: int) -> int:
        """Three forward passes' worth of products (one forward, two backward); attention counted over the whole row.

        The convention of PaLM, appendix B: 6 for each weight but the embedding's, 12 L H C T for attention.
        """
        weights = sum(p.numel() for p in self.parameters() if p.ndim == 2) - self.embedding.weight.numel()
        if self.head is None:
            weights += self.embedding.weight.numel()
        mixers = sum(block.mixer.flops_per_token(seq_len) for block in self.blocks())
        return 3 * (2 * weights + mixers)

    def new_state(self, batch_size: int, max_len: int) -> DecoderState:
        """An empty state for ``batch_size`` rows of up to ``max_len`` tokens."""
        caches = [block.mixer.new_cache(batch_size, max_len) for block in self.blocks()]
        return DecoderState(0, max_len, caches)


def _times(multiplier: float, x: Tensor) -> Tensor:
    return x if multiplier == 1.0 else multiplier * x
