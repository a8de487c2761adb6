"""Which weights are gathered at once."""

from hypothesis import given
from hypothesis import strategies as st

from isogloss.parallel.fsdp import find_units


@given(st.integers(1, 40), st.integers(1, 50), st.integers(1, 2000))
def test_blocks_are_spread_evenly_over_as_many_units_as_are_large_enough(n_blocks: int, size: int, least: int) -> None:
    units = find_units([size] * n_blocks, None, least)
    assert [block for run in units.blocks for block in run] == list(range(n_blocks))
    lengths = {len(run) for run in units.blocks}
    assert max(lengths) - min(lengths) <= 1
    mean = n_blocks * size / len(units.blocks)
    assert mean >= min(least, n_blocks * size)
    assert len(units.blocks) == n_blocks or n_blocks * size / (len(units.blocks) + 1) < least, "and there are no fewer"


def test_a_large_embedding_is_a_unit_of_its_own_unless_it_is_tied() -> None:
    assert [find_units([5, 5], size, 6).embedding for size in (6, 5, None)] == [True, False, False]
