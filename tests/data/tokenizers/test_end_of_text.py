"""The token that opens documents: the publisher's, or the user's, here and in what was saved."""

import base64
import json
from itertools import chain, product
from pathlib import Path

import pytest
from tokenizers import Tokenizer as HuggingFaceTokenizer

from isogloss.config.base import UserError
from isogloss.data.tokenizers.bytes import BytesTokenizer, byte_vocabulary
from isogloss.data.tokenizers.config import FileConfig
from isogloss.data.tokenizers.loading import build_tokenizer, load_tokenizer
from isogloss.data.tokenizers.tiktoken_ranks import PUBLISHED, find_end_of_text_id

PLAIN = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)


def write_ranks(path: Path, ranks: list[int]) -> Path:
    words = chain((bytes([byte]) for byte in range(256)), map(bytes, product(b"abcdefgh", repeat=3)))
    lines = (base64.b64encode(word).decode() + f" {rank}" for word, rank in zip(words, ranks, strict=False))
    path.write_text("\n".join(lines))
    return path


@pytest.mark.parametrize(
    ("ranks", "expected"),
    [
        (range(100256), 100257),  # cl100k_base
        (range(199998), 199999),  # o200k_base
        ([*range(50256), *range(50257, 50281)], 50256),  # p50k_base
        (range(128000), 128001),  # Llama 3
        (range(50256), 50256),  # GPT-2
        (range(151643), 151643),  # Qwen
        (range(300), 300),
    ],
)
def test_published_ranks_have_their_publishers_end_of_text(ranks, expected):
    assert find_end_of_text_id(ranks)[1] == expected


@pytest.mark.parametrize(
    ("ranks", "given", "expected"),
    [
        (list(range(300)), None, 301),
        (list(range(300)), 310, 310),
        ([*range(290), *range(291, 301)], None, 290),
    ],
)
def test_ids_between_the_ranks_and_the_end_of_text_are_no_obstacle(tmp_path, monkeypatch, ranks, given, expected):
    for n, last in ((300, 299), (300, 300)):
        monkeypatch.setitem(PUBLISHED, (n, last), ("<|endoftext|>", 301 if last == 299 else 290))
    tokenizer = load_tokenizer(write_ranks(tmp_path / "a.tiktoken", ranks), end_of_text=given)
    assert (tokenizer.end_of_text, tokenizer.n_tokens) == (expected, max(expected, *ranks) + 1)
    assert tokenizer.decode(tokenizer.encode("abc<|endoftext|>abd")) == "abc<|endoftext|>abd"
    tokenizer.save(tmp_path)
    assert load_tokenizer(tmp_path / "tokenizer.json").fingerprint == tokenizer.fingerprint
    theirs = HuggingFaceTokenizer.from_file(str(tmp_path / "tokenizer.json"))
    assert theirs.id_to_token(expected) == "<|endoftext|>"


@pytest.mark.parametrize(
    ("given", "message"), [(5, "no rank, such as 300"), ("<x>", "no names"), (4_000_000_000, "far beyond")]
)
def test_ids_that_cannot_be_are_refused(tmp_path, given, message):
    with pytest.raises(UserError, match=message):
        load_tokenizer(write_ranks(tmp_path / "a.tiktoken", list(range(300))), end_of_text=given)


def write_json(path: Path, special: bool, in_vocabulary: bool = False) -> Path:
    spec = byte_vocabulary()
    spec["added_tokens"] = [] if in_vocabulary else [{"id": 256, "content": "<END>", "special": special, **PLAIN}]
    if in_vocabulary:
        spec["model"]["vocab"]["<END>"] = 256
    path.write_text(json.dumps(spec))
    return path


@pytest.mark.parametrize("given", ["<END>", 256])
@pytest.mark.parametrize(("special", "in_vocabulary"), [(True, False), (False, False), (False, True)])
def test_a_setting_names_it_where_the_file_does_not(tmp_path, given, special, in_vocabulary):
    path = write_json(tmp_path / "a.json", special, in_vocabulary)
    with pytest.raises(UserError, match=r"set tokenizer\.end_of_text"):
        load_tokenizer(path)
    tokenizer = build_tokenizer(FileConfig(path=path, end_of_text=given), tuple)
    assert tokenizer.end_of_text == 256
    assert tokenizer.token_bytes(256) == b""
    assert 256 not in tokenizer.encode("a<END>b")
    assert tokenizer.decode(tokenizer.encode("a<END>b")) == "a<END>b"
    tokenizer.save(tmp_path / "saved")
    saved = load_tokenizer(tmp_path / "saved")
    assert (saved.end_of_text, saved.fingerprint) == (256, tokenizer.fingerprint)


@pytest.mark.parametrize(
    ("given", "message"), [("<ENDD>", "did you mean <END>"), (999, "none of its ids"), ("a", "ordinary text")]
)
def test_what_cannot_open_documents_is_refused(tmp_path, given, message):
    with pytest.raises(UserError, match=message):
        load_tokenizer(write_json(tmp_path / "a.json", special=True), end_of_text=given)


def test_the_choice_is_part_of_the_fingerprint(tmp_path):
    spec = byte_vocabulary()
    spec["added_tokens"].append({"id": 257, "content": "<END>", "special": True, **PLAIN})
    (tmp_path / "a.json").write_text(json.dumps(spec))
    usual, given = load_tokenizer(tmp_path / "a.json"), load_tokenizer(tmp_path / "a.json", end_of_text="<END>")
    assert (usual.end_of_text, given.end_of_text) == (256, 257)
    assert usual.fingerprint != given.fingerprint
    assert load_tokenizer(tmp_path / "a.json", end_of_text=256).fingerprint == usual.fingerprint


def test_a_tokenizer_saved_over_another_does_not_take_its_choice(tmp_path):
    folder = tmp_path / "saved"
    load_tokenizer(write_json(tmp_path / "a.json", special=True), end_of_text="<END>").save(folder)
    spec = byte_vocabulary()
    spec["added_tokens"].append({"id": 257, "content": "<END>", "special": True, **PLAIN})
    (tmp_path / "b.json").write_text(json.dumps(spec))
    usual = load_tokenizer(tmp_path / "b.json")
    usual.save(folder)
    assert load_tokenizer(folder).end_of_text == usual.end_of_text == 256
    BytesTokenizer().save(folder)
    assert isinstance(load_tokenizer(folder), BytesTokenizer)
