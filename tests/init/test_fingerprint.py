"""A fingerprint is of every bit in its place, whatever the blocks, and says which parameter differs."""

import pytest
import torch
from torch import nn

from isogloss.build import build_model
from isogloss.init.fingerprint import fingerprint, total_fingerprint
from isogloss.init.schemes import LinguaConfig
from isogloss.models.decoder import DecoderConfig
from isogloss.nn.roles import Declared, Role, declare

CONFIG = DecoderConfig.model_validate({"d_model": 32, "n_layers": 2, "vocab_size": 50, "mixer": {"n_heads": 2}})


def of(tensor: torch.Tensor) -> str:
    module = nn.Module()
    module.register_buffer("weight", tensor)
    declare(module, weight=Declared(Role.FFN_UP, 1, 1))
    return fingerprint(module)["weight"]


def test_equal_weights_have_equal_fingerprints_and_seeds_differ_in_every_matrix() -> None:
    models = [build_model(CONFIG, LinguaConfig(), seed=seed, device=torch.device("cpu")) for seed in (0, 0, 1)]
    a, b, c = map(fingerprint, models)
    assert a == b
    assert total_fingerprint(a) == total_fingerprint(dict(reversed(b.items())))
    assert {name for name in a if a[name] != c[name]} == {n for n, p in models[0].named_parameters() if p.ndim == 2}
    assert total_fingerprint(a) != total_fingerprint(c)
    assert all(len(bytes.fromhex(value)) == 32 for value in a.values())


CHANGES = {
    "one last bit": lambda x: x.view(torch.int32)[3, 5].bitwise_xor_(1),
    "one sign": lambda x: x[3, 5].neg_(),
    "all signs": lambda x: x.neg_(),
    "the sign of a rectangle": lambda x: x[2:6, 4:8].neg_(),
    "the sign of zero": lambda x: x[0, 0].neg_(),
    "two rows": lambda x: x[:2].copy_(x[:2].flip(0)),
    "two columns": lambda x: x[:, :2].copy_(x[:, :2].flip(1)),
    "two elements": lambda x: x[1, 1:3].copy_(x[1, 1:3].flip(0)),
    "shifted": lambda x: x.copy_(x.roll(1, 0)),
    "rounded": lambda x: x.copy_(x.bfloat16().float()),
    "one NaN": lambda x: x[7, 7].fill_(float("nan")),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES.keys())
def test_every_change_shows(change) -> None:
    x = torch.randn(12, 16, generator=torch.Generator().manual_seed(0))
    x[0, 0] = 0.0
    before = of(x)
    assert of(x.clone()) == before
    change(x)
    assert of(x) != before


@pytest.mark.parametrize("dtype", [torch.float64, torch.complex128, torch.complex64, torch.float16, torch.bfloat16])
def test_signs_and_last_bits_of_any_type(dtype: torch.dtype) -> None:
    x = torch.randn(6, 8, generator=torch.Generator().manual_seed(0)).to(dtype)
    two, all_signs, last = x.clone(), -x, x.clone()
    two[1:3, 4].neg_()
    last.view(torch.uint8)[3, 0] ^= 1
    assert len({of(t) for t in (x, two, all_signs, last)}) == 4
    assert of(x.T.contiguous().T) == of(x)


def test_shape_and_dtype_count() -> None:
    x = torch.ones(4, 6)
    assert len({of(t) for t in (x, x.T, x.view(24), x[None], x.bfloat16(), x.half(), x.double(), x.long())}) == 8
    assert of(torch.tensor(1.0)) != of(torch.tensor([1.0])) != of(torch.empty(0))


@pytest.mark.parametrize("block", [1, 7, 40, 10_000])
def test_blocks_leave_no_seam(monkeypatch, block: int) -> None:
    tensors = [torch.randn(shape) for shape in ((), (33,), (9, 13), (13, 9), (3, 5, 7), (2, 3, 4, 5))]
    tensors.append(torch.randn(9, 13).T)
    whole = [of(t) for t in tensors]
    monkeypatch.setattr("isogloss.init.fingerprint.BLOCK", block)
    assert [of(t) for t in tensors] == whole
