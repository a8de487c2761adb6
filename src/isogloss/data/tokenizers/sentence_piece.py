"""SentencePiece models (Kudo and Richardson 2018, arXiv 1808.06226), through the optional ``sentencepiece`` library.

A text's own ``▁`` (U+2581), which SentencePiece writes spaces with, comes back as a space: its format
cannot tell the two apart. In some versions of the library NUL ends a text. Both are counted where text is prepared.
"""

import hashlib
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from isogloss.config.base import UserError
from isogloss.data.tokenizers.base import well_formed
from isogloss.data.tokenizers.byte_table import ByteTable, piece_bytes
from isogloss.data.tokenizers.end_of_text import check_unwritten, save_given
from isogloss.data.tokenizers.lossless import check_lossless
from isogloss.durable import write_whole

try:
    import sentencepiece
except ImportError:
    sentencepiece = None


class SentencePieceTokenizer:
    """A SentencePiece model with byte fallback and the identity normaliser, as Llama 2's. Implements ``Tokenizer``.

    The document's opener is the model's end-of-sequence token, or else its begin-of-sequence token.

    Args:
        model: the bytes of the ``.model`` file; they are saved unchanged.
        origin: where they came from, for the messages.
        end_of_text: the piece that opens documents, or its id, instead of the model's own.
        is_checked: whether it is known to keep text as it is.

    Raises:
        UserError: where the library is not installed, for bytes that are no such model, or for one that rewrites text.
    """

    backend = "sentencepiece"

    def __init__(
        self,
        model: bytes,
        origin: str = "tokenizer.model",
        end_of_text: str | int | None = None,
        is_checked: bool = False,
    ):
        if sentencepiece is None:
            raise UserError(f"{origin}: a SentencePiece model needs the library: pip install 'isogloss[sentencepiece]'")
        self._model, self._given = model, end_of_text
        try:
            self._processor = processor = sentencepiece.SentencePieceProcessor(model_proto=model)
        except RuntimeError as error:
            raise UserError(f"{origin}: not a SentencePiece model ({error})") from error
        self.n_tokens: int = processor.get_piece_size()
        self.end_of_text = self._find_end_of_text(origin)
        special = {self.end_of_text} | {
            i for i in range(self.n_tokens) if processor.is_control(i) or processor.is_unknown(i)
        }
        tokens = [b"" if i in special else piece_bytes(processor.id_to_piece(i)) for i in range(self.n_tokens)]
        first = processor.encode("a")
        self._table = ByteTable(tokens, dummy_prefix=b" " if tokens[first[0]].startswith(b" ") else b"")
        keeps_nul = self.decode(self.encode("a\0b")) == "a\0b"  # some versions end the text there
        self.lossy_characters = "▁" if keeps_nul else "▁\0"
        if end_of_text is not None:
            check_unwritten(self, end_of_text, processor.id_to_piece(self.end_of_text), origin)
        if not is_checked:
            pieces = (processor.id_to_piece(i).replace("▁", " ") for i in range(self.n_tokens) if i not in special)
            check_lossless(self, origin, literals=[text for text in pieces if not text.strip()[:1].isalnum()])

    def _find_end_of_text(self, origin: str) -> int:
        processor, given = self._processor, self._given
        if given is None:
            chosen = processor.eos_id() if processor.eos_id() >= 0 else processor.bos_id()
            if chosen < 0:
                raise UserError(
                    f"{origin}: the model has neither an end-of-sequence nor a begin-of-sequence token; set "
                    "tokenizer.end_of_text"
                )
            return chosen
        chosen = given if isinstance(given, int) else processor.piece_to_id(given)
        if not 0 <= chosen < self.n_tokens or (isinstance(given, str) and processor.id_to_piece(chosen) != given):
            raise UserError(f"{origin}: tokenizer.end_of_text {given!r} is none of its pieces")
        return chosen

    def __reduce__(self):
        return type(self), (self._model, "tokenizer.model", self._given, True)

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the model file, and of the piece that opens documents where it was given."""
        given = b"" if self._given is None else str(self.end_of_text).encode()
        return hashlib.sha256(self._model + given).hexdigest()

    @property
    def dummy_prefix(self) -> bytes:
        """The space that most models put before every text."""
        return self._table.dummy_prefix

    def encode(self, text: str) -> np.ndarray:
        """The ids (uint32) of ordinary text."""
        return np.array(self._processor.encode(well_formed(text)), dtype=np.uint32)

    def encode_batch(self, texts: Sequence[str]) -> list[np.ndarray]:
        """``encode`` for many texts, on all cores."""
        encoded = self._processor.encode([well_formed(text) for text in texts], num_threads=os.cpu_count() or 1)
        return [np.array(ids, dtype=np.uint32) for ids in encoded]

    def decode(self, ids: Sequence[int] | np.ndarray) -> str:
        """The text of some ids, special ones left out. Raises ``UserError`` for an id that does not exist."""
        return self._table.decode(ids)

    def token_bytes(self, token: int) -> bytes:
        """The bytes of one id, none for a special token. Raises ``UserError`` for an id that does not exist."""
        return self._table.token_bytes(token)

    def save(self, folder: str | Path) -> None:
        """Write ``tokenizer.model`` as it was read, and the piece that opens documents where it was given."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        write_whole(folder / "tokenizer.model", self._model)
        save_given(folder, self._given)
