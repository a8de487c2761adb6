import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer as HuggingFaceTokenizer

from isogloss.config.base import UserError
from isogloss.data.tokenizers.bytes import BytesTokenizer
from isogloss.data.tokenizers.loading import load_tokenizer

TOKENIZER = BytesTokenizer()


@settings(deadline=None)
@given(st.text())
def test_ids_are_the_bytes_and_come_back(text):
    ids = TOKENIZER.encode(text)
    assert ids.dtype == np.uint32
    assert ids.tolist() == list(text.encode())
    assert TOKENIZER.decode(ids) == text


def test_lone_surrogates_become_the_replacement_character():
    assert TOKENIZER.decode(TOKENIZER.encode("a\ud83d\ude00b\ud800c")) == "a😀b\ufffdc"


def test_end_of_text_has_no_bytes():
    assert TOKENIZER.end_of_text == 256 == TOKENIZER.n_tokens - 1
    assert TOKENIZER.token_bytes(256) == b""
    assert TOKENIZER.decode([104, 256, 105]) == "hi"


@pytest.mark.parametrize("token", [-1, 257])
def test_unknown_id_is_refused(token):
    with pytest.raises(UserError, match=f"{token} is not in this tokenizer"):
        TOKENIZER.decode([token])


def test_saved_file_gives_the_byte_tokenizer_here_and_its_ids_elsewhere(tmp_path):
    TOKENIZER.save(tmp_path / "new")
    assert isinstance(load_tokenizer(tmp_path / "new"), BytesTokenizer)
    foreign = HuggingFaceTokenizer.from_file(str(tmp_path / "new" / "tokenizer.json"))
    text = "def f():\r\n    return 'é😀\x00'"
    assert foreign.encode(text).ids == TOKENIZER.encode(text).tolist()
    assert foreign.token_to_id("<|endoftext|>") == TOKENIZER.end_of_text
