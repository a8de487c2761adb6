from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from isogloss.data.rows.order import permute

KEYS = st.integers(0, 2**64 - 1)


@settings(deadline=None)
@given(st.integers(1, 3000), KEYS)
def test_permute_is_a_bijection(n, key):
    image = permute(np.arange(n), n, key)
    np.testing.assert_array_equal(np.sort(image), np.arange(n))


@settings(deadline=None)
@given(st.integers(1, 2**40), KEYS, st.data())
def test_permute_acts_entry_by_entry_and_stays_inside(n, key, data):
    entries = np.array(data.draw(st.lists(st.integers(0, n - 1), min_size=1, max_size=20, unique=True)))
    image = permute(entries, n, key)
    assert ((image >= 0) & (image < n)).all()
    assert len(set(image.tolist())) == len(entries)
    np.testing.assert_array_equal(image, [permute(entries[i : i + 1], n, key)[0] for i in range(len(entries))])


def test_permute_reaches_all_orders_of_few_entries_evenly():
    counts = Counter(tuple(permute(np.arange(4), 4, key)) for key in range(1200))
    assert len(counts) == 24
    chi_square = sum((count - 50) ** 2 / 50 for count in counts.values())
    assert chi_square < 49.7  # the 99.9th percentile with 23 degrees of freedom


@pytest.mark.parametrize("n", [1000, 4096, 10_007])
def test_permute_mixes_well(n):
    """Displacements, neighbours and fixed points are those of a random permutation, within five standard errors."""
    keys = range(50)
    images = np.stack([permute(np.arange(n), n, key) for key in keys]) / n
    place = np.arange(n) / n
    samples = len(keys) * n
    # Two independent uniform numbers differ by 1/3 on average, with variance 1/18.
    tolerance = 5 * (1 / 18 / samples) ** 0.5 + 1 / n
    assert abs(np.abs(images - place).mean() - 1 / 3) < tolerance
    assert abs(np.abs(np.diff(images)).mean() - 1 / 3) < tolerance
    assert abs(np.abs(images[1:] - images[:-1]).mean() - 1 / 3) < tolerance  # across neighbouring keys
    assert (images == place).sum() < 50 + 5 * 50**0.5  # one fixed point each on average
    # Each tenth of the entries lands evenly on each tenth of the places.
    table = np.histogram2d(np.tile(place, len(keys)), images.ravel(), bins=10, range=[[0, 1], [0, 1]])[0]
    assert np.abs(table - samples / 100).max() < 5 * (samples / 100) ** 0.5
