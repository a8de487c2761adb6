"""Token shards: a stream of token ids over flat little-endian files, with where each document starts.

A split ``train`` is ``train-00000.bin``, ``train-00001.bin``, ... of 16- or 32-bit ids, all but the last of them
equally long, and ``train.starts.npy``, the position in the stream of every document's first token (64-bit, rising
from 0).
"""

from array import array
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

import numpy as np
from jaxtyping import Int, Integer

from isogloss.durable import sync

SHARD_TOKENS = 1 << 27
"""Tokens in a full shard: 256 or 512 MB."""


def token_dtype(n_tokens: int) -> str:
    """The narrowest stored type that holds every id below ``n_tokens``."""
    return "<u2" if n_tokens <= 1 << 16 else "<u4"


class ShardWriter:
    """Writes one split's stream to a folder, document by document."""

    def __init__(self, folder: Path, split: str, dtype: str, shard_tokens: int = SHARD_TOKENS):
        self.n_tokens = 0
        self.names: list[str] = []
        self._folder, self._split, self._dtype, self._shard_tokens = folder, split, dtype, shard_tokens
        self._starts = array("q")
        self._file: BinaryIO | None = None

    @property
    def n_documents(self) -> int:
        """Documents written so far."""
        return len(self._starts)

    def write(self, tokens: Integer[np.ndarray, "T"], lengths: Integer[np.ndarray, "N"]) -> None:
        """Append N documents, given end to end with their lengths in tokens."""
        starts = self.n_tokens + np.cumsum(lengths) - lengths
        self._starts.frombytes(starts.astype(np.int64).tobytes())
        while len(tokens):
            room = self._shard_tokens - self.n_tokens % self._shard_tokens
            file = self._open_next() if room == self._shard_tokens or self._file is None else self._file
            part, tokens = tokens[:room], tokens[room:]
            file.write(part.astype(self._dtype).tobytes())
            self.n_tokens += len(part)

    def finish(self) -> None:
        """Bring everything to the disk, the documents' starts last."""
        if self._file is not None:
            sync(self._file)
        self.close()
        with (self._folder / f"{self._split}.starts.npy").open("wb") as stream:
            np.save(stream, np.array(self._starts, np.int64))
            sync(stream)

    def close(self) -> None:
        """Let go of the open file; without ``finish`` what was written is worthless."""
        file, self._file = self._file, None
        # On a full disk closing fails too, as it flushes; the failed write has been reported already.
        with suppress(OSError):
            if file is not None:
                file.close()

    def _open_next(self) -> BinaryIO:
        if self._file is not None:
            sync(self._file)
            self._file.close()
        name = f"{self._split}-{len(self.names):05d}.bin"
        self._file = (self._folder / name).open("wb")
        self.names.append(name)
        return self._file


class TokenStream:
    """All tokens of one split as one long sequence, read where they lie.

    Args:
        shards: arrays of ids, all but the last of one length, none of them empty.
        document_starts: positions of the documents' first tokens, rising from 0.
        fingerprint: changes when the tokens change.
    """

    def __init__(self, shards: Sequence[np.ndarray], document_starts: Int[np.ndarray, "N"], fingerprint: str):
        self.document_starts = document_starts
        self.fingerprint = fingerprint
        self._shards = list(shards)
        self._shard_tokens = len(shards[0])
        self._len = sum(len(shard) for shard in shards)
        assert all(len(shard) == self._shard_tokens for shard in self._shards[:-1])

    def __len__(self) -> int:
        return self._len

    def gather(self, positions: Int[np.ndarray, "..."]) -> Integer[np.ndarray, "..."]:
        """The ids at some positions (any shape), in the stored type.

        Raises:
            IndexError: a position is outside the stream.
        """
        if positions.size and (positions.min() < 0 or positions.max() >= self._len):
            raise IndexError(f"positions must be in [0, {self._len}), got {positions.min()} to {positions.max()}")
        if len(self._shards) == 1:
            return self._shards[0][positions]
        numbers, offsets = np.divmod(positions, self._shard_tokens)
        tokens = np.empty(positions.shape, self._shards[0].dtype)
        for number in np.unique(numbers):
            here = numbers == number
            tokens[here] = self._shards[number][offsets[here]]
        return tokens

    def read(self, starts: Int[np.ndarray, "N"], length: int) -> Integer[np.ndarray, "N length"]:
        """The ``length`` ids from each start on.

        Raises:
            IndexError: a row is not wholly inside the stream.
        """
        return self.gather(starts[:, None] + np.arange(length))


def open_stream(folder: Path, split: str, shards: Sequence[str], dtype: str, fingerprint: str) -> TokenStream:
    """Memory-map a split that a ``ShardWriter`` wrote."""
    # asarray: a plain view of the mapped memory, since the memmap class makes every small gather several times slower.
    mapped = [np.asarray(np.memmap(folder / name, dtype=dtype, mode="r")) for name in shards]
    starts = np.asarray(np.load(folder / f"{split}.starts.npy", mmap_mode="r"))
    return TokenStream(mapped, starts, fingerprint)
