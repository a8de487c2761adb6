import base64

import pytest
import tiktoken
from hypothesis import given
from hypothesis import strategies as st

from isogloss.config.base import UserError
from isogloss.data.tokenizers.patterns import PATTERNS
from isogloss.data.tokenizers.tiktoken_ranks import read_ranks_file

BYTES = [bytes([byte]) for byte in range(256)]


def write(path, tokens):
    lines = [base64.b64encode(token) + b" %d" % rank for rank, token in enumerate(tokens)]
    path.write_bytes(b"\n".join(lines) + b"\n")
    return path


@given(
    tokens=st.lists(st.text(alphabet="abé", min_size=2, max_size=6).map(str.encode), unique=True, max_size=40),
    texts=st.lists(st.text(alphabet="abé 1", max_size=40), min_size=5, max_size=10),
)
def test_ids_equal_those_of_tiktoken_for_any_ranks(tmp_path_factory, tokens, texts):
    """Also where a token cannot be reached by merging, and where its parts come after it."""
    tokens = BYTES + [token for token in tokens if len(token) > 1]
    path = write(tmp_path_factory.mktemp("ranks") / "a.tiktoken", tokens)
    ranks = {token: rank for rank, token in enumerate(tokens)}
    for name in ("cl100k", "gpt2"):
        theirs = tiktoken.Encoding("t", pat_str=PATTERNS[name], mergeable_ranks=ranks, special_tokens={"<|e|>": 9999})
        ours = read_ranks_file(path, name)
        assert ours.backend == "tiktoken"
        slow = ours.__reduce__()[0](ours.__reduce__()[1][0])
        for text in texts:
            assert ours.encode(text).tolist() == theirs.encode_ordinary(text)
            assert slow._slow.encode(text, add_special_tokens=False).ids == theirs.encode_ordinary(text)


def test_end_of_text_follows_the_last_rank(tmp_path):
    tokenizer = read_ranks_file(write(tmp_path / "a.tiktoken", [*BYTES, b"ab"]), "cl100k")
    assert (tokenizer.end_of_text, tokenizer.n_tokens) == (257, 258)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "256 of the 256 bytes"),
        (b"YQ== 0\nYg==\n", "line 2: not a token in base64"),
        (b"YQ== 0\n!!!! 1\n", "line 2: not a token in base64"),
        (b"YQ== 0\nYQ== 1\n", "line 2: the token is there already, with rank 0"),
        (b"YQ== 0\nYg== 0\n", "two tokens have the same rank"),
        (b"\x00\xff\x10", "line 1: not a token"),
    ],
)
def test_broken_files_are_refused(tmp_path, content, message):
    path = tmp_path / "a.tiktoken"
    path.write_bytes(content)
    with pytest.raises(UserError) as caught:
        read_ranks_file(path, "cl100k")
    assert message in str(caught.value)
    assert str(path) in str(caught.value)


def test_patterns_the_engine_misreads_or_cannot_read_are_refused(tmp_path):
    path = write(tmp_path / "a.tiktoken", BYTES)
    with pytest.raises(UserError, match=r"takes '{m,n}\+' for a repeat"):
        read_ranks_file(path, r"\p{N}{1,3}+|.")
    with pytest.raises(UserError, match="cannot read it"):
        read_ranks_file(path, "(")
