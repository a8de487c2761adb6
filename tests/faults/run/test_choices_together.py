"""A run's choices taken together: of every two that can stand together, some run has both (`covering`, `pair_choices`).

``ISOGLOSS_FAULTS`` is the percentage of the covering array that is gone through: 100 is all of it, every thirtieth run
compiled.
"""

import json
import os
from pathlib import Path
from typing import Any

import pytest

import pair_choices as choices
import pair_jobs
import ranks
from covering import Row, cover

FAULTS = int(os.environ.get("ISOGLOSS_FAULTS", "0"))
many = pytest.mark.skipif(FAULTS == 0, reason="a longer campaign: make faults")
COMPILED = 30
SECONDS = 3000


def found(tiny: Path, cases: dict[int, Row]) -> dict[int, list[str]]:
    """What four processes find of each case that they come to."""
    processes = ranks.start(pair_jobs.work, choices.RANKS, cases, str(tiny.parent), launched=True)
    ranks.end(processes, SECONDS)
    said: dict[int, list[str]] = {}
    for line in (tiny.parent / "found").read_text().splitlines():
        values: dict[str, Any] = json.loads(line)
        said.setdefault(values["case"], []).extend(values["found"])
    return said


@pytest.mark.campaign(25)
@many
def test_any_two_choices_together_do_what_each_does(tiny: Path) -> None:
    rows = list(cover(choices.CHOICES, lambda row: choices.can_be_had(row, tiny.parent), seed=0))
    cases = dict(list(enumerate(rows))[: max(1, len(rows) * FAULTS // 100)])
    for number in list(cases)[COMPILED - 1 :: COMPILED]:
        cases[number] |= {"compiled": "yes"}
    said = found(tiny, cases)
    assert list(said) == list(cases)
    wrong = {number: texts for number, texts in said.items() if texts}
    assert not wrong, "\n".join(f"{cases[number]}: {texts}" for number, texts in wrong.items())


@pytest.mark.control(25)
@many
@pytest.mark.parametrize(
    ("guard", "words"), [("letting go", "a checkpoint would lack"), ("moments", "gone on with: optimizer")]
)
def test_without_a_guard_it_is_seen(tiny: Path, guard: str, words: str) -> None:
    row = {name: options[0] for name, options in choices.CHOICES.items()} | {"without": guard}
    assert words in str(found(tiny, {0: row})[0])
