"""The endless order in which rows are visited: those of a finite source shuffled anew in each epoch.

The order is a keyed permutation, computed entry by entry instead of stored: there is no buffer to fill and nothing to
rewind. It is a Feistel network over pairs (left, right) with left < a = ⌈√n⌉ and right < b = ⌈n/a⌉::

    left <- (left + F(right, key_i)) mod a;    right <- (right + F(left, key_i)) mod b      (in turn)

Each round can be undone, so the network permutes range(a·b); an image beyond n is sent through again until it is
inside ("cycle walking"; Black and Rogaway 2002, "Ciphers with arbitrary finite domains"), which permutes range(n).
"""

import hashlib
import math

import numpy as np
from jaxtyping import Int, UInt

from isogloss.data.counter import scramble
from isogloss.data.rows.source import Rows, RowSource

FEISTEL_ROUNDS = 8


def permute(index: Int[np.ndarray, "N"], n: int, key: int) -> Int[np.ndarray, "N"]:
    """Where a keyed permutation of ``range(n)`` sends some of its entries, without storing it.

    Args:
        index: entries in [0, n), in any order.
        n: how many entries there are.
        key: 64 bits; equal keys give equal permutations.
    """
    assert index.size == 0 or (index.min() >= 0 and index.max() < n)
    a = math.isqrt(max(n - 1, 0)) + 1
    sides = np.array([a, -(-n // a)], dtype=np.uint64)
    counter = np.arange(1, FEISTEL_ROUNDS + 1, dtype=np.uint64)
    round_keys = scramble(np.uint64(key) ^ scramble(counter))
    image = _encipher(index.astype(np.uint64), sides, round_keys)
    while (walking := image >= n).any():
        image[walking] = _encipher(image[walking], sides, round_keys)
    return image.astype(np.int64)


def _encipher(
    values: UInt[np.ndarray, "N"], sides: UInt[np.ndarray, "2"], round_keys: UInt[np.ndarray, "R"]
) -> UInt[np.ndarray, "N"]:
    right, left = np.divmod(values, sides[0])
    for i, round_key in enumerate(round_keys):
        if i % 2 == 0:
            left = (left + scramble(right ^ round_key) % sides[0]) % sides[0]
        else:
            right = (right + scramble(left ^ round_key) % sides[1]) % sides[1]
    return right * sides[0] + left


class Shuffled:
    """Endless rows (a ``RowSource``): place g is in epoch ``g // n``, and every epoch visits each of n rows once.

    Args:
        source: finite rows.
        seed: decides the order.
        name: of the source within a mixture, so that sources of one length are not shuffled alike.
    """

    n_rows: int | None = None

    def __init__(self, source: RowSource, seed: int, name: str = ""):
        assert source.n_rows
        self.source = source
        self.seq_len, self.fingerprint = source.seq_len, source.fingerprint
        self._n, self._key = source.n_rows, f"data order:{seed}" + (f":{name}" if name else "")

    def numbers(self, places: Int[np.ndarray, "N"]) -> Int[np.ndarray, "N"]:
        """The numbers of the rows at some places."""
        numbers = np.empty_like(places)
        epochs, within = np.divmod(places, self._n)
        for epoch in np.unique(epochs):
            here = epochs == epoch
            digest = hashlib.sha256(f"{self._key}:{epoch}".encode()).digest()
            numbers[here] = permute(within[here], self._n, int.from_bytes(digest[:8], "little"))
        return numbers

    def rows(self, numbers: Int[np.ndarray, "N"]) -> Rows:
        """The rows at some places of the endless order."""
        return self.source.rows(self.numbers(numbers))
