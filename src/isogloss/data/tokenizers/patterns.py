r"""The regular expressions that cut text into pieces before the merging, each of which covers every text.

They are written in what Oniguruma (Hugging Face tokenizers) and fancy-regex (tiktoken) read alike: no possessive
``{1,3}+``, which the first takes for a repeat. ``tests`` compare the two engines over all code points.

ISOGLOSS follows GPT-4's: contractions, words with one leading space or sign, digits in threes, signs with the line
breaks after them, and a run of spaces (an indentation) as one piece but for the last, which belongs to the word that
follows. It differs in counting combining marks as parts of words, without which Hindi is cut inside its syllables.
"""

_CONTRACTION = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_UPPER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]"
_LOWER = r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
_SPACES = r"\s*[\r\n]+|\s+(?!\S)|\s+"

ISOGLOSS = (
    r"'(?:[sStTmMdD]|[lL][lL]|[vV][eE]|[rR][eE])|[^\r\n\p{L}\p{M}\p{N}]?[\p{L}\p{M}]+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|" + _SPACES
)
GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"

PATTERNS = {
    "isogloss": ISOGLOSS,
    "gpt2": GPT2,
    "cl100k": _CONTRACTION + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|" + _SPACES,
    "qwen2": _CONTRACTION + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|" + _SPACES,
    "o200k": (
        rf"[^\r\n\p{{L}}\p{{N}}]?{_UPPER}*{_LOWER}+{_CONTRACTION}?|[^\r\n\p{{L}}\p{{N}}]?{_UPPER}+{_LOWER}*{_CONTRACTION}?"
        r"|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|" + _SPACES
    ),
}
"""By name, as ``FileConfig.pattern`` takes them."""
