"""Signatures are checked while tests run: without this they might cease to be, and no test would tell."""

import numpy as np
import pytest
import torch
from beartype.roar import BeartypeCallHintParamViolation
from jaxtyping import TypeCheckError

from isogloss.data.rows.fitting import RowTable
from isogloss.init.apply import local_part
from isogloss.nn.linear import Embedding
from isogloss.nn.loss import chunk_loss
from isogloss.nn.rotary import RotaryConfig, rotations
from isogloss.train.beats import describe


def test_sizes_agree_among_the_arguments_of_a_call_and_in_a_dataclass() -> None:
    with pytest.raises(TypeCheckError, match="'targets'"):
        chunk_loss(torch.zeros(3, 5), torch.zeros(4, dtype=torch.int64), -100, None, 0.0)
    with pytest.raises(TypeCheckError):
        rotations(RotaryConfig(), 8, torch.zeros(4))
    ints = np.zeros(3, np.int64)
    with pytest.raises(TypeCheckError):
        RowTable(ints, ints[:2], ints)


def test_types_are_checked_where_no_shape_is_named() -> None:
    with pytest.raises(BeartypeCallHintParamViolation):
        describe({}, {}, 3, 1.0, 2)  # pyright: ignore
    with pytest.raises(BeartypeCallHintParamViolation):
        local_part(3)  # pyright: ignore
    with pytest.raises(BeartypeCallHintParamViolation):
        Embedding("50", 8)  # pyright: ignore
    assert describe({}, {}, "leaving", 1, 0).startswith("leaving"), "an int passes for a float"
