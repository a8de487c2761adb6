"""Linear map and embedding that declare their role and leave their weights to the initialisation plan."""

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor, nn

from isogloss.nn.roles import Declared, Role, declare


class Linear(nn.Linear):
    """``y = x W^T`` without bias; the weight has the given role."""

    def __init__(self, d_in: int, d_out: int, role: Role) -> None:
        super().__init__(d_in, d_out, bias=False)
        declare(self, weight=Declared(role, fan_in=d_in, fan_out=d_out))
        # What multiplies input and weight where gradients are wanted (`isogloss.parallel.float8`).
        self.product: Callable[[Tensor, Tensor], Tensor] | None = None

    def forward(self, input: Float[Tensor, "... I"]) -> Float[Tensor, "... O"]:
        """Apply to the last dim."""
        if self.product is None or not torch.is_grad_enabled():
            return super().forward(input)
        return self.product(input, self.weight)

    def reset_parameters(self) -> None:
        """Nothing: the plan fills the weight (`isogloss.init`), once, after sharding."""


class Embedding(nn.Embedding):
    """A row of ``d_model`` numbers for each of ``vocab_size`` ids."""

    def __init__(self, vocab_size: int, d_model: int) -> None:
        super().__init__(vocab_size, d_model)
        declare(self, weight=Declared(Role.EMBEDDING, fan_in=1, fan_out=d_model))

    def reset_parameters(self) -> None:
        """Nothing: the plan fills the weight."""
