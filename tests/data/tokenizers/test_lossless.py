"""A tokenizer that loses text is refused, whatever part of its file does it; one that keeps it is not."""

import copy
import json

import pytest

from isogloss.config.base import UserError
from isogloss.data.prepare import FilesConfig, prepare
from isogloss.data.tokenizers.base import lossy_characters
from isogloss.data.tokenizers.bpe import BPETokenizer
from isogloss.data.tokenizers.bytes import byte_vocabulary

REGEX = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
SPACES = {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}
PREPEND = {"type": "Sequence", "normalizers": [{"type": "Prepend", "prepend": "▁"}, SPACES]}


def token(content: str, id_: int, **flags: bool) -> dict:
    plain = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized", "special"), False)
    return {"id": id_, "content": content, **plain, **flags}


def byte_level(*added: dict, **parts) -> dict:
    spec = byte_vocabulary() | {"pre_tokenizer": REGEX} | parts
    return spec | {"added_tokens": [*spec["added_tokens"], *added]}


def characters(
    *added: str, normalizer: dict = SPACES, pre_tokenizer: dict | None = None, special: bool = False
) -> dict:
    """A vocabulary of characters with byte fallback, built as Gemma 3's and Llama 2's files are."""
    pieces = [
        "<pad>",
        "<eos>",
        "<unk>",
        *[f"<0x{byte:02X}>" for byte in range(256)],
        "▁",
        "a",
        "b",
        "▁a",
        "▁▁",
        "\n",
        "\n\n",
    ]
    new = [content for content in added if content not in pieces]
    ids = {piece: rank for rank, piece in enumerate([*pieces, *new])}
    model = {"type": "BPE", "unk_token": "<unk>", "fuse_unk": True, "byte_fallback": True}
    model |= {"vocab": {piece: ids[piece] for piece in pieces}, "merges": [["▁", "a"], ["▁", "▁"], ["\n", "\n"]]}
    tokens = [token(piece, ids[piece], special=True) for piece in pieces[:3]]
    tokens += [token(content, ids[content], special=special) for content in added]
    decoders = [
        {"type": "Replace", "pattern": {"String": "▁"}, "content": " "},
        {"type": "ByteFallback"},
        {"type": "Fuse"},
    ]
    return {
        "version": "1.0",
        "added_tokens": tokens,
        "normalizer": normalizer,
        "pre_tokenizer": pre_tokenizer,
        "decoder": {"type": "Sequence", "decoders": decoders},
        "model": model,
    }


def split(pattern: dict, behaviour: str) -> dict:
    part = {"type": "Split", "pattern": pattern, "behavior": behaviour, "invert": False}
    return {"type": "Sequence", "pretokenizers": [part, REGEX]}


def replace(pattern: dict, content: str) -> dict:
    return {"type": "Replace", "pattern": pattern, "content": content}


LOSSY = {
    "rstrip": (byte_level(token("</s>", 257, rstrip=True)), "'</s>' is cut out of every text (rstrip: it takes"),
    "lstrip": (byte_level(token("<x>", 257, lstrip=True)), "'<x>' is cut out of every text (lstrip"),
    "prepend between added tokens": (characters("<|user|>", normalizer=PREPEND), "'<|user|>' is cut out of every text"),
    "composition": (byte_level(normalizer={"type": "NFKC"}), "does not keep text"),
    "decomposition": (byte_level(normalizer={"type": "NFD"}), "does not keep text"),
    "marks": (byte_level(normalizer={"type": "StripAccents"}), "does not keep text"),
    "ends": (byte_level(normalizer={"type": "Strip", "strip_left": False, "strip_right": True}), "does not keep text"),
    "runs of line breaks": (byte_level(normalizer=replace({"Regex": "\n{3,}"}, "\n\n")), "does not keep text"),
    "a word": (byte_level(normalizer=replace({"String": "colour"}, "color")), "does not keep text"),
    "a pattern": (byte_level(normalizer=replace({"Regex": "colou?r"}, "tint")), "does not keep text"),
    "a sign": (byte_level(pre_tokenizer=split({"String": "@@"}, "Removed")), "does not keep text"),
    "a letter": (byte_level(pre_tokenizer=split({"Regex": "qu"}, "Removed")), "does not keep text"),
    "a byte": (
        byte_level(
            model=byte_vocabulary()["model"]
            | {"vocab": {piece: rank for piece, rank in byte_vocabulary()["model"]["vocab"].items() if piece != "ô"}}
        ),
        "does not keep text",
    ),
}


@pytest.mark.parametrize("kind", LOSSY)
def test_what_loses_text_is_refused(kind):
    spec, message = LOSSY[kind]
    with pytest.raises(UserError) as error:
        BPETokenizer(json.dumps(spec), "a.json")
    assert "does not keep text as it is" in str(error.value)
    assert message in str(error.value)
    assert len(str(error.value)) < 500


KEPT = {
    "Gemma 3": characters(
        "\n\n",
        "▁▁",
        "<table>",
        "<unused0>",
        pre_tokenizer={"type": "Split", "pattern": {"String": " "}, "behavior": "MergedWithPrevious", "invert": False},
    ),
    "Llama 2": characters(normalizer=PREPEND),
    "mended as it is told": characters("<|user|>", normalizer=PREPEND, special=True),
    "spaces as added tokens": byte_level(token(" " * 24, 257, normalized=True), normalizer={"type": "NFC"}),
    "a single word": byte_level(token("<x>", 257, single_word=True)),
    "strips, but special": byte_level(token("</s>", 257, rstrip=True, lstrip=True, special=True)),
    "pieces of digits": byte_level(pre_tokenizer=split({"Regex": r"\d"}, "Isolated")),
}


@pytest.mark.parametrize("kind", KEPT)
def test_what_keeps_text_is_taken(kind):
    tokenizer = BPETokenizer(json.dumps(KEPT[kind]))
    for text in ["a</s>   b", "a<|user|>b", "a  b\n\n\n c", " a", "<table>\n<unused0> x", "x" + " " * 30 + "y"]:
        assert tokenizer.decode(tokenizer.encode(text)) == text


def test_a_checked_one_is_not_probed_again(tmp_path):
    """So corpora and runs of earlier versions, which probed less, still open."""
    spec, _ = LOSSY["rstrip"]
    assert BPETokenizer(json.dumps(spec), is_checked=True).end_of_text == 256


def test_characters_that_do_not_come_back_are_counted(tmp_path):
    tokenizer = BPETokenizer(json.dumps(KEPT["Gemma 3"]))
    assert lossy_characters(tokenizer) == "▁"
    (tmp_path / "a.jsonl").write_text(
        "".join(json.dumps({"text": f"text {n} {'▁' * (n % 2)}"}) + "\n" for n in range(40))
    )
    config = FilesConfig(train=(str(tmp_path / "a.jsonl"),), prepared_dir=tmp_path, validation_bytes=20)
    told: list[str] = []
    manifest = prepare(config, tokenizer, told.append).manifest
    assert {what: tally.n for what, tally in manifest.suspicious.items()} == {
        "with characters that this tokenizer does not keep": 20
    }
    said = "warning: 20 documents with characters that this tokenizer does not keep ('text "
    assert [line.startswith(said) for line in told].count(True) == 1
    assert prepare(config, BPETokenizer(json.dumps(byte_level()))).manifest.suspicious == {}
    assert copy.deepcopy(tokenizer).encode("▁").tolist() == tokenizer.encode(" ").tolist()
