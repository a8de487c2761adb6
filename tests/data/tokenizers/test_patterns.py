"""The two regex engines must see the same classes of characters, and every pattern must cover every text."""

import sys

import pytest
import tiktoken
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Regex, pre_tokenizers

from isogloss.data.tokenizers.patterns import PATTERNS

# All of the planes that hold scripts and marks; of the rest, which are unassigned or private, one in 97.
CODE_POINTS = [
    chr(point)
    for point in [
        *range(0xD800),
        *range(0xE000, 0x20000),
        *range(0x20000, sys.maxunicode + 1, 97),
        *range(0xE0000, 0xE0200),
    ]
]
CHUNKS = ["".join(CODE_POINTS[start : start + 4096]) for start in range(0, len(CODE_POINTS), 4096)]
CLASSES = [
    r"\p{L}",
    r"\p{M}",
    r"\p{N}",
    r"\s",
    r"\p{Lu}",
    r"\p{Ll}",
    r"\p{Lt}",
    r"\p{Lm}",
    r"\p{Lo}",
    "(?i:[sdtmrvle])",
]


@pytest.mark.parametrize("character_class", CLASSES)
def test_both_engines_agree_on_the_members_of_a_class(character_class):
    single_bytes = {bytes([byte]): byte for byte in range(256)}
    fancy = tiktoken.Encoding("c", pat_str=character_class, mergeable_ranks=single_bytes, special_tokens={"<|e|>": 256})
    oniguruma = pre_tokenizers.Split(Regex(character_class), "removed")
    for chunk in CHUNKS:
        members = bytes(fancy.encode_ordinary(chunk)).decode()  # tiktoken drops what the pattern does not match
        others = {character for piece, _ in oniguruma.pre_tokenize_str(chunk) for character in piece}
        assert set(members) == set(chunk) - others


@pytest.mark.parametrize("name", PATTERNS)
@settings(deadline=None)
@given(text=st.text())
def test_every_pattern_covers_every_text(name, text):
    # Hugging Face keeps what lies between the matches as pieces, tiktoken drops it: so nothing may lie between.
    removed = pre_tokenizers.Split(Regex(PATTERNS[name]), "removed")
    assert removed.pre_tokenize_str(text) == []


@pytest.mark.parametrize(
    ("text", "pieces"),
    [
        ("def f(x):\n        return x", ["def", " f", "(x", "):\n", "       ", " return", " x"]),
        ("it's 12345 I'LL", ["it", "'s", " ", "123", "45", " I", "'LL"]),
        ("किताब कहाँ", ["किताब", " कहाँ"]),
        ("a  \r\n\r\n  b", ["a", "  \r\n\r\n", " ", " b"]),
    ],
)
def test_isogloss_pattern_cuts_code_and_words(text, pieces):
    split = pre_tokenizers.Split(Regex(PATTERNS["isogloss"]), "isolated")
    assert [piece for piece, _ in split.pre_tokenize_str(text)] == pieces
