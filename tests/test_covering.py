from itertools import combinations

from covering import Row, cover

CHOICES = {"a": ["1", "2", "3"], "b": ["1", "2"], "c": ["1", "2", "3", "4"], "d": ["1", "2"], "e": ["1", "2"]}


def allowed(row: Row) -> bool:
    return (row["a"], row["c"]) != ("1", "1") and row["b"] + row["d"] != "12"


def test_any_two_that_can_stand_together_do() -> None:
    refused: list[Row] = []
    rows = list(cover(CHOICES, allowed, seed=1, left=refused))
    covered = {frozenset(pair) for row in rows for pair in combinations(row.items(), 2)}
    pairs = {frozenset([(a, x), (b, y)]) for a, b in combinations(CHOICES, 2) for x in CHOICES[a] for y in CHOICES[b]}
    assert pairs - covered == {frozenset([("a", "1"), ("c", "1")]), frozenset([("b", "1"), ("d", "2")])}
    assert all(allowed(row) for row in rows)
    assert len(refused) == 2
    assert len(rows) < 24  # of 96
    assert rows == list(cover(CHOICES, allowed, seed=1))
