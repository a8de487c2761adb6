"""Counts and sizes as a person reads them."""

import pytest

from isogloss.config.quantity import count, size


@pytest.mark.parametrize(
    ("n", "text"), [(0, "0 documents"), (1, "1 document"), (2, "2 documents"), (1234, "1,234 documents")]
)
def test_one_is_singular(n: int, text: str) -> None:
    assert count(n, "document") == text
    assert count(2, "copy", "copies") == "2 copies"


@pytest.mark.parametrize(
    ("n_bytes", "text"),
    [(0, "0 bytes"), (1, "1 byte"), (1000, "1.0 KiB"), (3 * 2**20, "3.0 MiB"), (0.2 * 2**30, "0.2 GiB"),
     (5e7, "48 MiB"), (34.2 * 2**30, "34 GiB")],
)  # fmt: skip
def test_what_is_something_is_never_shown_as_nothing(n_bytes: float, text: str) -> None:
    assert size(n_bytes) == text
