"""Whether a tokenizer that others made gives text back as it was: probes, general ones and some derived from its file.

What a tokenizer may do to a text stands in its file: added tokens that take the spaces beside them, a normaliser that
puts something before every piece between two of them, a pre-tokeniser that cuts at a sign and drops it. Every literal
that the file names for these is probed, alone and between letters, spaces, line breaks and copies of itself.
"""

import re
import string
import unicodedata
from collections.abc import Iterator, Sequence
from typing import Any

from isogloss.config.base import UserError
from isogloss.data.tokenizers.base import Tokenizer, lossy_characters

_WORDS = " a  B\n\n\tc'll 123, é ж 你 ﬁ \uff21 😀 \r\n"
_RUNS = "".join(f"a{sign * n}b {sign * n} " for sign in string.whitespace + string.punctuation for n in (1, 2, 3, 17))
_CHARACTERS = "".join(map(chr, range(128)))
_CONTINUED = "".join(map(chr, range(0x80, 0xC0)))
_LED = "".join(map(chr, [*range(0xC0, 0x800, 0x40), *range(0x800, 0xD800, 0x7FF), 0xE000, 0xF8FF]))
_PLANES = "".join(chr((plane << 16) + 0x123) for plane in range(1, 17))
_ODD = (
    "e\u0301o\u0308 \u0915\u093c \u0e01\u0e47 ß \u0130 \u0131 \u017f \u212a \u212b \ufdfa \u2460 … “ ” \u2013 \u2014 "
    "\u00a0 \u0085 \u00ad \u200b \u200d \u200e \u2003 \u2028 \u2029 \u3000 \ufeff \ufffd 1\u0661\u0967 Ab aB AB 日 한"
)
PROBES = ("a", " a", "a ", "  a  ", _WORDS, _RUNS, _CHARACTERS, _CONTINUED, _LED, _PLANES, _ODD, _ODD.upper())
"""All bytes that UTF-8 has, runs of each sign, letters of both cases, composed and not, of several scripts."""

LITERALS = ("String", "content", "prepend", "replacement", "delimiter", "pattern")
GROUP = 50


def check_lossless(
    tokenizer: Tokenizer, origin: str, spec: dict[str, Any] | None = None, literals: Sequence[str] = ()
) -> None:
    """Refuse a foreign tokenizer that rewrites text (lower case, collapsed spaces, unknown characters dropped).

    A loss per byte of such a tokenizer would not be about the text. Canonical composition (NFC) is let pass, and so are
    the tokenizer's ``lossy_characters``, which are counted where text is prepared.

    Args:
        tokenizer: the tokenizer.
        origin: where it is from, for the message.
        spec: the content of its ``tokenizer.json``, if it has one.
        literals: strings that it treats in a way of their own.

    Raises:
        UserError: a probe does not come back.
    """
    kept = str.maketrans("", "", lossy_characters(tokenizer))
    for probe in (*PROBES, *_derive(spec or {}, literals)):
        text = probe.translate(kept)
        back = tokenizer.decode(tokenizer.encode(text))
        if back not in (text, unicodedata.normalize("NFC", text)):
            _refuse(origin, text, back, spec or {})


def _derive(spec: dict[str, Any], literals: Sequence[str]) -> Iterator[str]:
    """Probes of every literal that the file treats in a way of its own."""
    added = [token for token in spec.get("added_tokens") or [] if token.get("content")]
    plain = [token["content"] for token in added if not any(map(token.get, ("lstrip", "rstrip", "single_word")))]
    special = {token["content"]: None for token in added if token["content"] not in plain}
    special |= dict.fromkeys((*_literals(spec.get("normalizer")), *_literals(spec.get("pre_tokenizer"))))
    for literal in special:
        yield from (literal, f"{literal}  a", f"a  {literal}", f" {literal} ", _surround(literal))
    together = [*plain, *literals]
    for first in range(0, len(together), GROUP):
        yield "".join(map(_surround, together[first : first + GROUP]))


def _surround(literal: str) -> str:
    return f"a{literal}b {literal} c{literal}{literal}{literal}d   {literal}   e\n\n{literal}\n\nf\t{literal}\tG"


def _literals(part: Any) -> Iterator[str]:
    """The strings in a part of the file; of a regular expression, those that it holds as they are."""
    if isinstance(part, dict):
        for key, value in part.items():
            if isinstance(value, str) and value and key in LITERALS:
                yield value
            elif key == "Regex" and isinstance(value, str):
                for form in (value, re.sub(r"[?*+]", "", value), re.sub(r".[?*]", "", value)):
                    yield from re.findall(r"[^\\^$.|?*+()\[\]{}\s]+|[ \n\t]+", form)
            else:
                yield from _literals(value)
    elif isinstance(part, list):
        for value in part:
            yield from _literals(value)


def _refuse(origin: str, text: str, back: str, spec: dict[str, Any]) -> None:
    """Show where the first difference is, and what does it if an added token stands there."""
    at = next((i for i, (one, other) in enumerate(zip(text, back, strict=False)) if one != other), len(back))
    begin, end = max(0, at - 12), at + 12
    near = text[max(0, at - 64) : at + 64]
    advice = "choose a byte-level BPE, or a SentencePiece model with byte fallback and the identity normaliser"
    for token in spec.get("added_tokens") or []:
        if not token["special"] and token["content"] in near:
            flags = [name for name in ("lstrip", "rstrip") if token.get(name)]
            how = f" ({' and '.join(flags)}: it takes the spaces beside it)" if flags else ""
            advice = (
                f'its added token {token["content"]!r} is cut out of every text{how}; set "special": true for it in '
                "added_tokens, so that it is ordinary text there"
            )
    raise UserError(
        f"{origin}: this tokenizer does not keep text as it is: {text[begin:end]!r} comes back as "
        f"{back[begin:end]!r}; {advice}"
    )
