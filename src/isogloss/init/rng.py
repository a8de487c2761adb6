"""A counter-based generator: every element of every weight can be computed alone.

The uniform at (row, column) of a parameter is a hash of (seed, canonical name, row, column): two rounds of splitmix64
(Steele, Lea and Flood 2014) keyed by BLAKE2b of seed and name. So weights do not depend on the order of filling, on
wrappers, device count or sharding, and padding a vocabulary, widening or deepening a model leaves the other entries'
uniforms as they are. Sharded tensors cannot be filled by PyTorch's own generators: on a CPU mesh each rank would draw
the same numbers for its shard, silently (pytorch issue 168058 tells the GPU's side of it).
"""

import hashlib

import torch
from jaxtyping import Float
from torch import Tensor

_GOLDEN = 0x9E3779B97F4A7C15
_MIX_1 = 0xBF58476D1CE4E5B9
_MIX_2 = 0x94D049BB133111EB


def stream_key(seed: int, name: str) -> tuple[int, int]:
    """The 128-bit key of a named stream under a seed, as two signed 64-bit integers."""
    digest = hashlib.blake2b(f"{seed}|{name}".encode(), digest_size=16).digest()
    return int.from_bytes(digest[:8], "little", signed=True), int.from_bytes(digest[8:], "little", signed=True)


def uniform(
    key: tuple[int, int], rows: tuple[int, int], columns: tuple[int, int], device: torch.device
) -> Float[Tensor, "rows columns"]:
    """Uniforms in (0, 1), float64 with 53 random bits, of a block of a matrix given as half-open ranges."""
    row = torch.arange(*rows, dtype=torch.int64, device=device)[:, None] << 32
    x = row | torch.arange(*columns, dtype=torch.int64, device=device)[None, :]
    x = _splitmix(x + key[0])
    x = _splitmix((x ^ key[1]) + _signed(_GOLDEN))
    bits = (x >> 11) & ((1 << 53) - 1)  # the shift is arithmetic: the mask makes it logical
    return (bits.double() + 0.5) * 2.0**-53


def _splitmix(x: Tensor) -> Tensor:
    """The finaliser of splitmix64 on wrapping signed integers."""
    x = (x ^ _shift(x, 30)) * _signed(_MIX_1)
    x = (x ^ _shift(x, 27)) * _signed(_MIX_2)
    return x ^ _shift(x, 31)


def _shift(x: Tensor, by: int) -> Tensor:
    return (x >> by) & ((1 << (64 - by)) - 1)


def _signed(value: int) -> int:
    return value - (1 << 64) if value >= 1 << 63 else value
