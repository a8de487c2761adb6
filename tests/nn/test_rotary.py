"""Rotary positions are relative, keep lengths, and are scaled as transformers scales them."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from isogloss.nn.rotary import RotaryConfig, frequencies, rotate, rotations

SCALINGS = {
    "none": None,
    "linear": {"type": "linear", "factor": 3.0},
    "llama3": {"type": "llama3", "factor": 8.0, "original_seq_len": 64},
    "yarn": {"type": "yarn", "factor": 4.0, "original_seq_len": 64},
    "yarn, sharp": {"type": "yarn", "factor": 4.0, "original_seq_len": 2048, "beta_fast": 8.0, "beta_slow": 2.0},
}


def config_of(name: str, theta: float = 10_000.0) -> RotaryConfig:
    return RotaryConfig.model_validate({"theta": theta, "scaling": SCALINGS[name]})


@given(
    st.sampled_from(list(SCALINGS)), st.integers(0, 3000), st.integers(0, 3000), st.integers(0, 100_000), st.integers(0)
)
def test_products_depend_on_the_distance_alone(name, first, second, shift, seed):
    generator = torch.Generator().manual_seed(seed % 2**32)
    q, k = (torch.randn(16, generator=generator).expand(1, 1, 2, 16) for _ in range(2))

    def products(shift: int):
        cos, sin = rotations(config_of(name), 16, torch.tensor([first + shift, second + shift]))
        return (rotate(q, cos, sin)[..., :1, :] * rotate(k, cos, sin)[..., 1:, :]).sum()

    torch.testing.assert_close(products(shift), products(0), rtol=0, atol=1e-4)


@pytest.mark.parametrize("name", SCALINGS)
def test_lengths_are_kept_but_for_yarns_factor(name):
    x = torch.randn(2, 3, 40, 16, generator=torch.Generator().manual_seed(0))
    cos, sin = rotations(config_of(name), 16, torch.arange(40))
    factor = 0.1 * math.log(4.0) + 1 if name.startswith("yarn") else 1.0
    torch.testing.assert_close(rotate(x, cos, sin).norm(dim=-1), factor * x.norm(dim=-1))


def test_position_0_turns_nothing():
    cos, sin = rotations(RotaryConfig(), 16, torch.arange(1))
    x = torch.randn(1, 1, 1, 16)
    assert torch.equal(rotate(x, cos, sin), x)


def test_far_positions_are_exact():
    position = 1_000_003
    cos, _ = rotations(RotaryConfig(), 4, torch.tensor([position]))
    assert float(cos[0, 1]) == pytest.approx(math.cos(position / 100), abs=1e-6)


@pytest.mark.parametrize("theta", [10_000.0, 500_000.0])
@pytest.mark.parametrize("head_dim", [8, 64])
@pytest.mark.parametrize("name", [name for name in SCALINGS if name != "none"])
def test_scaling_equals_transformers(name, head_dim, theta):
    transformers = pytest.importorskip("transformers")
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    scaling = dict(SCALINGS[name])
    kind = scaling.pop("type")
    if kind == "llama3":
        scaling |= {"low_freq_factor": 1.0, "high_freq_factor": 4.0}
    if "original_seq_len" in scaling:
        scaling["original_max_position_embeddings"] = scaling.pop("original_seq_len")
    theirs = transformers.LlamaConfig(
        hidden_size=4 * head_dim,
        num_attention_heads=4,
        max_position_embeddings=8192,
        rope_parameters={"rope_type": kind, "rope_theta": theta, **scaling},
    )
    expected, expected_factor = ROPE_INIT_FUNCTIONS[kind](theirs)
    found, factor = frequencies(config_of(name, theta), head_dim)
    torch.testing.assert_close(found.float(), expected, rtol=1e-5, atol=0)
    assert factor == pytest.approx(expected_factor)
