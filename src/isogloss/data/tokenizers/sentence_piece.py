"""SentencePiece models (Kudo and Richardson 2018, arXiv 1808.06226), through the optional ``sentencepiece`` library.

A text's own ``▁`` (U+2581), which SentencePiece writes spaces with, comes back as a space: its format cannot tell the
two apart.
"""

import hashlib
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from isogloss.config.base import UserError
from isogloss.data.tokenizers.base import check_lossless, well_formed
from isogloss.data.tokenizers.byte_table import ByteTable, piece_bytes

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

    Raises:
        UserError: where the library is not installed, for bytes that are no such model, or for one that rewrites text.
    """

    backend = "sentencepiece"

    def __init__(self, model: bytes, origin: str = "tokenizer.model"):
        if sentencepiece is None:
            raise UserError(f"{origin}: a SentencePiece model needs the library: pip install 'isogloss[sentencepiece]'")
        self._model = model
        try:
            self._processor = processor = sentencepiece.SentencePieceProcessor(model_proto=model)
        except RuntimeError as error:
            raise UserError(f"{origin}: not a SentencePiece model ({error})") from error
        self.n_tokens: int = processor.get_piece_size()
        self.end_of_text: int = processor.eos_id() if processor.eos_id() >= 0 else processor.bos_id()
        if self.end_of_text < 0:
            raise UserError(f"{origin}: the model has neither an end-of-sequence nor a begin-of-sequence token")
        special = {i for i in range(self.n_tokens) if processor.is_control(i) or processor.is_unknown(i)}
        tokens = [b"" if i in special else piece_bytes(processor.id_to_piece(i)) for i in range(self.n_tokens)]
        first = processor.encode("a")
        self._table = ByteTable(tokens, dummy_prefix=b" " if tokens[first[0]].startswith(b" ") else b"")
        check_lossless(self, origin)

    def __reduce__(self):
        return type(self), (self._model,)

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the model file."""
        return hashlib.sha256(self._model).hexdigest()

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
        """Write ``tokenizer.model`` as it was read."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "tokenizer.model").write_bytes(self._model)
