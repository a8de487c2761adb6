"""Kernels that cannot train on a device are refused, by the mixer that has them; and which one is taken on a GPU."""

import pytest
import torch

from isogloss.config.base import UserError
from isogloss.mixers import attention as module
from isogloss.mixers.attention import Attention, AttentionConfig
from isogloss.mixers.registry import create_mixer
from isogloss.nn.multipliers import Multipliers


@pytest.fixture
def compiler(monkeypatch):
    """Whether kernels can be compiled."""
    monkeypatch.setattr(module, "compiler_found", lambda device: True)
    return lambda found: monkeypatch.setattr(module, "compiler_found", lambda device: found)


def make(**fields) -> Attention:
    with torch.device("meta"):
        return create_mixer(AttentionConfig(n_heads=2, **fields), 32, 1e-5, Multipliers())


@pytest.mark.parametrize("backend", ["auto", "sdpa", "plain", "flex"])
def test_flex_trains_on_gpus_only(backend: str, compiler) -> None:
    mixer = make(backend=backend)
    mixer.check_device("cuda")
    compiler(False)
    if backend == "flex":
        with pytest.raises(UserError, match="trains on GPUs only"):
            mixer.check_device("cpu")
        with pytest.raises(UserError, match="a C compiler"):
            mixer.check_device("cuda")
    else:
        mixer.check_device("cpu")
        mixer.check_device("cuda")


def test_what_auto_takes_on_a_gpu(compiler) -> None:
    plain, window, capped, shared = make(), make(window=4), make(softcap=3.0), make()
    shared.gather = lambda x, dim: x  # of rows that ranks share, each sees other positions than its own

    def taken(mixer: Attention, documents: bool = False) -> str:
        return mixer.backend("cuda", 64, documents, False)

    assert taken(plain) == "sdpa"
    assert [taken(plain, True), taken(window), taken(capped), taken(shared)] == ["flex"] * 4
    assert taken(make(head_dim=8, window=4)) == "sdpa", "flex has no kernels for so narrow heads"
    compiler(False)
    assert [taken(plain, True), taken(window), taken(capped), taken(shared)] == ["sdpa", "sdpa", "plain", "sdpa"]
