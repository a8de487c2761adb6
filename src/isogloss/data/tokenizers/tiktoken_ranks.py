"""Reads tiktoken ranks files (a token in base64 and its rank on each line) as byte-level BPE tokenizers."""

import base64
import binascii
import json
import re
from collections.abc import Collection
from itertools import pairwise
from pathlib import Path

from isogloss.config.base import UserError
from isogloss.config.stored import read_bounded
from isogloss.data.tokenizers.bpe import BPETokenizer
from isogloss.data.tokenizers.byte_table import byte_level_text
from isogloss.data.tokenizers.end_of_text import check_unwritten
from isogloss.data.tokenizers.patterns import PATTERNS

_MOST_DIGITS, _MOST_BYTES = 10, 4096  # of a rank, of a token

PUBLISHED = {
    (100256, 100255): ("<|endoftext|>", 100257),  # cl100k_base
    (199998, 199997): ("<|endoftext|>", 199999),  # o200k_base
    (50280, 50280): ("<|endoftext|>", 50256),  # p50k_base, in a gap of its ranks
    (128000, 127999): ("<|end_of_text|>", 128001),  # Llama 3
}
"""Of published vocabularies, known by the number of their ranks and the last: the token that ends a text, and its id.
Those of GPT-2 and Qwen follow the last rank."""


MAX_GAP = 1 << 16
"""Ids between the last rank and the end of text: of published vocabularies a few hundred."""


def find_end_of_text_id(ranks: Collection[int]) -> tuple[str, int]:
    """The token that ends a text, and its id: as published, or ``<|endoftext|>`` after the last rank."""
    last = max(ranks)
    return PUBLISHED.get((len(ranks), last), ("<|endoftext|>", last + 1))


def read_ranks_file(path: Path, pattern: str, end_of_text: str | int | None = None) -> BPETokenizer:
    """The tokenizer of a ranks file.

    Args:
        path: the file.
        pattern: a name of ``PATTERNS``, or a regular expression as Oniguruma reads it.
        end_of_text: the id that opens documents; without it as published, or the id after the last rank.

    Raises:
        UserError: for a file that is not of this format or lacks some byte, and for a pattern the engine cannot read.
    """
    ranks = _parse(path)
    missing = [byte for byte in range(256) if bytes([byte]) not in ranks]
    if missing:
        raise UserError(f"{path}: {len(missing)} of the 256 bytes are not among the tokens (the first is {missing[0]})")
    regex = PATTERNS.get(pattern, pattern)
    if re.search(r"\d\}\+", regex):
        raise UserError(
            f"pattern {regex!r}: Oniguruma takes '{{m,n}}+' for a repeat, not for a possessive; write (?>...{{m,n}})"
        )
    content, chosen = find_end_of_text_id(ranks.values())
    if end_of_text is not None:
        if not isinstance(end_of_text, int) or end_of_text in ranks.values() or end_of_text < 0:
            raise UserError(
                f"{path}: tokenizer.end_of_text {end_of_text!r}: a ranks file has no names for what is not text; give "
                f"an id that is no rank, such as {chosen}"
            )
        content, chosen = "<|endoftext|>", end_of_text
        if chosen > max(ranks.values()) + MAX_GAP:
            raise UserError(f"{path}: tokenizer.end_of_text {chosen} is far beyond the {len(ranks):,} ranks")
    vocab = {byte_level_text(token): rank for token, rank in ranks.items()}
    if chosen < len(ranks):  # in a gap of the ranks: known to the vocabulary, as in GPT-2's own file
        vocab[content] = chosen
    # Ids must follow on for Hugging Face's library, so those between the ranks and the token are declared too.
    between = {f"<|unused_{rank}|>": rank for rank in range(max(ranks.values()) + 1, chosen)}
    special = [{"id": rank, "content": name} for name, rank in {**between, content: chosen}.items()]
    plain = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    spec = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [token | plain for token in special],
        "normalizer": None,
        "pre_tokenizer": {
            "type": "Sequence",
            "pretokenizers": [
                {"type": "Split", "pattern": {"Regex": regex}, "behavior": "Isolated", "invert": False},
                {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False},
            ],
        },
        "post_processor": None,
        "decoder": {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False},
        "model": {
            "type": "BPE",
            "ignore_merges": True,  # tiktoken takes a piece that is a token whole
            "vocab": vocab,
            "merges": _merges(ranks),
        },
    }
    tokenizer = BPETokenizer(json.dumps(spec, ensure_ascii=False), origin=str(path))
    check_unwritten(tokenizer, chosen, content, str(path))
    return tokenizer


def is_ranks_line(line: bytes) -> bool:
    """Whether a line is a token in base64 and its rank; Llama 3 ships such a file as ``tokenizer.model``."""
    return _parse_line(line) is not None


def _parse_line(line: bytes) -> tuple[bytes, int] | None:
    token, _, rank = line.strip().partition(b" ")
    try:
        data = base64.b64decode(token, validate=True)
    except binascii.Error:
        return None
    return (data, int(rank)) if data and len(rank) <= _MOST_DIGITS and rank.isdigit() else None


def _parse(path: Path) -> dict[bytes, int]:
    ranks: dict[bytes, int] = {}
    for number, line in enumerate(read_bounded(path).splitlines(), start=1):
        if not line.strip():
            continue
        entry = _parse_line(line)
        if entry is None:
            raise UserError(f"{path}, line {number}: not a token in base64 and its rank, as tiktoken writes them")
        if len(entry[0]) > _MOST_BYTES:  # finding its merges takes the square of its length
            raise UserError(f"{path}, line {number}: a token of {len(entry[0]):,} bytes, more than {_MOST_BYTES:,}")
        if entry[0] in ranks:
            raise UserError(f"{path}, line {number}: the token is there already, with rank {ranks[entry[0]]}")
        ranks[entry[0]] = entry[1]
    if len(set(ranks.values())) != len(ranks):
        raise UserError(f"{path}: two tokens have the same rank")
    return ranks


def _merges(ranks: dict[bytes, int]) -> list[tuple[str, str]]:
    """The merges, in the order of the tokens they form: the last pair through which tiktoken encodes each token.

    A token that merging cannot reach has none; it stands only for a piece that equals it.
    """
    merges = []
    for token in sorted(ranks, key=ranks.__getitem__):
        parts = [token[i : i + 1] for i in range(len(token))]
        while len(parts) > 2:
            joined = [ranks.get(left + right, -1) for left, right in pairwise(parts)]
            known = [rank for rank in joined if rank >= 0]
            if not known:
                break
            at = joined.index(min(known))
            parts[at : at + 2] = [parts[at] + parts[at + 1]]
        if len(parts) == 2:
            merges.append((byte_level_text(parts[0]), byte_level_text(parts[1])))
    return merges
