"""Texts that look like something else: read as they are, and named with the setting that mends it."""

import re
from collections.abc import Iterator

from isogloss.data.sources.formats import Kind, looks_like_json

NUL = "with NUL characters"
REPLACED = "with replacement characters (U+FFFD)"
JSON = "that looks like raw JSON"
SEPARATED = "with {0!r} inside"
ALTERED = "with characters that this tokenizer does not keep"
MENDING = {
    ALTERED: "it writes spaces as ▁, and some end a text at NUL: choose a byte-level tokenizer, or take them out",
    NUL: "perhaps another encoding: set data.encoding (utf-16-le, ...)",
    REPLACED: "they were decoded wrongly before: take the original, and set data.encoding",
    JSON: "data.format=json takes the records' texts",
}
_TOKENS = {
    "<|": re.compile(r"<\|[a-z_]{2,40}\|>"),
    "<\uff5c": re.compile(r"<\uff5c(?:begin|end)▁of▁sentence\uff5c>"),
    "s>": re.compile(r"(?:</?s>|<[eb]os>)$", re.MULTILINE),
}
"""Of what is never without the key, for speed."""


def find_suspicions(text: str, kind: Kind) -> Iterator[str]:
    """What is odd about a document: a key of ``MENDING``, or a separator token within it."""
    if "\0" in text:
        yield NUL
    if "\ufffd" in text:
        yield REPLACED
    tokens = (token.search(text) for sign, token in _TOKENS.items() if sign in text)
    if found := next(filter(None, tokens), None):
        yield SEPARATED.format(found[0])
    if kind == "text" and looks_like_json(text):
        yield JSON


def mending(suspicion: str) -> str:
    """What to do about it."""
    if suspicion in MENDING:
        return MENDING[suspicion]
    token = suspicion.removeprefix("with ").removesuffix(" inside")
    return f"data.separator={token} cuts text files there; within a record it stays text"
