"""AdamW that keeps its running means in bfloat16: 8 bytes a parameter become 4.

Each step takes them to float32, one parameter's at a time, and back to the nearest bfloat16. A mean stands still where
its change is below 2^-8 of it, which ``beta2`` must allow for (`isogloss.optim.groups`).
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor
from torch.optim.adamw import adamw

MOMENTS = frozenset({"exp_avg", "exp_avg_sq"})


class CompactAdamW(torch.optim.AdamW):
    """As ``torch.optim.AdamW``, fused, but for the type of its state."""

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Step every parameter that has a gradient."""
        assert closure is None
        for group in self.param_groups:
            beta1, beta2 = group["betas"]
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                state = self.state[parameter]
                if not state:
                    state["step"] = torch.zeros((), dtype=torch.float32, device=parameter.device)
                    for name in sorted(MOMENTS):
                        state[name] = torch.zeros_like(parameter, dtype=torch.bfloat16)
                means = [_local(state[name]).float() for name in sorted(MOMENTS)]
                adamw(
                    [_local(parameter)],
                    [_local(parameter.grad)],
                    [means[0]],
                    [means[1]],
                    [],
                    [state["step"]],
                    fused=True,
                    amsgrad=False,
                    beta1=beta1,
                    beta2=beta2,
                    lr=group["lr"],
                    weight_decay=group["weight_decay"],
                    eps=group["eps"],
                    maximize=False,
                )
                for name, mean in zip(sorted(MOMENTS), means, strict=True):
                    _local(state[name]).copy_(mean)


def _local(tensor: Tensor) -> Tensor:
    """What this rank holds."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor
