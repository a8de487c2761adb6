"""Batches as a pure function of the step: nothing to save, nothing to rewind, the same for any number of processes.

Rows are visited in an order that is shuffled anew in each epoch by a keyed permutation, computed entry by entry
instead of stored. It is a Feistel network over pairs (left, right) with left < a = ⌈√n⌉ and right < b = ⌈n/a⌉::

    left <- (left + F(right, key_i)) mod a;    right <- (right + F(left, key_i)) mod b      (in turn)

Each round can be undone, so the network permutes range(a·b); an image beyond n is sent through again until it is
inside ("cycle walking"; Black and Rogaway 2002, "Ciphers with arbitrary finite domains"), which permutes range(n).
"""

import hashlib
import math
from collections.abc import Iterator

import numpy as np
import torch
from jaxtyping import Int, UInt

from isogloss.config.base import UserError
from isogloss.data.packing import Rows, count_rows, pack_rows
from isogloss.data.shards import TokenStream
from isogloss.models.protocol import Batch

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
    round_keys = _scramble(np.uint64(key) ^ _scramble(counter))
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
            left = (left + _scramble(right ^ round_key) % sides[0]) % sides[0]
        else:
            right = (right + _scramble(left ^ round_key) % sides[1]) % sides[1]
    return right * sides[0] + left


def _scramble(values: UInt[np.ndarray, "N"]) -> UInt[np.ndarray, "N"]:
    """The finaliser of SplitMix64 (Steele, Lea and Flood 2014): every input bit reaches every output bit."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))


class Loader:
    """Shuffled batches of packed rows, endlessly: any step's batch can be asked for at any time.

    Args:
        stream: the tokens.
        seq_len: T, tokens in a row.
        batch_size: B, rows in the global batch of a step.
        seed: decides the order of the rows.
        with_documents: also number the documents within each row.
        pad_token: fills the last row of the stream.

    Raises:
        UserError: the stream is too short to hold a target.
    """

    def __init__(
        self, stream: TokenStream, seq_len: int, batch_size: int, seed: int, with_documents: bool, pad_token: int
    ):
        self.n_rows = count_rows(len(stream), seq_len)
        if self.n_rows == 0:
            raise UserError(f"the training split has {len(stream)} tokens: too few to predict any")
        self.stream, self.seq_len, self.batch_size, self.seed = stream, seq_len, batch_size, seed
        self.with_documents, self.pad_token = with_documents, pad_token

    def batch(self, step: int, rank: int = 0, world_size: int = 1) -> Batch:
        """One process's share of the batch of a step.

        Args:
            step: optimizer step, from 0.
            rank: which share: the global batch is cut into contiguous ones, in order of rank.
            world_size: how many shares.

        Raises:
            UserError: ``world_size`` does not divide the batch size.
        """
        first, last = _share(self.batch_size, rank, world_size)
        rows = self.rows(np.arange(step * self.batch_size + first, step * self.batch_size + last))
        return _to_batch(pack_rows(self.stream, rows, self.seq_len, self.pad_token, self.with_documents))

    def rows(self, places: Int[np.ndarray, "N"]) -> Int[np.ndarray, "N"]:
        """The numbers of the rows at some places of the endless order; place g is in epoch g // n_rows."""
        rows = np.empty_like(places)
        epochs, within = np.divmod(places, self.n_rows)
        for epoch in np.unique(epochs):
            here = epochs == epoch
            digest = hashlib.sha256(f"data order:{self.seed}:{epoch}".encode()).digest()
            rows[here] = permute(within[here], self.n_rows, int.from_bytes(digest[:8], "little"))
        return rows

    def state(self) -> dict[str, str | int]:
        """What, beside the step, decides a batch: saved with a checkpoint and compared by ``check``."""
        return {
            "corpus": self.stream.fingerprint,
            "seq_len": self.seq_len,
            "batch_size": self.batch_size,
            "seed": self.seed,
        }

    def check(self, saved: dict[str, str | int]) -> None:
        """Make sure that a resumed run goes on with the very same data.

        Raises:
            UserError: the corpus or a setting differs from the saved ``state``.
        """
        now = self.state()
        changed = [f"{name} was {saved.get(name)}, is {now[name]}" for name in now if saved.get(name) != now[name]]
        if changed:
            raise UserError(
                f"the data is not what the checkpoint was trained on: {'; '.join(changed)}. "
                "Restore it, or start a new run from the checkpoint's weights"
            )


def sequential_batches(
    stream: TokenStream,
    seq_len: int,
    batch_size: int,
    with_documents: bool,
    pad_token: int,
    rank: int = 0,
    world_size: int = 1,
) -> Iterator[Batch]:
    """Every row of a stream once and in order, for validation.

    Every process gets as many batches as the others, and with more than one process batches of one shape: the last one
    is filled with rows whose targets are all ``IGNORED``.

    Args:
        stream: the tokens.
        seq_len: T, tokens in a row.
        batch_size: B, rows in a batch over all processes.
        with_documents: also number the documents within each row.
        pad_token: fills the last row of the stream.
        rank: this process's share of each batch.
        world_size: how many processes share a batch.

    Raises:
        UserError: ``world_size`` does not divide the batch size.
    """
    first, last = _share(batch_size, rank, world_size)
    n_rows = count_rows(len(stream), seq_len)
    for start in range(0, n_rows, batch_size):
        end = start + last if world_size > 1 else min(start + last, n_rows)
        yield _to_batch(pack_rows(stream, np.arange(start + first, end), seq_len, pad_token, with_documents))


def _share(batch_size: int, rank: int, world_size: int) -> tuple[int, int]:
    assert 0 <= rank < world_size
    if batch_size % world_size:
        raise UserError(
            f"batch_size {batch_size} cannot be shared by {world_size} processes: make it a multiple of {world_size}"
        )
    share = batch_size // world_size
    return rank * share, (rank + 1) * share


def _to_batch(rows: Rows) -> Batch:
    documents = None if rows.documents is None else torch.from_numpy(rows.documents)
    return Batch(torch.from_numpy(rows.tokens), torch.from_numpy(rows.targets), documents)
