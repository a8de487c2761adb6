"""Token shards: a stream of token ids over flat little-endian files, with where each document starts.

A split ``train`` is ``train-00000.bin``, ``train-00001.bin``, ... of 16- or 32-bit ids, each of any length, and
``train.starts.npy``, the position in the stream of every document's first token (64-bit, rising from 0).
"""

import hashlib
from array import array
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import BinaryIO

import numpy as np
from jaxtyping import Int, Integer

from isogloss.config.base import UserError
from isogloss.config.stored import Count, Stored
from isogloss.data.flat import FlatFile, check_size
from isogloss.data.mapped import map_npy
from isogloss.durable import whole_file


def token_dtype(n_tokens: int) -> str:
    """The narrowest stored type that holds every id below ``n_tokens``."""
    return "<u2" if n_tokens <= 1 << 16 else "<u4"


class ShardRecord(Stored):
    """What one shard holds."""

    n_documents: Count
    n_tokens: Count
    sha256: str


class ShardWriter:
    """Writes one shard document by document; the block of a ``with`` leaves it whole on the disk, or not at all.

    Beside ``<name>.bin`` it leaves ``<name>.starts``, each document's first token counted from the shard's (``<i8``).
    A shard without documents has neither.
    """

    def __init__(self, folder: Path, name: str, dtype: str):
        self._folder, self._name, self._dtype = folder, name, dtype
        self._n_tokens = 0
        self._starts = array("q")
        self._hash = hashlib.sha256()
        self._files = ExitStack()
        self._file: BinaryIO | None = None

    def __enter__(self) -> "ShardWriter":
        return self

    def __exit__(self, *error: object) -> None:
        if self._file is not None and error[0] is None:
            with whole_file(self._folder / f"{self._name}.starts") as stream:
                stream.write(np.array(self._starts, "<i8").tobytes())
        self._files.__exit__(*error)  # type: ignore[arg-type]

    def write(self, tokens: Integer[np.ndarray, "T"], lengths: Integer[np.ndarray, "N"]) -> None:
        """Append N documents, given end to end with their lengths in tokens."""
        if self._file is None:
            self._file = self._files.enter_context(whole_file(self._folder / f"{self._name}.bin"))
        starts = self._n_tokens + np.cumsum(lengths) - lengths
        self._starts.frombytes(starts.astype(np.int64).tobytes())
        data = tokens.astype(self._dtype).tobytes()
        self._hash.update(data)
        self._file.write(data)
        self._n_tokens += len(tokens)

    @property
    def record(self) -> ShardRecord:
        """What was written so far."""
        return ShardRecord(n_documents=len(self._starts), n_tokens=self._n_tokens, sha256=self._hash.hexdigest())


class TokenStream:
    """All tokens of one split as one long sequence, read where they lie.

    Args:
        shards: arrays of ids, none of them empty.
        document_starts: positions of the documents' first tokens, rising from 0.
        fingerprint: changes when the tokens change.
        n_ids: every id is below it, as long as what is read is what was written; not looked at if not given.
        origin: where they lie, for messages.
        check: called before each use of ``document_starts``, where they are mapped into memory.
    """

    def __init__(
        self,
        shards: Sequence[np.ndarray | FlatFile],
        document_starts: Int[np.ndarray, "N"],
        fingerprint: str,
        n_ids: int | None = None,
        origin: str = "",
        check: Callable[[], None] = lambda: None,
    ):
        self._document_starts, self._check = document_starts, check
        self.fingerprint = fingerprint
        self._n_ids, self._origin = n_ids, origin
        self._shards = list(shards)
        self._ends = np.cumsum([len(shard) for shard in shards])

    def __len__(self) -> int:
        return int(self._ends[-1])

    @property
    def document_starts(self) -> Int[np.ndarray, "N"]:
        """Positions of the documents' first tokens.

        Raises:
            UserError: the file that holds them was cut short.
        """
        self._check()
        return self._document_starts

    def gather(self, positions: Int[np.ndarray, "..."]) -> Integer[np.ndarray, "..."]:
        """The ids at some positions (any shape), in the stored type.

        Raises:
            IndexError: a position is outside the stream.
            UserError: an id is none of the tokenizer's.
        """
        tokens = self._take(positions)
        if self._n_ids is not None and tokens.size and (largest := int(tokens.max())) >= self._n_ids:
            raise UserError(
                f"{self._origin}: damaged (it holds the id {largest:,}, and the tokenizer has {self._n_ids:,}); "
                f"isogloss data inspect {self._origin} --verify names the file"
            )
        return tokens

    def _take(self, positions: Int[np.ndarray, "..."]) -> Integer[np.ndarray, "..."]:
        if positions.size and (positions.min() < 0 or positions.max() >= len(self)):
            raise IndexError(f"positions must be in [0, {len(self)}), got {positions.min()} to {positions.max()}")
        if len(self._shards) == 1:
            return self._shards[0][positions]
        numbers = np.searchsorted(self._ends, positions, side="right")
        tokens = np.empty(positions.shape, self._shards[0].dtype)
        for number in np.unique(numbers):
            here = numbers == number
            shard = self._shards[number]
            tokens[here] = shard[positions[here] - (self._ends[number] - len(shard))]
        return tokens

    def read(self, starts: Int[np.ndarray, "N"], length: int) -> Integer[np.ndarray, "N length"]:
        """The ``length`` ids from each start on.

        Raises:
            IndexError: a row is not wholly inside the stream.
        """
        return self.gather(starts[:, None] + np.arange(length))


def open_stream(
    folder: Path, split: str, shards: Sequence[str], dtype: str, fingerprint: str, n_ids: int
) -> TokenStream:
    """Open the shards of a split, in their order; where documents start is mapped into memory, to be searched."""
    files = [FlatFile(folder / name, dtype) for name in shards]
    path = folder / f"{split}.starts.npy"
    size = path.stat().st_size
    starts = map_npy(path)
    return TokenStream(files, starts, fingerprint, n_ids, str(folder), lambda: check_size(path, size))
