"""Random numbers as a pure function of where they are used: no state, so any of them can be asked for at any time.

    word(row, i) = mix(key_row + (i + 1)·φ),    key_row = mix(key + (row + 1)·φ),    φ = ⌊2^64 / golden ratio⌋, odd

with the finaliser of SplitMix64 (Steele, Lea and Flood 2014, "Fast splittable pseudorandom number generators") as mix:
each row is a SplitMix64 stream of its own.
"""

import hashlib

import numpy as np
from jaxtyping import Int, UInt

GOLDEN = np.uint64(0x9E3779B97F4A7C15)


def scramble(values: UInt[np.ndarray, "*S"]) -> UInt[np.ndarray, "*S"]:
    """The finaliser of SplitMix64: every input bit reaches every output bit."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))


def stream_key(name: str) -> int:
    """64 bits from a name: streams of different names have nothing to do with one another."""
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "little")


class Draws:
    """The random words of some rows of a named stream.

    Args:
        name: of the stream.
        rows: N row numbers.
    """

    def __init__(self, name: str, rows: Int[np.ndarray, "N"]):
        self.name, self.n_rows = name, len(rows)
        self._rows = (rows.astype(np.uint64) + np.uint64(1)) * GOLDEN

    def words(self, what: str, count: int) -> UInt[np.ndarray, "N M"]:
        """64 random bits for each of ``count`` places in each row; equal for equal names."""
        row_keys = scramble(self._rows + np.uint64(stream_key(f"{self.name}:{what}")))
        return scramble(row_keys[:, None] + np.arange(1, count + 1, dtype=np.uint64) * GOLDEN)

    def below(self, what: str, count: int, n: int) -> Int[np.ndarray, "N M"]:
        """Whole numbers in [0, n), n up to 2^31; each probability is 1/n to within 2^-32."""
        return ((self.words(what, count) >> np.uint64(32)) * np.uint64(n) >> np.uint64(32)).astype(np.int64)

    def distinct(self, what: str, count: int, n: int) -> Int[np.ndarray, "N M"]:
        """``count`` different numbers of [0, n) for each row, in random order."""
        return np.argsort(self.words(what, n), axis=1, kind="stable")[:, :count]

    def uniform(self, what: str, count: int) -> np.ndarray:
        """Real numbers in (0, 1), 53 bits."""
        return ((self.words(what, count) >> np.uint64(11)).astype(np.float64) + 0.5) * 2.0**-53
