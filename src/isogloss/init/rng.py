"""A counter-based generator: every element of every weight can be computed alone.

The uniform at (row, column) of a parameter is a hash of (seed, canonical name, row, column): splitmix64 (Steele, Lea
and Flood 2014) whose state begins, for each row, at a hash of the row keyed by BLAKE2b of seed and name; the column
counts its steps. So weights do not depend on the order of filling, on wrappers, device count or sharding, and padding
a vocabulary, widening or deepening a model leaves the other entries' uniforms as they are. Sharded tensors cannot be
filled by PyTorch's own generators: on a CPU mesh each rank would draw the same numbers for its shard, silently (pytorch
issue 168058 tells the GPU's side of it).

In place and one step an element, because this decides how long a large model takes to begin (``benchmarks/init.py``).
"""

import hashlib

import torch
from jaxtyping import Float, Int
from torch import Tensor

_GOLDEN = 0x9E3779B97F4A7C15
_MIX_1 = 0xBF58476D1CE4E5B9
_MIX_2 = 0x94D049BB133111EB


def stream_key(seed: int, name: str) -> tuple[int, int]:
    """The 128-bit key of a named stream under a seed, as two signed 64-bit integers."""
    digest = hashlib.blake2b(f"{seed}|{name}".encode(), digest_size=16).digest()
    return int.from_bytes(digest[:8], "little", signed=True), int.from_bytes(digest[8:], "little", signed=True)


class Uniforms:
    """Blocks of uniforms, made in memory that every block reuses.

    Args:
        size: elements in the largest block.
        device: where they are made.
    """

    def __init__(self, size: int, device: torch.device):
        self.device = device
        self.bits, self.other = torch.empty(2, size, dtype=torch.int64, device=device)

    def block(
        self, key: tuple[int, int], rows: tuple[int, int], columns: tuple[int, int]
    ) -> Float[Tensor, "rows columns"]:
        """Uniforms in (-1, 1), float64, of a block of a matrix given as half-open ranges; valid until the next call."""
        row = torch.arange(*rows, dtype=torch.int64, device=self.device)
        state = finalise(finalise(row + key[0], torch.empty_like(row)) ^ key[1], torch.empty_like(row))
        steps = torch.arange(columns[0] + 1, columns[1] + 1, dtype=torch.int64, device=self.device) * _signed(_GOLDEN)
        shape = (len(state), len(steps))
        bits, other = (memory[: shape[0] * shape[1]].view(shape) for memory in (self.bits, self.other))
        torch.add(state[:, None], steps, out=bits)
        finalise(bits, other)
        # Signed integers are symmetric already. The nearest float64 to the largest of them is 2^63: kept from being 1.
        return other.view(torch.float64).copy_(bits).mul_(2.0**-63 * (1 - 2.0**-53))


def finalise(x: Int[Tensor, "*any"], shifted: Int[Tensor, "*any"]) -> Int[Tensor, "*any"]:
    """The finaliser of splitmix64 on wrapping signed integers, in place; ``shifted`` is scratch."""
    for by, factor in ((30, _MIX_1), (27, _MIX_2), (31, None)):
        torch.bitwise_right_shift(x, by, out=shifted)
        shifted.bitwise_and_((1 << (64 - by)) - 1)  # the shift is arithmetic: the mask makes it logical
        x.bitwise_xor_(shifted)
        if factor is not None:
            x.mul_(_signed(factor))
    return x


def _signed(value: int) -> int:
    return value - (1 << 64) if value >= 1 << 63 else value
