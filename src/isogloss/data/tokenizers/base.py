"""What every tokenizer offers.

A document is stored as ``end_of_text`` followed by the tokens of its text: the same token opens a document and, as the
target of the last one, closes it, so that every target says something about the text.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np


@runtime_checkable
class Tokenizer(Protocol):
    """Text to token ids and back, without loss.

    A ``str`` that no UTF-8 can hold (with lone surrogates, as broken JSON escapes leave them) is first mended by
    ``well_formed``.
    """

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

    @property
    def backend(self) -> str:
        """The library that encodes: bytes, tiktoken, tokenizers or sentencepiece."""
        ...

    @property
    def dummy_prefix(self) -> bytes:
        """What encoding puts before every text and decoding takes away: a space in some vocabularies, else nothing."""
        ...

    def encode(self, text: str) -> np.ndarray:
        """The ids (uint32) of ordinary text. Text that looks like a special token is text."""
        ...

    def encode_batch(self, texts: Sequence[str]) -> list[np.ndarray]:
        """``encode`` for many texts, on all cores where that is faster."""
        ...

    def decode(self, ids: Sequence[int] | np.ndarray) -> str:
        """The text of some ids, special ones left out; bytes that are not UTF-8 become U+FFFD."""
        ...

    def token_bytes(self, token: int) -> bytes:
        """The bytes one id stands for (empty for a special token)."""
        ...

    def save(self, folder: str | Path) -> None:
        """Write the files from which ``load_tokenizer(folder)`` makes an equal tokenizer."""
        ...


def well_formed(text: str) -> str:
    """The text with halves of surrogate pairs joined and lone surrogates, which no UTF-8 holds, as U+FFFD."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return text


def lossy_characters(tokenizer: Tokenizer) -> str:
    """Characters that do not come back from their tokens: ``▁`` where it is how spaces are written; mostly none."""
    return getattr(tokenizer, "lossy_characters", "")
