"""Kernels that cannot train on a device are refused, by the mixer that has them."""

import pytest
import torch

from isogloss.config.base import UserError
from isogloss.mixers.attention import AttentionConfig
from isogloss.mixers.registry import create_mixer
from isogloss.nn.multipliers import Multipliers


@pytest.mark.parametrize("backend", ["auto", "sdpa", "plain", "flex"])
def test_flex_trains_on_gpus_only(backend: str) -> None:
    with torch.device("meta"):
        mixer = create_mixer(AttentionConfig(n_heads=2, backend=backend), 16, 1e-5, Multipliers())
    mixer.check_device("cuda")
    if backend == "flex":
        with pytest.raises(UserError, match="trains on GPUs only"):
            mixer.check_device("cpu")
    else:
        mixer.check_device("cpu")
