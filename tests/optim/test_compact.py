"""AdamW with its means in bfloat16: beside PyTorch's, and beside the equation carried out in float64."""

import pytest
import torch
from torch import nn

from isogloss.config.base import UserError
from isogloss.config.load import load_config
from isogloss.optim.compact import CompactAdamW
from isogloss.optim.groups import AdamWConfig
from isogloss.optim.state import cast_moments

SETTINGS = {"lr": 0.01, "betas": (0.9, 0.95), "eps": 1e-8, "weight_decay": 0.1, "fused": True}


def gradients(n: int) -> list[torch.Tensor]:
    return [torch.randn(300, generator=torch.Generator().manual_seed(step)) for step in range(n)]


def trained(kind: type[torch.optim.AdamW], n: int) -> tuple[nn.Parameter, torch.optim.AdamW]:
    parameter = nn.Parameter(torch.linspace(-1, 1, 300))
    optimizer = kind([parameter], **SETTINGS)
    for gradient in gradients(n):
        parameter.grad = gradient
        optimizer.step()
    return parameter, optimizer


def test_the_first_step_is_pytorchs() -> None:
    assert torch.equal(trained(CompactAdamW, 1)[0], trained(torch.optim.AdamW, 1)[0])


def test_later_steps_differ_by_rounding() -> None:
    (ours, optimizer), (theirs, _) = trained(CompactAdamW, 50), trained(torch.optim.AdamW, 50)
    state = optimizer.state[ours]
    assert {state["exp_avg"].dtype, state["exp_avg_sq"].dtype} == {torch.bfloat16}
    apart = (ours - theirs).abs().max().item()
    assert 0 < apart < 0.05 * SETTINGS["lr"] * 50**0.5, "rounding errors of 2^-8 a step add up like a random walk"


def test_a_second_moment_in_bf16_stands_still_where_beta2_is_refused() -> None:
    """What the limit on beta2 is for: the mean of squares starts at 1 and should fall to 0.25."""
    ended = {}
    for beta2 in (0.95, 0.999):
        parameter = nn.Parameter(torch.zeros(1))
        optimizer = CompactAdamW([parameter], **(SETTINGS | {"betas": (0.9, beta2)}))
        parameter.grad = torch.ones(1)
        optimizer.step()
        optimizer.state[parameter]["exp_avg_sq"].fill_(1.0)
        for _ in range(5000):
            parameter.grad = torch.full((1,), 0.5)
            optimizer.step()
        ended[beta2] = optimizer.state[parameter]["exp_avg_sq"].item()
    assert ended[0.95] == pytest.approx(0.25, rel=0.1)
    assert ended[0.999] > 0.9
    with pytest.raises(UserError, match=r"beta2 \(0\.999\) must be at most 0\.98"):
        load_config(AdamWConfig, None, ["moments=bf16", "beta2=0.999"])


def test_a_run_may_change_the_type() -> None:
    parameter, optimizer = trained(torch.optim.AdamW, 3)
    compact = CompactAdamW([parameter], **SETTINGS)
    compact.load_state_dict(optimizer.state_dict())
    cast_moments(compact, torch.bfloat16)
    parameter.grad = gradients(4)[3]
    compact.step()
    assert compact.state[parameter]["exp_avg"].dtype == torch.bfloat16
    cast_moments(compact, torch.float32)
    assert compact.state[parameter]["exp_avg"].dtype == torch.float32
    assert compact.state[parameter]["step"].dtype == torch.float32
