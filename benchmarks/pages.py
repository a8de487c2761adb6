"""Generated tables within pages: found by their markers, put in place, compared; tables without markers are refused.

A page has ``<!-- table: NAME -->`` and ``<!-- end of table -->`` on lines of their own, and between them what
``benchmarks/tables.py`` makes of the name.
"""

import re
from collections.abc import Iterator
from difflib import unified_diff

BEGIN, END = "<!-- table: {} -->", "<!-- end of table -->"
_BEGINNING = re.compile(r"<!-- table: (\S+) -->")
# The line below a heading is what makes a table in Markdown: cells of dashes, with at least one bar.
_RULE = re.compile(r"\s*(?=[^|]*\|)\|?(\s*:?-+:?\s*\|)*\s*(:?-+:?)?\s*")


class PageError(ValueError):
    """A page whose tables cannot be told: says which line, and what to do."""


def blocks(page: str) -> Iterator[tuple[str | None, list[str]]]:
    """A page's lines in pieces: ``(name, body)`` of each generated table without its markers, ``(None, lines)`` around.

    Raises:
        PageError: markers do not pair up, or a table stands outside them.
    """
    name, piece, fenced = None, [], False
    for number, line in enumerate(page.split("\n"), 1):
        beginning = _BEGINNING.fullmatch(line.strip())
        if name is None:
            fenced ^= line.lstrip().startswith("```")
            if fenced:
                beginning = None
            elif line.strip() == END:
                raise PageError(f"line {number}: a table ends that has not begun")
            elif (_RULE.fullmatch(line) and piece and "|" in piece[-1]) or "<table" in line:
                raise PageError(
                    f"line {number}: a table made by hand; write a function for it in benchmarks/tables.py and put "
                    f"{BEGIN.format('NAME')} and {END} here, or make it a list"
                )
        elif beginning:
            raise PageError(f"line {number}: a table begins within the table {name}")
        if beginning:
            yield None, piece
            name, piece = beginning[1], []
        elif name is not None and line.strip() == END:
            yield name, piece
            name, piece = None, []
        else:
            piece.append(line)
    if name is not None:
        raise PageError(f"the table {name} has no {END}")
    yield None, piece


def joined(pieces: list[tuple[str | None, list[str]]]) -> str:
    """The page that `blocks` took apart."""
    lines = []
    for name, body in pieces:
        lines += body if name is None else [BEGIN.format(name), *body, END]
    return "\n".join(lines)


def difference(name: str, found: list[str], made: list[str], longest: int = 8) -> str:
    """The first lines that differ, as a diff."""
    lines = [line for line in unified_diff(found, made, lineterm="", n=0) if line[:3] not in ("---", "+++")]
    more = [f"  … {len(lines) - longest} lines more"] if len(lines) > longest else []
    return "\n".join([f"the table {name} is stale:", *(f"  {line}" for line in lines[:longest]), *more])
