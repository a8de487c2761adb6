"""Filters of documents: a range for each measure of a text; all are off unless they are set.

The measures count characters, words (between white space) and lines (blank ones and the space around the others left
out); none knows a language, but a script that writes no spaces has words as long as its sentences. Sources, whose
thresholds the fields name:

- Gopher: Rae et al. 2021, arXiv 2112.11446, section A.1.1 and table A1;
- C4: Raffel et al. 2020, arXiv 1910.10683, section 2.2;
- FineWeb: Penedo et al. 2024, arXiv 2406.17557, section 3.6;
- RedPajama-V2: Weber et al. 2024, arXiv 2411.12372, appendix (the quality signals).
"""

import math
import re
import string
from collections import Counter
from collections.abc import Callable, Sequence
from functools import cached_property
from itertools import pairwise

from pydantic import model_validator

from isogloss.config.base import Config

BULLETS = ("•", "‣", "◦", "▪", "●", "■", "·", "- ", "* ", "+ ", "\N{EN DASH} ", "\N{EM DASH} ")
ELLIPSES = ("...", "…")
TERMINALS = tuple(".!?…\"'”’»" + "。！？．」』" + "।॥" + "؟۔" + "։።")  # noqa: RUF001
"""What a line of prose ends in: C4's period, exclamation and question mark and closing quote, in several scripts."""
SHORT_LINE = 30
PARAGRAPH_END = re.compile(r"\n\s*\n")
SYMBOL = re.compile(r"[^\w\s]|_")
LETTER = re.compile(r"[^\W\d_]")
ASCII_NO_SYMBOL = (string.ascii_letters + string.digits + string.whitespace + "\x1c\x1d\x1e\x1f").encode()


class Range(Config):
    """What a measure may be; a bound that is not given does not bind."""

    min: float | None = None
    """Texts with less are dropped."""
    max: float | None = None
    """Texts with more are dropped."""

    @model_validator(mode="after")
    def _ordered(self) -> "Range":
        if self.min is not None and self.max is not None and self.min > self.max:
            raise ValueError(f"min {self.min:g} is above max {self.max:g}: nothing would be kept")
        return self


class FilterConfig(Config):
    """Which documents are kept: those whose every measure lies in its range."""

    characters: Range = Range()
    """Length of the text in characters."""
    words: Range = Range()
    """Words (Gopher: 50 to 100,000)."""
    mean_word_length: Range = Range()
    """Characters a word, on average (Gopher: 3 to 10)."""
    symbols_per_word: Range = Range()
    """``#`` and ellipses for each word, whichever are more (Gopher: at most 0.1)."""
    alphabetic_words: Range = Range()
    """Share of words with a letter of any script (Gopher: at least 0.8)."""
    unique_words: Range = Range()
    """Share of words, as written, that differ from all before them (a signal of RedPajama-V2)."""
    top_bigram: Range = Range()
    """Share of the characters that the most frequent pair of words makes up (Gopher: at most 0.2)."""
    symbols: Range = Range()
    """Share of characters that are neither letter, digit nor white space."""
    bullet_lines: Range = Range()
    """Share of lines that start with a bullet (Gopher: at most 0.9)."""
    ellipsis_lines: Range = Range()
    """Share of lines that end in an ellipsis (Gopher: at most 0.3)."""
    terminal_lines: Range = Range()
    """Share of lines that end in terminal punctuation (C4 keeps such lines alone; FineWeb: at least 0.12)."""
    short_lines: Range = Range()
    """Share of lines of at most 30 characters (FineWeb: at most 0.67)."""
    duplicate_lines: Range = Range()
    """Share of lines that repeat an earlier one (Gopher: at most 0.3)."""
    duplicate_line_characters: Range = Range()
    """Share of the lines' characters that are in such lines (Gopher: at most 0.2; FineWeb: at most 0.01)."""
    duplicate_paragraphs: Range = Range()
    """Share of paragraphs (between blank lines) that repeat an earlier one (Gopher: at most 0.3)."""


class Text:
    """A text and its parts, each found once and only when a measure asks."""

    def __init__(self, text: str):
        self.text = text

    @cached_property
    def words(self) -> list[str]:
        """What stands between white space."""
        return self.text.split()

    @cached_property
    def lines(self) -> list[str]:
        """The lines without the space around them, blank ones left out."""
        return [line for line in map(str.strip, self.text.split("\n")) if line]

    @cached_property
    def paragraphs(self) -> list[str]:
        """What stands between blank lines."""
        return [part for part in map(str.strip, PARAGRAPH_END.split(self.text)) if part]


def characters(text: Text) -> float:
    """Length in characters."""
    return len(text.text)


def words(text: Text) -> float:
    """Number of words."""
    return len(text.words)


def mean_word_length(text: Text) -> float:
    """Characters a word (Gopher, A.1.1)."""
    return _share(len("".join(text.words)), text.words)


def symbols_per_word(text: Text) -> float:
    """The more frequent of ``#`` and the ellipsis, for each word (Gopher, A.1.1)."""
    return _share(max(text.text.count("#"), sum(map(text.text.count, ELLIPSES))), text.words)


def alphabetic_words(text: Text) -> float:
    """Share of words with at least one letter (Gopher, A.1.1)."""
    return _share(sum(word.isalpha() or LETTER.search(word) is not None for word in text.words), text.words)


def unique_words(text: Text) -> float:
    """Share of different words (RedPajama-V2, ``rps_doc_frac_unique_words``)."""
    return _share(len(set(text.words)), text.words)


def top_bigram(text: Text) -> float:
    """Share of characters within the most frequent pair of words (Gopher, table A1: top 2-gram)."""
    if len(text.words) < 2:
        return 0.0
    (pair, count), *_ = Counter(pairwise(text.words)).most_common(1)
    return 0.0 if count == 1 else count * len(" ".join(pair)) / len(text.text)


def symbols(text: Text) -> float:
    """Share of characters that are neither letter, digit nor white space (RedPajama-V2; BigScience's ROOTS, 2023)."""
    if text.text.isascii():
        return _share(len(text.text.encode().translate(None, ASCII_NO_SYMBOL)), text.text)
    return _share(sum(1 for _ in SYMBOL.finditer(text.text)), text.text)


def bullet_lines(text: Text) -> float:
    """Share of lines that start with a bullet (Gopher, A.1.1)."""
    return _share(sum(line.startswith(BULLETS) for line in text.lines), text.lines)


def ellipsis_lines(text: Text) -> float:
    """Share of lines that end in an ellipsis (Gopher, A.1.1)."""
    return _share(sum(line.endswith(ELLIPSES) for line in text.lines), text.lines)


def terminal_lines(text: Text) -> float:
    """Share of lines that end in terminal punctuation (C4, 2.2; FineWeb, 3.6)."""
    return _share(sum(line.endswith(TERMINALS) for line in text.lines), text.lines)


def short_lines(text: Text) -> float:
    """Share of lines of at most 30 characters (FineWeb, 3.6)."""
    return _share(sum(len(line) <= SHORT_LINE for line in text.lines), text.lines)


def duplicate_lines(text: Text) -> float:
    """Share of lines that repeat an earlier one (Gopher, table A1)."""
    return _share(len(text.lines) - len(set(text.lines)), text.lines)


def duplicate_line_characters(text: Text) -> float:
    """Share of the lines' characters that are in repeated lines (Gopher, table A1; FineWeb, 3.6)."""
    total = sum(map(len, text.lines))
    return (total - sum(map(len, set(text.lines)))) / max(total, 1)


def duplicate_paragraphs(text: Text) -> float:
    """Share of paragraphs that repeat an earlier one (Gopher, table A1)."""
    return _share(len(text.paragraphs) - len(set(text.paragraphs)), text.paragraphs)


def _share(part: float, whole: Sequence[object]) -> float:
    return part / max(len(whole), 1)


MEASURES: dict[str, Callable[[Text], float]] = {
    measure.__name__: measure
    for measure in (
        characters,
        words,
        mean_word_length,
        symbols_per_word,
        alphabetic_words,
        unique_words,
        top_bigram,
        symbols,
        bullet_lines,
        ellipsis_lines,
        terminal_lines,
        short_lines,
        duplicate_lines,
        duplicate_line_characters,
        duplicate_paragraphs,
    )
}
"""By the name of their field in ``FilterConfig``, the cheap ones first."""


class Filters:
    """The filters that a config sets.

    Args:
        config: the ranges.
    """

    def __init__(self, config: FilterConfig):
        ranges: dict[str, Range] = {name: getattr(config, name) for name in MEASURES}
        self._set = [(name, MEASURES[name], range_) for name, range_ in ranges.items() if range_ != Range()]

    def reason_to_drop(self, text: str) -> str | None:
        """The first range that a text is out of, such as ``words < 50``; None if it is kept.

        The work is linear in the text, some 50 ns for each word and measure.
        """
        view = Text(text)
        for name, measure, allowed in self._set:
            value = measure(view)
            if value < (-math.inf if allowed.min is None else allowed.min):
                return f"{name} < {allowed.min:g}"
            if value > (math.inf if allowed.max is None else allowed.max):
                return f"{name} > {allowed.max:g}"
        return None
