"""The bytes each token id stands for, and the two ways in which vocabularies write bytes as text.

Byte-level vocabularies (GPT-2 and after) write each byte as one printable character; SentencePiece writes a space as
``▁`` and a byte without a character of its own as ``<0x0A>``.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from isogloss.config.base import UserError

_PRINTABLE = [*range(33, 127), *range(161, 173), *range(174, 256)]
_HIDDEN = [byte for byte in range(256) if byte not in _PRINTABLE]
BYTE_TO_CHARACTER = {byte: chr(byte) for byte in _PRINTABLE} | {byte: chr(256 + i) for i, byte in enumerate(_HIDDEN)}
"""GPT-2's alphabet: a byte that prints is itself, the others are U+0100 onwards."""
CHARACTER_TO_BYTE = {character: byte for byte, character in BYTE_TO_CHARACTER.items()}

_BYTE_PIECE = re.compile(r"<0x([0-9A-F]{2})>")


def byte_level_bytes(token: str) -> bytes | None:
    """The bytes of a token of a byte-level vocabulary; ``None`` where it is not written in that alphabet."""
    try:
        return bytes([CHARACTER_TO_BYTE[character] for character in token])
    except KeyError:
        return None


def byte_level_text(data: bytes) -> str:
    """Bytes as a byte-level vocabulary writes them."""
    return "".join([BYTE_TO_CHARACTER[byte] for byte in data])


def piece_bytes(piece: str) -> bytes:
    """The bytes of a SentencePiece piece."""
    if match := _BYTE_PIECE.fullmatch(piece):
        return bytes.fromhex(match[1])
    return piece.replace("▁", " ").encode()


@dataclass(frozen=True)
class ByteTable:
    """Decodes ids by joining their bytes.

    Args:
        tokens: the bytes of every id from 0; empty for special tokens and for ids that nothing uses.
        dummy_prefix: what encoding puts before every text and decoding takes away again.
    """

    tokens: list[bytes]
    dummy_prefix: bytes = b""

    def token_bytes(self, token: int) -> bytes:
        """The bytes of one id. Raises ``UserError`` where there is no such id."""
        if not 0 <= token < len(self.tokens):
            raise UserError(f"token id {token} is not in this tokenizer, whose ids are 0 to {len(self.tokens) - 1}")
        return self.tokens[token]

    def decode(self, ids: Sequence[int] | np.ndarray) -> str:
        """The text of some ids; bytes that are not UTF-8 become U+FFFD. Raises ``UserError`` for an id out of range."""
        data = b"".join([self.token_bytes(token) for token in np.asarray(ids, dtype=np.int64).tolist()])
        return data.removeprefix(self.dummy_prefix).decode("utf-8", "replace")
