"""Equations modulo p (Power, Burda, Edwards, Babuschkin and Misra 2022, "Grokking", arXiv 2201.02177).

A row is a list of equations ``x_1 ∘ x_2 .. ∘ x_n = y``, read from left to right, y = (((x_1 ∘ x_2) mod p) ∘ x_3) mod p
and so on. Only the results count; each follows from its equation: the floor is exactly 0. All p^n·q^(n-1) equations
with q operations are put in an order that the seed decides; the first ones train, the others validate, so that
validation asks for equations that were never seen.
With two operands these are the authors' tasks; with more, a recurrent state
must be carried along.
"""

from typing import Literal

import numpy as np
from pydantic import Field, model_validator

from isogloss.data.counter import Draws, stream_key
from isogloss.data.rows.order import permute
from isogloss.data.synthetic.task import OPENING, Sample, SyntheticConfig

EQUALS, FIRST_OPERATION = 1, 2
MAX_EQUATIONS = 1 << 53
Operation = Literal["add", "subtract", "multiply"]


class ModularArithmeticConfig(SyntheticConfig):
    """Equations modulo a number: half of them are never shown, so that only a rule solves those."""

    type: Literal["modular_arithmetic"] = "modular_arithmetic"
    modulus: int = Field(default=97, ge=2, le=1 << 16)
    """p."""
    n_operands: int = Field(default=2, ge=2)
    """Numbers in an equation."""
    operations: tuple[Operation, ...] = Field(default=("add",), min_length=1)
    """What may stand between numbers."""
    train_fraction: float = Field(default=0.5, gt=0, lt=1)
    """Of all equations, those that train; the others validate."""

    @model_validator(mode="after")
    def _check(self) -> "ModularArithmeticConfig":
        if len(set(self.operations)) < len(self.operations):
            raise ValueError("operations: one is named twice")
        n, n_train = self.n_equations, round(self.n_equations * self.train_fraction)
        if n > MAX_EQUATIONS:
            raise ValueError(
                f"there are {n:.1e} such equations, more than can be numbered; lower n_operands or modulus"
            )
        if not 0 < n_train < n:
            raise ValueError(f"train_fraction {self.train_fraction} of {n} equations leaves one side without any")
        return self

    @property
    def n_equations(self) -> int:
        """How many different ones there are."""
        return self.modulus**self.n_operands * len(self.operations) ** (self.n_operands - 1)


class ModularArithmetic:
    """Implements ``Task``."""

    def __init__(self, config: ModularArithmeticConfig):
        self._config = config
        self._first_number = FIRST_OPERATION + len(config.operations)
        self.n_tokens = self._first_number + config.modulus
        self.min_seq_len = 2 * config.n_operands + 1
        self._n_train = round(config.n_equations * config.train_fraction)
        self._key = stream_key(f"equations:{config.seed}")

    def floor(self, seq_len: int) -> float:
        """0: an equation has one result."""
        return 0.0

    def generate(self, draws: Draws, seq_len: int, split: str) -> Sample:
        """Rows of equations of one side, the last one cut at the row's end."""
        config, length = self._config, self.min_seq_len
        n_equations = -(-seq_len // length)
        first, end = (0, self._n_train) if split == "train" else (self._n_train, config.n_equations)
        # An integer below 2^53 by a real number: exact to within 2^-53.
        chosen = first + (draws.uniform("equation", n_equations) * (end - first)).astype(np.int64)
        number = permute(np.minimum(chosen, end - 1).reshape(-1), config.n_equations, self._key)
        content = np.empty((len(number), length), dtype=np.int64)
        number, result = np.divmod(number, config.modulus)
        content[:, 0] = self._first_number + result
        for i in range(1, config.n_operands):
            number, operand = np.divmod(number, config.modulus)
            number, operation = np.divmod(number, len(config.operations))
            content[:, 2 * i - 1], content[:, 2 * i] = FIRST_OPERATION + operation, self._first_number + operand
            results = {"add": result + operand, "subtract": result - operand, "multiply": result * operand}
            result = np.choose(operation, [results[name] for name in config.operations]) % config.modulus
        content[:, -2], content[:, -1] = EQUALS, self._first_number + result
        tokens = content.reshape(draws.n_rows, -1)[:, :seq_len]
        counts = np.broadcast_to(np.arange(seq_len) % length == length - 1, tokens.shape).copy()
        return Sample(np.pad(tokens, ((0, 0), (1, 0)), constant_values=OPENING), counts)
