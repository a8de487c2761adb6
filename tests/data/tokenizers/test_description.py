import pytest

from isogloss.data.tokenizers.bytes import BytesTokenizer
from isogloss.data.tokenizers.description import describe, printable


def test_split_of_a_text(trained):
    text = "def f(x):\n    return 'é'"
    description = describe(trained, text)
    assert [piece.id for piece in description.pieces] == trained.encode(text).tolist()
    assert description.bytes_per_token == len(text.encode()) / len(description.pieces) > 1.5
    assert (description.n_tokens, description.end_of_text, description.backend) == (2000, 0, "tiktoken")
    assert description.fingerprint == trained.fingerprint
    assert description.pieces[0].text == "def"


def test_no_text_has_no_pieces():
    description = describe(BytesTokenizer())
    assert (description.pieces, description.n_bytes, description.bytes_per_token) == ([], 0, 0.0)


@pytest.mark.parametrize(
    ("data", "text"),
    [(b" a", " a"), (b"\n\t", r"\n\t"), ("é😀".encode(), "é😀"), (b"\xe2\x82", r"\xe2\x82"), (b"'\"", "'\"")],
)
def test_bytes_as_printable_text(data, text):
    assert printable(data) == text
