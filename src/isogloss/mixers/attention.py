"""Multi-head attention with grouped keys and values (Ainslie et al. 2023) and rotary positions.

``y = concat_h(attend(q_h, k_g(h), v_g(h))) W_o``, queries and keys turned by their position and, with ``qk_norm``,
first normalised to unit RMS per head (Henry et al. 2020). No biases.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import torch
from jaxtyping import Float, Int
from pydantic import Field, model_validator
from torch import Tensor, nn

from isogloss.config.base import Config, UserError
from isogloss.nn.attention import Backend, attend, create_mask
from isogloss.nn.compiler import compiler_found
from isogloss.nn.linear import Linear
from isogloss.nn.multipliers import Multipliers
from isogloss.nn.norm import RMSNorm
from isogloss.nn.roles import Role
from isogloss.nn.rotary import RotaryConfig, rotate, rotations

# At and below this row length the compiled plain kernel trains faster than sdpa on CPU (benchmarks/attention.py).
PLAIN_IS_FASTER_UP_TO = 256


class AttentionConfig(Config):
    """Causal self-attention."""

    type: Literal["attention"] = "attention"
    n_heads: int | None = Field(default=None, gt=0)
    """Query heads; d_model / head_dim if not given."""
    n_kv_heads: int | None = Field(default=None, gt=0)
    """Key and value heads, dividing n_heads; as many as n_heads if not given."""
    head_dim: int | None = Field(default=None, gt=0)
    """Channels of a head, even; d_model / n_heads if not given, and 64 if neither is."""
    rotary: RotaryConfig = RotaryConfig()
    """Rotary position embedding."""
    qk_norm: bool = False
    """Normalise queries and keys per head before they are turned."""
    window: int | None = Field(default=None, gt=0)
    """How many tokens back a query may look, itself included; all if not given."""
    softcap: float | None = Field(default=None, gt=0)
    """Bound attention logits smoothly to +- this; needs the backend plain or flex."""
    backend: Literal["auto", "sdpa", "plain", "flex"] = "auto"
    """The kernel for training. auto: on CPU plain for a soft cap and for compiled short rows, else sdpa; on a GPU flex
    for documents, a window, a soft cap or rows that ranks share, where it can be compiled, else sdpa."""

    @model_validator(mode="after")
    def _check(self) -> "AttentionConfig":
        if self.n_heads is not None and self.n_kv_heads is not None and self.n_heads % self.n_kv_heads:
            raise ValueError(f"n_kv_heads ({self.n_kv_heads}) must divide n_heads ({self.n_heads})")
        if self.head_dim is not None and self.head_dim % 2:
            raise ValueError(f"head_dim ({self.head_dim}) must be even: rotary positions turn pairs of channels")
        if self.softcap is not None and self.backend == "sdpa":
            raise ValueError("backend sdpa cannot cap logits; set backend to plain or flex, or softcap to null")
        return self

    def heads(self, d_model: int) -> "Heads":
        """The heads in a model of this width.

        Raises:
            ValueError: d_model does not divide into heads of an even width, or n_kv_heads does not divide the heads.
        """
        n_heads, head_dim = self.n_heads, self.head_dim
        if n_heads is None:
            head_dim = head_dim or 64
            if d_model % head_dim:
                raise ValueError(
                    f"d_model ({d_model}) must be a multiple of head_dim ({head_dim}"
                    f"{'' if self.head_dim else ' where none is given'}); set mixer.n_heads or mixer.head_dim"
                )
            n_heads = d_model // head_dim
        elif head_dim is None:
            if d_model % n_heads or (d_model // n_heads) % 2:
                raise ValueError(
                    f"d_model ({d_model}) must be an even multiple of n_heads ({n_heads}), or head_dim be given"
                )
            head_dim = d_model // n_heads
        n_kv_heads = self.n_kv_heads or n_heads
        if n_heads % n_kv_heads:
            raise ValueError(f"n_kv_heads ({n_kv_heads}) must divide n_heads ({n_heads})")
        return Heads(n_heads, n_kv_heads, head_dim)


class Heads(NamedTuple):
    """How many query heads, how many key and value heads, and the channels of one."""

    n_heads: int
    n_kv_heads: int
    head_dim: int


class Prepared(NamedTuple):
    """What attention layers of one config share for a batch."""

    cos: Tensor
    sin: Tensor
    mask: Any
    backend: Backend


@dataclass
class KeyValueCache:
    """The keys and values of one layer: (B, G, max_len, C) each, of which the first ``length`` hold."""

    keys: Tensor
    values: Tensor
    length: int = 0

    def append(self, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Store new keys and values; return all so far."""
        end = self.length + k.shape[2]
        self.keys[:, :, self.length : end] = k
        self.values[:, :, self.length : end] = v
        self.length = end
        return self.keys[:, :, :end], self.values[:, :, :end]


class Attention(nn.Module):
    """Causal self-attention over (B, T, D)."""

    def __init__(self, config: AttentionConfig, d_model: int, norm_eps: float, multipliers: Multipliers) -> None:
        super().__init__()
        self.config = config
        self.n_heads, self.n_kv_heads, self.head_dim = config.heads(d_model)
        self.q_proj = Linear(d_model, self.n_heads * self.head_dim, Role.QUERY)
        self.k_proj = Linear(d_model, self.n_kv_heads * self.head_dim, Role.KEY)
        self.v_proj = Linear(d_model, self.n_kv_heads * self.head_dim, Role.VALUE)
        self.o_proj = Linear(self.n_heads * self.head_dim, d_model, Role.ATTENTION_OUT)
        self.q_norm = RMSNorm(self.head_dim, norm_eps) if config.qk_norm else nn.Identity()
        self.k_norm = RMSNorm(self.head_dim, norm_eps) if config.qk_norm else nn.Identity()
        self.scale = multipliers.attention * self.head_dim**-0.5
        self.compiled = False
        # Where ranks share each row: all their positions of a tensor, along a dim (`isogloss.parallel.context`).
        self.gather: Callable[[Tensor, int], Tensor] | None = None

    def check_device(self, device: str) -> None:
        """Flex attention has no backward pass on a CPU (torch 2.13), and has to be compiled on a GPU."""
        if self.config.backend == "flex" and device == "cpu":
            raise UserError("model.mixer.backend is flex, which trains on GPUs only; set it to auto, sdpa or plain")
        if self.config.backend == "flex" and not compiler_found(device):
            raise UserError(
                "model.mixer.backend is flex, which needs Triton, a C compiler and Python's headers to be compiled; "
                "install gcc and python3-dev, or set it to auto, sdpa or plain"
            )

    def backend(self, device: str, n_keys: int, has_documents: bool, decoding: bool) -> Backend:
        """The kernel for queries that read ``n_keys`` tokens."""
        config = self.config
        if decoding:  # one query at a time: nothing to fuse, and flex would be compiled for each length
            return "sdpa" if config.softcap is None else "plain"
        if config.backend != "auto":
            return config.backend
        # Of rows that ranks share, each has some positions: what it may see is no longer the plain triangle.
        masked = has_documents or config.window is not None or config.softcap is not None or self.gather is not None
        # flex's kernels know no heads narrower than 16
        if device == "cuda" and masked and self.head_dim >= 16 and compiler_found("cuda"):
            return "flex"
        short_and_fused = self.compiled and device == "cpu" and n_keys <= PLAIN_IS_FASTER_UP_TO
        return "plain" if config.softcap is not None or short_and_fused else "sdpa"

    def prepare(
        self, positions: Int[Tensor, " T"], n_keys: int, documents: Int[Tensor, "B T"] | None, decoding: bool
    ) -> Prepared:
        """The rotations, the kernel and the mask for tokens that stand at ``positions`` and read ``n_keys`` tokens."""
        if self.gather is None:
            keys, key_documents = torch.arange(n_keys, device=positions.device), documents
        else:
            keys, key_documents = self.gather(positions, 0), None if documents is None else self.gather(documents, 1)
        backend = self.backend(positions.device.type, len(keys), documents is not None, decoding)
        mask = create_mask(backend, positions, keys, self.config.window, documents, key_documents)
        return Prepared(*rotations(self.config.rotary, self.head_dim, positions), mask, backend)

    def forward(
        self, x: Float[Tensor, "B T D"], prepared: Prepared, cache: KeyValueCache | None = None
    ) -> Float[Tensor, "B T D"]:
        """Attend; with ``cache`` over everything it holds as well, appending the new keys and values to it."""

        def heads(projected: Tensor) -> Tensor:
            return projected.unflatten(-1, (-1, self.head_dim))

        q = rotate(self.q_norm(heads(self.q_proj(x))).transpose(1, 2), prepared.cos, prepared.sin)
        k = rotate(self.k_norm(heads(self.k_proj(x))).transpose(1, 2), prepared.cos, prepared.sin)
        v = heads(self.v_proj(x)).transpose(1, 2)
        if cache is not None:
            k, v = cache.append(k, v)
        elif self.gather is not None:
            k, v = self.gather(k, 2), self.gather(v, 2)
        y = attend(
            q,
            k,
            v,
            prepared.mask,
            backend=prepared.backend,
            scale=self.scale,
            cap=self.config.softcap,
        )
        return self.o_proj(y.transpose(1, 2).flatten(-2))

    def new_cache(self, batch_size: int, max_len: int) -> KeyValueCache:
        """An empty cache on the weights' device and in their type."""
        weight = self.k_proj.weight
        shape = (batch_size, self.n_kv_heads, max_len, self.head_dim)
        return KeyValueCache(
            torch.zeros(shape, dtype=weight.dtype, device=weight.device),
            torch.zeros(shape, dtype=weight.dtype, device=weight.device),
        )

    def flops_per_token(self, n_keys: int) -> int:
        """Operations of a forward pass per token beyond the weights': logits and their sum over all ``n_keys``."""
        return 4 * self.n_heads * self.head_dim * n_keys
