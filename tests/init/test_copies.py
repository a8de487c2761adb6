"""Copied numbers are found wherever they stand, and independent numbers are never called copies."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from isogloss.build import materialise, plan_model
from isogloss.init.copies import N_RUNS, CopiedRuns, find_copies, run_density, sample_runs
from isogloss.init.schemes import LinguaConfig
from isogloss.init.verify import Finding, verify_weights
from isogloss.models.decoder import DecoderConfig

CONFIG = DecoderConfig.model_validate({"d_model": 160, "n_layers": 3, "vocab_size": 300, "mixer": {"n_heads": 5}})
Q, OUT, FIRST_DOWN, DOWN, UP, HEAD = (
    "layers.0.mixer.q_proj.weight",
    "layers.2.mixer.o_proj.weight",
    "layers.0.ffn.down_proj.weight",
    "layers.1.ffn.down_proj.weight",
    "layers.1.ffn.up_proj.weight",
    "head.weight",
)


def verified(change: Callable[[dict[str, Tensor]], object], dtype: torch.dtype = torch.float32) -> list[Finding]:
    planned = plan_model(CONFIG, LinguaConfig())
    model = materialise(planned, seed=0, device=torch.device("cpu"))
    with torch.no_grad():
        change({name: tensor.data for name, tensor in model.named_parameters()})
    return verify_weights(model.to(dtype), planned.plan)


def flipped(x: Tensor) -> Tensor:
    return x * torch.randint(0, 2, x.shape, generator=torch.Generator().manual_seed(1)).mul(2).sub(1)


COPIES: dict[str, tuple[Callable[[dict[str, Tensor]], object], str, str]] = {
    "a second shard like the next layer's first": (
        lambda p: p["layers.1.mixer.q_proj.weight"][:80].copy_(p[Q][80:]),
        "layers.1.mixer.q_proj.weight",
        Q,
    ),
    "rows beyond the corner": (lambda p: p[OUT][100:120].copy_(0.354 * p[Q][90:110]), OUT, Q),
    "columns beyond the corner": (lambda p: p[OUT][:, 100:120].copy_(0.354 * p[Q][:, 90:110]), OUT, Q),
    "shifted by a row and a column": (lambda p: p[OUT][1:, 1:].copy_(0.354 * p[Q][:-1, :-1]), OUT, Q),
    "transposed": (lambda p: p[OUT].copy_(0.354 * p[Q].T), OUT, Q),
    "transposed, between widths": (
        lambda p: p[UP].copy_(p["layers.0.ffn.down_proj.weight"].T * 7.9),
        UP,
        "layers.0.ffn",
    ),
    "another sign": (lambda p: p[OUT][70:].copy_(-0.354 * p[Q][70:]), OUT, Q),
    "signs at random": (lambda p: p[OUT].copy_(0.354 * flipped(p[Q])), OUT, Q),
    "turned by a half": (lambda p: p[OUT].copy_(0.354 * p[Q].flip(0, 1)), OUT, Q),
    "rows in another order": (lambda p: p[OUT].copy_(0.354 * p[Q].roll(80, 0)), OUT, Q),
    "a block of its own": (lambda p: p[OUT][100:140, 90:150].copy_(p[OUT][10:50, 10:70]), OUT, OUT),
    "symmetric": (lambda p: p[OUT].copy_(p[OUT].tril() + p[OUT].tril(-1).T), OUT, OUT),
    "a block into another shape": (lambda p: p[HEAD][200:250, 20:120].copy_(p[DOWN][30:80, 200:300]), HEAD, DOWN),
    "one stream of numbers for other widths": (
        lambda p: p[DOWN].view(-1)[5000:30000].copy_(p[Q].view(-1)[:25000] * 0.217),
        DOWN,
        Q,
    ),
}


@pytest.mark.parametrize(("change", "where", "other"), COPIES.values(), ids=COPIES.keys())
def test_a_copy_is_found_wherever_it_stands(change, where: str, other: str) -> None:
    found = [f for f in verified(change) if f.test in ("copies", "rows", "correlation")]
    assert [f.parameter for f in found] == [where]
    assert found[0].test == "copies"
    assert ("elsewhere in it" if other == where else f"in {other}") in found[0].what


def test_copies_are_found_in_low_precision_too() -> None:
    found = verified(lambda p: p[OUT].copy_(0.354 * p[Q].T), torch.bfloat16)
    assert (OUT, "copies") in {(f.parameter, f.test) for f in found}


def test_an_example_of_a_copy_is_where_it_is() -> None:
    x, y = torch.randn(64, 50), torch.randn(80, 100)
    y[20:70, 30:94] = x.T
    (found,) = copies(x, y)
    assert (found.name, found.other) == ("1", "0")
    assert y[found.place] == x[found.other_place]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("law", [torch.randn, torch.rand], ids=["normal", "uniform"])
def test_independent_numbers_are_no_copies(law, dtype: torch.dtype) -> None:
    """As many runs as of the largest model."""
    torch.manual_seed(0)
    half = 0.5 if law is torch.rand else 0.0
    matrices = [(law(1024, 1024) - half).to(dtype) for _ in range(4)]
    assert copies(*matrices) == []
    n_runs = sum(len(sample_runs(x, run_density(4 * 2**20)).hashes) for x in matrices)
    assert 0.75 * N_RUNS < n_runs < 1.75 * N_RUNS


def test_the_sample_does_not_grow_with_the_model() -> None:
    x = torch.randn(2048, 512)
    few, many = (len(sample_runs(x, run_density(n)).hashes) for n in (2**30, 2**20))
    assert few < N_RUNS * 2**20 / 2**30 * 2
    assert many < 2 * x.numel() / 30


def test_zeros_and_numbers_that_are_not_finite_are_no_runs() -> None:
    x = torch.zeros(64, 64)
    x[:32] = torch.nan
    assert len(sample_runs(x, 1 / 32).hashes) == 0


def test_shards_give_what_the_whole_gives() -> None:
    torch.manual_seed(0)
    x = torch.randn(128, 128)
    y = torch.cat([x[64:], torch.randn(64, 128)])
    density = run_density(x.numel() * 2)

    def cut(z: Tensor, dim: int) -> list:
        return [
            (sample_runs(part, density), tuple(32 * i * (d == dim) for d in range(2)), tuple(part.shape))
            for i, part in enumerate(z.split(32, dim))
        ]

    for dim in (0, 1):
        (found,) = find_copies({"x": cut(x, dim), "y": cut(y, dim)})
        assert (found.name, found.other) == ("y", "x")
        assert y[found.place] == x[found.other_place]


def copies(*matrices: Tensor) -> list[CopiedRuns]:
    density = run_density(sum(x.numel() for x in matrices))
    shards = {str(i): [(sample_runs(x, density), (0, 0), tuple(x.shape))] for i, x in enumerate(matrices)}
    return find_copies(shards)
