"""Counts by reason, each with the first place where the reason applied: what a report needs to name a file."""

from collections.abc import Iterable, Mapping

from isogloss.config.base import Config


class Tally(Config):
    """A count, and its first place."""

    n: int
    first: str
    """The file, with a record's number where one is meant."""


Tallies = dict[str, Tally]
"""By reason."""


def count_one(tallies: Tallies, reason: str, where: str) -> None:
    """Count one more."""
    merge(tallies, {reason: Tally(n=1, first=where.encode("utf-8", "backslashreplace").decode())})


def merge(tallies: Tallies, others: Mapping[str, Tally]) -> None:
    """Add other counts; the first place stays the one that came first."""
    for reason, more in others.items():
        known = tallies.get(reason)
        tallies[reason] = more if known is None else Tally(n=known.n + more.n, first=known.first)


def total(tallies: Mapping[str, Tally]) -> int:
    """Over all reasons."""
    return sum(tally.n for tally in tallies.values())


def in_words(tallies: Mapping[str, Tally]) -> str:
    """The counts with their reasons and first places, the largest first."""
    ordered: Iterable[tuple[str, Tally]] = sorted(tallies.items(), key=lambda item: (-item[1].n, item[0]))
    return ", ".join(
        f"{tally.n:,} {reason} ({tally.first}{'' if tally.n == 1 else ', ...'})" for reason, tally in ordered
    )
