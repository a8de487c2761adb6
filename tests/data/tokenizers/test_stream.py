from types import SimpleNamespace

from hypothesis import given, settings
from hypothesis import strategies as st

from isogloss.data.tokenizers.byte_table import ByteTable
from isogloss.data.tokenizers.bytes import BytesTokenizer
from isogloss.data.tokenizers.stream import StreamDecoder


@settings(deadline=None)
@given(st.lists(st.integers(0, 256)) | st.binary().map(list))
def test_joined_pieces_equal_the_decoding_of_all(ids):
    tokenizer = BytesTokenizer()
    decoder = StreamDecoder(tokenizer)
    assert "".join([decoder.push(token) for token in ids]) + decoder.close() == tokenizer.decode(ids)


@settings(deadline=None)
@given(st.lists(st.integers(0, 4)))
def test_dummy_prefix_is_taken_from_the_first_token_alone(ids):
    table = ByteTable([b"", b" ", b" a", b"\xc3", b"\xa9"], dummy_prefix=b" ")
    unused = dict.fromkeys(("n_tokens", "end_of_text", "fingerprint", "backend", "encode", "encode_batch", "save"), len)
    known = {"decode": table.decode, "token_bytes": table.token_bytes, "dummy_prefix": table.dummy_prefix}
    tokenizer = SimpleNamespace(**unused, **known)
    decoder = StreamDecoder(tokenizer)
    assert "".join([decoder.push(token) for token in ids]) + decoder.close() == tokenizer.decode(ids)


def test_text_comes_as_soon_as_its_bytes_are_whole():
    decoder = StreamDecoder(BytesTokenizer())
    assert [decoder.push(token) for token in "a😀b".encode()] == ["a", "", "", "", "😀", "b"]
    assert decoder.push(0xF0) == ""
    assert decoder.close() == "\ufffd"
