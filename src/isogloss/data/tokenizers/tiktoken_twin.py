"""A tiktoken encoding equal to a Hugging Face byte-level BPE, where there is one: several times as fast.

Hugging Face merges the adjacent pair whose *merge* comes first, tiktoken the one whose *merged token* has the lowest
id. They agree on every text if the merges stand in the order of the ids they form, and if every adjacent pair that
spells a rank of tiktoken is a merge. ``_ranks`` sees to the second; proof by induction over equal states: merges
inside a span do not depend on what lies outside it until one crosses its border, so adjacent tokens (l, r) that spell
T are a state of the encoding of T alone. If T encodes to itself, the step from [l, r] to [T] is the merge (l, r). If
T ends as three tokens or more, [l, r] never arises. If T ends as two, tiktoken would join what Hugging Face does not:
T must not be a rank. Without ``ignore_merges`` a token that does not encode to itself never comes out, and none of
these is a rank; with it, a piece that is a token is taken whole, as tiktoken does, so they must all be.
"""

import re
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import tiktoken
from tokenizers import Tokenizer, models

from isogloss.data.tokenizers.byte_table import byte_level_bytes
from isogloss.data.tokenizers.patterns import GPT2, PATTERNS

# Characters that canonical composition (NFC) leaves alone among themselves: Latin, Cyrillic, dashes and quotes, kana,
# ideographs, Hangul syllables, fullwidth forms. Any other may compose with its neighbour.
COMPOSED = (
    r"\x00-\u02ff\u0400-\u0482\u2010-\u2027\u3001-\u3029\u3041-\u3096\u30a1-\u30fa\u4e00-\u9fff"
    r"\uac00-\ud7a3\uff01-\uff60"
)


def tiktoken_twin(spec: dict[str, Any], tokenizer: Tokenizer) -> tiktoken.Encoding | None:
    """The tiktoken encoding that equals ``tokenizer`` on every text for which ``doubtful_texts`` says False.

    Args:
        spec: the content of the ``tokenizer.json``.
        tokenizer: the same, loaded.

    Returns:
        ``None`` where equality is not certain: another pre-tokeniser, normaliser or kind of vocabulary.
    """
    pattern = _pattern(spec.get("pre_tokenizer"))
    normalizer = spec.get("normalizer")
    if pattern is None or (normalizer is not None and normalizer != {"type": "NFC"}):
        return None
    ranks = _ranks(spec["model"], tokenizer)
    if ranks is None:
        return None
    # tiktoken searches the text for its special tokens even where none is allowed, and asks for at least one
    return tiktoken.Encoding(
        "twin", pat_str=pattern, mergeable_ranks=ranks, special_tokens={"<|endoftext|>": max(ranks.values()) + 1}
    )


def doubtful_texts(spec: dict[str, Any]) -> Callable[[str], object]:
    """A test for the texts that only the Hugging Face tokenizer treats rightly.

    They hold an added token that is not special (which it cuts out of any text), or, under the NFC normaliser, a
    character that might compose with its neighbour.
    """
    contents = [token["content"] for token in spec.get("added_tokens") or [] if not token["special"]]
    alternatives = [re.escape(content) for content in contents]
    if spec.get("normalizer") is not None:
        alternatives.append(f"[^{COMPOSED}]")
    if not alternatives:
        return lambda text: False
    return re.compile("|".join(alternatives)).search


def _pattern(pre_tokenizer: dict[str, Any] | None) -> str | None:
    """The regular expression of a pre-tokeniser, if it is one whose meaning is the same in both engines."""
    match pre_tokenizer:
        case {"type": "ByteLevel", "add_prefix_space": False} if pre_tokenizer.get("use_regex", True):
            return GPT2
        case {
            "type": "Sequence",
            "pretokenizers": [
                {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False},
                {"type": "ByteLevel", "add_prefix_space": False, "use_regex": False},
            ],
        } if pattern in PATTERNS.values():
            return pattern
        case _:
            return None


def _ranks(model: dict[str, Any], tokenizer: Tokenizer) -> dict[bytes, int] | None:
    """The tokens that tiktoken should know, by id; ``None`` where the two ways of merging may differ."""
    if any(model.get(key) for key in ("dropout", "continuing_subword_prefix", "end_of_word_suffix", "byte_fallback")):
        return None
    vocab: dict[str, int] = model["vocab"]
    pairs = (merge.split(" ") if isinstance(merge, str) else merge for merge in model["merges"])
    merges = [(left, right) for left, right in pairs]
    merged = [vocab[left + right] for left, right in merges]
    if any(before > after for before, after in pairwise(merged)):
        return None

    ignore_merges = bool(model.get("ignore_merges"))
    merging = models.BPE(vocab, merges) if ignore_merges else tokenizer.model
    ranks: dict[bytes, int] = {}
    for token, rank in vocab.items():
        data = byte_level_bytes(token)
        if data is None:  # no piece of a text is ever written so
            continue
        n_parts = len(merging.tokenize(token)) if len(data) > 1 else 1
        if ignore_merges and n_parts == 2:
            return None
        if ignore_merges or n_parts == 1:
            ranks[data] = rank
    n_bytes = sum(len(data) == 1 for data in ranks)
    return ranks if n_bytes == 256 and len(set(ranks.values())) == len(ranks) else None
