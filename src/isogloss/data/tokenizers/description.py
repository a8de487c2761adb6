"""What a tokenizer is and how it cuts a text, in a form to print."""

from dataclasses import dataclass

from isogloss.data.tokenizers.base import Tokenizer, well_formed


@dataclass(frozen=True)
class Piece:
    r"""One token.

    Args:
        id: its id.
        text: its bytes as printable text; bytes that are no whole characters as ``\xe2``.
    """

    id: int
    text: str


@dataclass(frozen=True)
class Description:
    """A tokenizer, and the split of a text.

    Args:
        backend: the library that encodes.
        n_tokens: how many ids.
        end_of_text: the id that opens documents.
        fingerprint: SHA-256 of what decides the encoding.
        pieces: the tokens of the text, in order.
        n_bytes: bytes of the text in UTF-8.
    """

    backend: str
    n_tokens: int
    end_of_text: int
    fingerprint: str
    pieces: list[Piece]
    n_bytes: int

    @property
    def bytes_per_token(self) -> float:
        """Bytes of the text for each of its tokens; 0 for an empty text."""
        return self.n_bytes / len(self.pieces) if self.pieces else 0.0


def describe(tokenizer: Tokenizer, text: str = "") -> Description:
    """The facts of a tokenizer and the tokens of ``text``."""
    return Description(
        backend=tokenizer.backend,
        n_tokens=tokenizer.n_tokens,
        end_of_text=tokenizer.end_of_text,
        fingerprint=tokenizer.fingerprint,
        pieces=[Piece(id, printable(tokenizer.token_bytes(id))) for id in tokenizer.encode(text).tolist()],
        n_bytes=len(well_formed(text).encode()),
    )


def printable(data: bytes) -> str:
    """Bytes as text, with escapes for what does not print and for bytes that are no whole characters."""
    try:
        text = data.decode()
    except UnicodeDecodeError:
        return repr(data)[2:-1]
    return "".join([character if character.isprintable() else repr(character)[1:-1] for character in text])
