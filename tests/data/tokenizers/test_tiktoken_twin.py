"""Whatever tiktoken encodes for us must be what Hugging Face's own library gives for the same file."""

import copy
import json
import random
import sys
import unicodedata

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer as HuggingFaceTokenizer

from isogloss.data.tokenizers.bpe import BPETokenizer
from isogloss.data.tokenizers.patterns import PATTERNS
from isogloss.data.tokenizers.tiktoken_twin import COMPOSED, doubtful_texts

WORDS = [
    " ",
    "  ",
    "    ",
    "\t",
    "\n",
    "\r\n",
    "\r",
    "0",
    "12",
    "3456",
    "if",
    "self",
    "_",
    ".",
    "('",
    '"""',
    "# ",
    "it's",
]
WORDS += [
    "I'LL",
    "é",
    "e\u0301",
    "की",
    "ไทย",
    "你好",
    "😀\ufe0f",
    "\u2028",
    "\u00a0",
    "\u3000",
    "Ж",
    "\u017f",
    "'\u017f",
]
WORDS += ["½", "①"]
WORDS += ["<|endoftext|>", "\x00", "\x85", "==", "//\n", "www", "aaaa", "ﬁ", "\U000323af", "\u0378", "\U0010ffff"]
TEXTS = st.one_of(
    st.text(max_size=80),
    st.lists(st.sampled_from(WORDS), max_size=40).map("".join),
    st.text(alphabet="ab \n'sS1,", max_size=60),
)
"""Any Unicode, and the spaces, digits, quotes, marks and line ends at which pre-tokenisers cut."""


def reference(spec: dict) -> HuggingFaceTokenizer:
    tokenizer = HuggingFaceTokenizer.from_str(json.dumps(spec))
    tokenizer.encode_special_tokens = True
    return tokenizer


def reference_ids(tokenizer: HuggingFaceTokenizer, text: str) -> list[int]:
    return tokenizer.encode(text, add_special_tokens=False).ids


@pytest.fixture(scope="session")
def variants(trained_spec):
    """The trained vocabulary under every pattern, with and without ``ignore_merges``, and as GPT-2 writes its own."""
    specs = {"trained": trained_spec}
    for name, pattern in PATTERNS.items():
        specs[name] = copy.deepcopy(trained_spec)
        specs[name]["pre_tokenizer"]["pretokenizers"][0]["pattern"]["Regex"] = pattern
        specs[name]["model"]["ignore_merges"] = name in {"cl100k", "o200k"}
    specs["gpt2"]["pre_tokenizer"] = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True}
    specs["merges as text"] = copy.deepcopy(trained_spec)
    specs["merges as text"]["model"]["merges"] = [" ".join(merge) for merge in trained_spec["model"]["merges"]]
    specs["qwen2"]["normalizer"] = {"type": "NFC"}
    added = {"id": 5000, "content": "self", "special": False, "normalized": True}
    specs["qwen2"]["added_tokens"].append(added | {"single_word": False, "lstrip": False, "rstrip": False})
    return {name: (BPETokenizer(json.dumps(spec)), reference(spec)) for name, spec in specs.items()}


@settings(max_examples=400, deadline=None)
@given(text=TEXTS)
def test_ids_equal_those_of_the_reference(variants, text):
    for name, (ours, theirs) in variants.items():
        assert ours.backend == "tiktoken", name
        assert ours.encode(text).tolist() == reference_ids(theirs, text), name


def test_ids_equal_on_the_standard_library(variants, library):
    for ours, theirs in variants.values():
        expected = [encoding.ids for encoding in theirs.encode_batch(library[::4], add_special_tokens=False)]
        assert [ids.tolist() for ids in ours.encode_batch(library[::4])] == expected


def test_ids_equal_around_every_kind_of_character(trained, trained_spec):
    theirs = reference(trained_spec)
    rng = random.Random(0)
    for _ in range(300):
        point = rng.choice([rng.randrange(0x3000), rng.randrange(0xE000, 0x12000), rng.randrange(0x10000, 0x110000)])
        character = chr(point)
        text = f"a{character}b1{character}2 {character} .{character}\n'{character} X{character}{character}y"
        if "\ud800" <= character < "\ue000":
            continue
        assert trained.encode(text).tolist() == reference_ids(theirs, text), hex(point)


def test_long_runs_are_encoded_right(trained, trained_spec):
    # Above some million spaces tiktoken's regex engine gives up, and the other one takes over.
    theirs = reference(trained_spec)
    for text in [" " * 1_500_000 + "x", "a" * 300_000, "\n" * 300_000, "-" * 300_000, " \n" * 50_000]:
        assert trained.encode(text).tolist() == reference_ids(theirs, text)


def shuffled_merges(spec):
    merges = spec["model"]["merges"]
    merges[10], merges[200] = merges[200], merges[10]


def second_way_to_a_token(spec):
    # "abc" by (a, bc) although the pieces of the text come as (ab, c): tiktoken would join these, Hugging Face does not
    vocab, merges = spec["model"]["vocab"], spec["model"]["merges"]
    spec["model"]["ignore_merges"] = True
    start = max(vocab.values()) + 1
    vocab.update({"ÿþ": start, "þý": start + 1, "ÿþý": start + 2})
    merges.extend([["ÿ", "þ"], ["þ", "ý"], ["ÿ", "þý"]])


def unknown_pattern(spec):
    spec["pre_tokenizer"]["pretokenizers"][0]["pattern"]["Regex"] += r"|\d+"


def prepended_digits(spec):
    spec["pre_tokenizer"]["pretokenizers"].insert(0, {"type": "Digits", "individual_digits": True})


@pytest.mark.parametrize("change", [shuffled_merges, second_way_to_a_token, unknown_pattern, prepended_digits])
def test_falls_back_where_equality_is_not_certain(trained_spec, library, change):
    spec = copy.deepcopy(trained_spec)
    change(spec)
    ours, theirs = BPETokenizer(json.dumps(spec)), reference(spec)
    assert ours.backend == "tokenizers"
    texts = [*library[:2], "ÿþý xÿþýy <|endoftext|> a\u00e9"]
    expected = [reference_ids(theirs, text) for text in texts]
    assert [ids.tolist() for ids in ours.encode_batch(texts)] == expected
    assert [ours.encode(text).tolist() for text in texts] == expected


def test_a_token_that_merging_cannot_reach_is_left_out(trained_spec):
    spec = copy.deepcopy(trained_spec)
    spec["model"]["vocab"]["Ġqzjxq"] = max(spec["model"]["vocab"].values()) + 1
    ours, theirs = BPETokenizer(json.dumps(spec)), reference(spec)
    assert ours.backend == "tiktoken"
    text = "a qzjxq b"
    assert ours.encode(text).tolist() == reference_ids(theirs, text)


def test_composed_characters_do_not_change_under_nfc():
    pattern = doubtful_texts({"normalizer": {"type": "NFC"}})
    points = [chr(point) for point in range(sys.maxunicode + 1) if not 0xD800 <= point < 0xE000]
    composed = [character for character in points if not pattern(character)]
    assert len(composed) > 30_000, COMPOSED
    rng = np.random.default_rng(0)
    for _ in range(20):  # neighbours in random order as well: no two of them compose
        text = "".join(np.array(composed)[rng.permutation(len(composed))])
        assert unicodedata.normalize("NFC", text) == text
    assert all(unicodedata.combining(character) == 0 for character in composed)
