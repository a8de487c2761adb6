"""The byte tokenizer: ids 0 to 255 are the bytes of the UTF-8 text, 256 opens a document."""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from isogloss.data.tokenizers.base import well_formed
from isogloss.data.tokenizers.byte_table import BYTE_TO_CHARACTER, ByteTable
from isogloss.data.tokenizers.end_of_text import save_given
from isogloss.durable import write_whole

END_OF_TEXT = 256


def byte_vocabulary() -> dict[str, Any]:
    """The byte tokenizer as a Hugging Face ``tokenizer.json``: a BPE of 256 tokens and no merges."""
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [
            {
                "id": END_OF_TEXT,
                "content": "<|endoftext|>",
                "single_word": False,
                "lstrip": False,
                "rstrip": False,
                "normalized": False,
                "special": True,
            }
        ],
        "normalizer": None,
        "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False},
        "post_processor": None,
        "decoder": {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False},
        "model": {
            "type": "BPE",
            "vocab": {BYTE_TO_CHARACTER[byte]: byte for byte in range(256)},
            "merges": [],
        },
    }


class BytesTokenizer:
    """Bytes as tokens. Implements ``Tokenizer``."""

    n_tokens = 257
    end_of_text = END_OF_TEXT
    backend = "bytes"
    dummy_prefix = b""
    fingerprint = hashlib.sha256(b"bytes 0-255, end of text 256").hexdigest()

    _table = ByteTable([bytes([byte]) for byte in range(256)] + [b""])

    def encode(self, text: str) -> np.ndarray:
        """The bytes of the text, as uint32."""
        return np.frombuffer(well_formed(text).encode(), dtype=np.uint8).astype(np.uint32)

    def encode_batch(self, texts: Sequence[str]) -> list[np.ndarray]:
        """``encode`` for many texts; one core copies bytes as fast as memory does."""
        return [self.encode(text) for text in texts]

    def decode(self, ids: Sequence[int] | np.ndarray) -> str:
        """The text of some ids; bytes that are not UTF-8 become U+FFFD. Raises ``UserError`` for an id above 256."""
        return self._table.decode(ids)

    def token_bytes(self, token: int) -> bytes:
        """The one byte; nothing for 256. Raises ``UserError`` for other ids."""
        return self._table.token_bytes(token)

    def save(self, folder: str | Path) -> None:
        """Write ``tokenizer.json``, which Hugging Face's libraries read too."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        write_whole(folder / "tokenizer.json", json.dumps(byte_vocabulary(), ensure_ascii=False).encode())
        save_given(folder, None)
