"""The tokenizer of generated corpora: ids are their own names, so text is numbers between spaces."""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from isogloss.config.base import UserError
from isogloss.durable import write_whole

END_OF_TEXT = 0


def symbol_vocabulary(n_tokens: int) -> dict[str, Any]:
    """The same as a Hugging Face ``tokenizer.json``: words are ids, split at spaces."""
    opening = {"id": END_OF_TEXT, "content": "<|endoftext|>", "special": True, "normalized": False}
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [opening | {"single_word": False, "lstrip": False, "rstrip": False}],
        "normalizer": None,
        "pre_tokenizer": {"type": "WhitespaceSplit"},
        "post_processor": None,
        "decoder": None,
        "model": {
            "type": "WordLevel",
            "vocab": {"<|endoftext|>": END_OF_TEXT} | {str(id): id for id in range(1, n_tokens)},
            "unk_token": "<|endoftext|>",
        },
    }


class SymbolsTokenizer:
    """Numbers as tokens: ``"17 3"`` is [17, 3]; id 0 opens a document and has no text. Implements ``Tokenizer``.

    Args:
        n_tokens: how many ids, 0 included.
    """

    end_of_text = END_OF_TEXT
    backend = "symbols"
    dummy_prefix = b""

    def __init__(self, n_tokens: int):
        self.n_tokens = n_tokens

    def __reduce__(self):
        return type(self), (self.n_tokens,)

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the number of ids."""
        return hashlib.sha256(f"symbols 1-{self.n_tokens - 1}, end of text 0".encode()).hexdigest()

    def encode(self, text: str) -> np.ndarray:
        """The ids (uint32) that a text lists.

        Raises:
            UserError: a word of it is no id.
        """
        return np.array([self._id(word) for word in text.split()], dtype=np.uint32)

    def encode_batch(self, texts: Sequence[str]) -> list[np.ndarray]:
        """``encode`` for many texts."""
        return [self.encode(text) for text in texts]

    def decode(self, ids: Sequence[int] | np.ndarray) -> str:
        """The ids as numbers, 0 left out, each with a space after it. Raises ``UserError`` for one that is none."""
        return b"".join([self.token_bytes(int(id)) for id in ids]).decode()

    def token_bytes(self, token: int) -> bytes:
        """The number and a space; nothing for 0. Raises ``UserError`` for an id that does not exist."""
        if not 0 <= token < self.n_tokens:
            raise UserError(f"token {token} does not exist: there are {self.n_tokens}")
        return b"" if token == END_OF_TEXT else f"{token} ".encode()

    def save(self, folder: str | Path) -> None:
        """Write ``tokenizer.json``, which Hugging Face's libraries read too."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        text = json.dumps(symbol_vocabulary(self.n_tokens), ensure_ascii=False)
        write_whole(folder / "tokenizer.json", text.encode())

    def _id(self, word: str) -> int:
        if not (word.isascii() and word.isdigit()) or not 0 < int(word) < self.n_tokens:
            raise UserError(
                f"{word[:40]!r} is no symbol of this corpus: its text is numbers from 1 to {self.n_tokens - 1} between "
                "spaces, such as '3 1 2'"
            )
        return int(word)
