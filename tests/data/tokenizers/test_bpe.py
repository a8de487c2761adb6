import copy
import json
import pickle

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer as HuggingFaceTokenizer

from isogloss.config.base import UserError
from isogloss.data.tokenizers.bpe import BPETokenizer
from isogloss.data.tokenizers.loading import load_tokenizer


@settings(deadline=None)
@given(text=st.text())
def test_round_trip(trained, text):
    ids = trained.encode(text)
    assert ids.dtype == np.uint32
    assert ids.flags.writeable
    assert trained.decode(ids) == text


def test_special_token_in_a_text_is_text(trained):
    ids = trained.encode("a<|endoftext|>b")
    assert trained.end_of_text not in ids
    assert trained.decode(ids) == "a<|endoftext|>b"
    assert trained.token_bytes(trained.end_of_text) == b""


def test_batch_equals_one_by_one(trained, library):
    texts = ["", *library[:20], "x" * 10, "\ud800"]
    batch = trained.encode_batch(texts)
    assert all(np.array_equal(ids, trained.encode(text)) for ids, text in zip(batch, texts, strict=True))
    assert trained.encode_batch([]) == []


def test_lone_surrogates_become_the_replacement_character(trained):
    assert trained.decode(trained.encode("a\ud83d\ude00b\ud800c")) == "a😀b\ufffdc"


def test_saved_equals_loaded(trained, tmp_path):
    trained.save(tmp_path)
    for other in [
        load_tokenizer(tmp_path),
        load_tokenizer(tmp_path / "tokenizer.json"),
        pickle.loads(pickle.dumps(trained)),
    ]:
        assert other.fingerprint == trained.fingerprint
        assert (other.n_tokens, other.end_of_text, other.backend) == (trained.n_tokens, 0, "tiktoken")


def test_fingerprint_follows_what_decides_the_encoding(trained, trained_spec):
    decoder_only, merges = copy.deepcopy(trained_spec), copy.deepcopy(trained_spec)
    decoder_only["decoder"] = None
    merges["model"]["merges"].pop()
    assert BPETokenizer(json.dumps(decoder_only)).fingerprint == trained.fingerprint
    assert BPETokenizer(json.dumps(merges)).fingerprint != trained.fingerprint


def test_transformers_reads_the_saved_file(trained, tmp_path):
    transformers = pytest.importorskip("transformers")
    trained.save(tmp_path)
    theirs = transformers.PreTrainedTokenizerFast(tokenizer_file=str(tmp_path / "tokenizer.json"))
    text = "def f(x):\r\n\treturn 'é 😀'  # 12345"
    assert theirs.encode(text, add_special_tokens=False) == trained.encode(text).tolist()
    assert theirs.decode(trained.encode(text).tolist()) == text


@pytest.mark.parametrize("token", [-1, 2000])
def test_unknown_id_is_refused(trained, token):
    with pytest.raises(UserError, match=f"{token} is not in this tokenizer"):
        trained.decode([5, token])


def test_truncation_and_padding_of_the_file_do_not_apply(trained, trained_spec):
    spec = copy.deepcopy(trained_spec)
    spec["truncation"] = {"direction": "Right", "max_length": 2, "strategy": "LongestFirst", "stride": 0}
    spec["pre_tokenizer"]["pretokenizers"][0]["pattern"]["Regex"] += "|x"  # so that tokenizers encodes
    text = "one two three four"
    assert BPETokenizer(json.dumps(spec)).encode(text).tolist() == trained.encode(text).tolist()


def metaspace_spec(prefix: bool) -> dict:
    """A vocabulary of characters with byte fallback, as Llama 2's converted file."""
    pieces = ["<unk>", "<s>", "</s>", *[f"<0x{byte:02X}>" for byte in range(256)], "▁", "a", "b", "▁a", "ab"]
    added = [
        {"id": i, "content": pieces[i], "special": True, "normalized": False}
        | {"single_word": False, "lstrip": False, "rstrip": False}
        for i in range(3)
    ]
    replace = {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}
    prepend = [{"type": "Prepend", "prepend": "▁"}] if prefix else []
    model = {"type": "BPE", "unk_token": "<unk>", "fuse_unk": True, "byte_fallback": True}
    model |= {"vocab": {piece: i for i, piece in enumerate(pieces)}, "merges": [["▁", "a"], ["a", "b"]]}
    normalizer = {"type": "Sequence", "normalizers": [*prepend, replace]}
    return {"version": "1.0", "added_tokens": added, "normalizer": normalizer, "pre_tokenizer": None, "model": model}


@pytest.mark.parametrize("prefix", [True, False])
def test_byte_fallback_round_trip(prefix):
    spec = metaspace_spec(prefix)
    tokenizer = BPETokenizer(json.dumps(spec))
    theirs = HuggingFaceTokenizer.from_str(json.dumps(spec))
    assert tokenizer.dummy_prefix == (b" " if prefix else b"")
    assert tokenizer.end_of_text == 2
    for text in ["", " ", "a b", " ab  é😀\n", "b"]:
        assert tokenizer.encode(text).tolist() == theirs.encode(text).ids
        assert tokenizer.decode(tokenizer.encode(text)) == text


def lower_case(spec):
    spec["normalizer"] = {"type": "Lowercase"}


def prefix_space(spec):
    spec["pre_tokenizer"]["pretokenizers"][1]["add_prefix_space"] = True


def no_special_token(spec):
    spec["added_tokens"] = []


def word_piece(spec):
    spec["model"] = {"type": "WordPiece", "unk_token": "x", "continuing_subword_prefix": "##", "vocab": {"x": 0}}


def dangling_merge(spec):
    spec["model"]["merges"].append(["qq", "zz"])


def dropout(spec):
    spec["model"]["dropout"] = 0.1


def no_bytes(spec):
    spec["pre_tokenizer"] = None


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lower_case, "does not keep text as it is"),
        (prefix_space, "does not keep text as it is"),
        (no_special_token, "it needs one of <|endoftext|>"),
        (word_piece, "its model is a WordPiece"),
        (dangling_merge, "cannot read it"),
        (dropout, "set model.dropout to null"),
        (no_bytes, "neither byte-level nor with byte fallback"),
    ],
)
def test_unfit_files_are_refused_by_name(trained_spec, change, message):
    spec = copy.deepcopy(trained_spec)
    change(spec)
    with pytest.raises(UserError) as caught:
        BPETokenizer(json.dumps(spec), origin="some/tokenizer.json")
    assert message in str(caught.value)
    assert str(caught.value).startswith("some/tokenizer.json: ")
