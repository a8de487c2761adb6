import numpy as np

from isogloss.data.counter import Draws


def test_words_depend_on_place_alone() -> None:
    rows = np.array([5, 0, 2**60])
    words = Draws("a", rows).words("x", 7)
    np.testing.assert_array_equal(Draws("a", rows[1:2]).words("x", 3)[0], words[1, :3])
    assert (Draws("b", rows).words("x", 7) != words).all()
    assert (Draws("a", rows).words("y", 7) != words).all()


def test_words_look_random() -> None:
    """Each bit is even, neighbours in rows and places share none, numbers below n are even."""
    draws = Draws("a", np.arange(4000))
    words = draws.words("x", 20)
    bits = np.unpackbits(words.view(np.uint8).reshape(4000, 20, 8), axis=2).astype(np.float64)
    error = 0.5 / np.sqrt(80_000)
    assert np.abs(bits.mean((0, 1)) - 0.5).max() < 5 * error
    assert np.abs((bits[1:] == bits[:-1]).mean((0, 1)) - 0.5).max() < 5 * error
    assert np.abs((bits[:, 1:] == bits[:, :-1]).mean((0, 1)) - 0.5).max() < 5 * error
    counts = np.bincount(draws.below("n", 20, 7).reshape(-1), minlength=7)
    assert ((counts - 80_000 / 7) ** 2 / (80_000 / 7)).sum() < 25  # chi-square, 6 degrees
    uniform = draws.uniform("u", 20)
    assert 0 < uniform.min() < uniform.max() < 1
    assert abs(uniform.mean() - 0.5) < 5 * np.sqrt(1 / 12 / 80_000)


def test_distinct_numbers() -> None:
    chosen = Draws("a", np.arange(3000)).distinct("d", 3, 6)
    assert all(len(set(row)) == 3 for row in chosen.tolist())
    for place in range(3):
        counts = np.bincount(chosen[:, place], minlength=6)
        assert ((counts - 500) ** 2 / 500).sum() < 25
