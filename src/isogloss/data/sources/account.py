"""Records and files that reading leaves out, counted by reason, and the messages about them."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

from isogloss.config.quantity import count
from isogloss.data.sources.bad_input import BadInput
from isogloss.data.sources.files import is_by_ending
from isogloss.data.sources.records import BadRecord, Dropped, Suspicion
from isogloss.data.sources.suspicion import mending
from isogloss.data.sources.tally import Tallies, Tally, count_one, in_words, total


@dataclass
class Account:
    """Counts of what is not read, and of what is odd; more bad records than ``max_bad`` end the reading."""

    max_bad: int = 0
    passed_over: Tallies = field(default_factory=dict)
    dropped: Counter[str] = field(default_factory=Counter)
    suspicious: Tallies = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.bad = BadInput(None, self.max_bad)

    def add(self, record: BadRecord | Dropped | Suspicion) -> None:
        """Count what is no document.

        Raises:
            UserError: it is one bad record too many.
        """
        match record:
            case BadRecord():
                self.bad.add(record)
            case Dropped():
                self.dropped[record.reason] += 1
            case Suspicion():
                count_one(self.suspicious, record.what, record.where)

    @property
    def left_out(self) -> dict[str, int]:
        """Records that are not read, by reason."""
        bad = {"bad records": self.bad.n_bad} if self.bad.n_bad else {}
        return dict(sorted(self.dropped.items())) | bad

    def sentences(self) -> list[str]:
        """What is to be told of them all."""
        left_out = [f"left out: {count_in_words(self.left_out)}"] if self.left_out else []
        return [
            *tell_passed_over(self.passed_over),
            *left_out,
            *self.bad.shown(),
            *tell_suspicious(self.suspicious),
        ]


_SINGULAR = {
    "copies": "copy",
    "near copies": "near copy",
    "bad records": "bad record",
    "unreadable files": "unreadable file",
}


def count_in_words(counts: Mapping[str, int]) -> str:
    """Counts and what they are of."""
    named = {reason: count(n, _SINGULAR.get(reason, reason), reason) for reason, n in counts.items() if n}
    return ", ".join(named.values()) or "nothing"


def tell_passed_over(tallies: Mapping[str, Tally]) -> list[str]:
    """The files that were found and are not read."""
    if not tallies:
        return []
    n = total(tallies)
    hint = "; a glob such as 'texts/**/*.md' reads other endings as text" if any(map(is_by_ending, tallies)) else ""
    return [f"not read: {count(n, 'file or folder', 'files or folders')}: {in_words(tallies)}{hint}"]


def tell_suspicious(tallies: Mapping[str, Tally]) -> list[str]:
    """What is odd about documents that are read, and what mends it."""
    return [
        f"warning: {count(tally.n, 'document')} {what} "
        f"({tally.first}{'' if tally.n == 1 else ', ...'}): {mending(what)}"
        for what, tally in tallies.items()
    ]
