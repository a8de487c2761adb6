"""Covering arrays: rows of choices in which every two choices that can stand together do, in some row.

Rows are made one by one, each from a pair not covered yet and greedily after that, the best of some drafts: the idea of
AETG (Cohen et al. 1997). A few dozen rows cover what would take millions to enumerate.
"""

import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import combinations

Row = dict[str, str]
DRAFTS = 20


def cover(
    choices: Mapping[str, Sequence[str]], allowed: Callable[[Row], bool], seed: int, left: list[Row] | None = None
) -> Iterator[Row]:
    """Rows until every pair of options is in one, or no draft that has it is allowed.

    Args:
        choices: by name, its options.
        allowed: whether a row can be had; asked of a few drafts a row.
        seed: decides the rows.
        left: is given a draft for each pair that no allowed one was found for.
    """
    generator = random.Random(seed)
    names = list(choices)
    missing = dict.fromkeys(((a, x), (b, y)) for a, b in combinations(names, 2) for x in choices[a] for y in choices[b])
    while missing:
        first = generator.choice(list(missing))
        drafts = [_draft(choices, dict(first), missing, generator) for _ in range(DRAFTS)]
        drafts.sort(key=lambda row: -sum(pair in missing for pair in combinations(row.items(), 2)))
        # What covers most may be what is refused: then any row will do.
        drafts += [{name: generator.choice(list(choices[name])) for name in choices} | dict(first) for _ in drafts]
        row = next((row for row in drafts if allowed(row)), None)
        if row is None:
            del missing[first]
            if left is not None:
                left.append(drafts[0])
            continue
        for pair in combinations(row.items(), 2):
            missing.pop(pair, None)
        yield row


def _draft(choices: Mapping[str, Sequence[str]], row: Row, missing: Mapping, generator: random.Random) -> Row:
    """A row with what is given, and of everything else, in any order, the option that covers most."""
    place = {name: number for number, name in enumerate(choices)}

    def gain(name: str, option: str) -> int:
        pairs = (sorted(((name, option), other), key=lambda one: place[one[0]]) for other in row.items())
        return sum(tuple(pair) in missing for pair in pairs)

    for name in generator.sample(sorted(choices.keys() - row.keys()), len(choices) - len(row)):
        options = generator.sample(list(choices[name]), len(choices[name]))
        row[name] = max(options, key=lambda option: gain(name, option))
    return {name: row[name] for name in choices}
