"""What every tokenizer offers.

A document is stored as ``end_of_text`` followed by the tokens of its text: the same token opens a document and, as the
target of the last one, closes it, so that every target says something about the text.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import numpy as np


class Tokenizer(Protocol):
    """Text to token ids and back, without loss."""

    @property
    def n_tokens(self) -> int:
        """How many ids there are, special ones included: every id is below it."""
        ...

    @property
    def end_of_text(self) -> int:
        """The id that opens every document."""
        ...

    @property
    def fingerprint(self) -> str:
        """SHA-256 (hex) of what decides the encoding: equal fingerprints encode every text equally."""
        ...

    def encode(self, text: str) -> np.ndarray:
        """The ids (uint32) of ordinary text. Text that looks like a special token is text."""
        ...

    def encode_batch(self, texts: Sequence[str]) -> list[np.ndarray]:
        """``encode`` for many texts, on all cores where that is faster."""
        ...

    def decode(self, ids: Sequence[int]) -> str:
        """The text of some ids; bytes that are not UTF-8 become U+FFFD."""
        ...

    def token_bytes(self, token: int) -> bytes:
        """The bytes one id stands for (empty for a special token)."""
        ...

    def save(self, folder: Path) -> None:
        """Write the files from which ``load_tokenizer(folder)`` makes an equal tokenizer."""
        ...
