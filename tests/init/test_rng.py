"""The counter-based generator: uniform, uncorrelated, and each element a function of its own place."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from isogloss.init.rng import Uniforms, stream_key


def uniform(key: tuple[int, int], rows: tuple[int, int], columns: tuple[int, int]) -> torch.Tensor:
    size = (rows[1] - rows[0]) * (columns[1] - columns[0])
    return Uniforms(size, torch.device("cpu")).block(key, rows, columns)


def splitmix_reference(key: tuple[int, int], row: int, column: int) -> float:
    """The same hash in Python's unbounded integers."""
    mask = (1 << 64) - 1

    def mix(x: int) -> int:
        x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & mask
        x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & mask
        return x ^ (x >> 31)

    state = mix(mix((row + key[0]) & mask) ^ (key[1] & mask))
    bits = mix((state + (column + 1) * 0x9E3779B97F4A7C15) & mask)
    signed = bits - (1 << 64) if bits >= 1 << 63 else bits
    return float(signed) * (2.0**-63 * (1 - 2.0**-53))


@given(st.integers(0, 2**40), st.text(max_size=8), st.integers(0, 2**30), st.integers(0, 2**30))
def test_tensor_form_equals_integers(seed: int, name: str, row: int, column: int) -> None:
    key = stream_key(seed, name)
    found = uniform(key, (row, row + 1), (column, column + 1)).item()
    assert found == splitmix_reference(key, row, column)


def test_a_block_is_the_same_alone_and_within_the_whole() -> None:
    key = stream_key(7, "layers.0.mixer.q_proj.weight")
    whole = uniform(key, (0, 20), (0, 30))
    assert torch.equal(whole[3:11, 5:30], uniform(key, (3, 11), (5, 30)))


def test_uniform_by_kolmogorov_and_smirnov() -> None:
    u = (uniform(stream_key(0, "w"), (0, 1000), (0, 1000)).flatten().sort().values + 1) / 2
    n = len(u)
    distance = (u - (torch.arange(n, dtype=torch.float64) + 0.5) / n).abs().max() * n**0.5
    assert distance < 1.95  # exceeded by chance once in a thousand


@pytest.mark.parametrize(
    "other",
    [
        lambda: uniform(stream_key(1, "w"), (0, 500), (0, 500)),
        lambda: uniform(stream_key(0, "v"), (0, 500), (0, 500)),
        lambda: uniform(stream_key(0, "w"), (1, 501), (0, 500)),
        lambda: uniform(stream_key(0, "w"), (0, 500), (1, 501)),
        lambda: uniform(stream_key(0, "w"), (500, 1000), (0, 500)),
    ],
    ids=["seed", "name", "row-lag", "column-lag", "rows-below"],
)
def test_streams_and_lags_are_uncorrelated(other) -> None:
    a, b = uniform(stream_key(0, "w"), (0, 500), (0, 500)), other()
    z = (a * b).mean() / (1 / 3) * 500
    assert abs(z) < 4.5
