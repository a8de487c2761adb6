"""Numbers of a run's weights, and the bytes of those that FSDP2 gathers and reduces, by its units."""

import math

from isogloss.init.plan import Entry
from isogloss.nn.roles import Role
from isogloss.parallel.fsdp import ROUNDED, find_units
from isogloss.parallel.mesh import Axes
from isogloss.recipe import Recipe


class Sizes:
    """Of a recipe's weights on given ranks; what is gathered is 0 in a process alone.

    Args:
        recipe: with a vocabulary.
        axes: its ranks.
        plan: of its model.
    """

    def __init__(self, recipe: Recipe, axes: Axes, plan: dict[str, Entry]) -> None:
        sites = [entry.site for entry in plan.values()]
        parallel, n_layers = recipe.parallel, recipe.model.n_layers

        def count(role: Role | None = None, layer: int | None = None) -> float:
            return float(sum(math.prod(s.shape) for s in sites if role in (None, s.role) and layer in (None, s.layer)))

        self.total, self.block, self.embedding = count(), count(layer=0), count(Role.EMBEDDING)
        own_head = count(Role.HEAD)
        self.head = own_head or self.embedding
        self.split = axes.size > 1
        self.precision = "bf16" if recipe.train.precision == "auto" else recipe.train.precision
        self._ranks = axes.shard * axes.context * axes.tensor
        self.units = find_units(
            [count(layer=layer) / axes.tensor for layer in range(n_layers)],
            self.embedding / axes.tensor if own_head else None,
            parallel.unit,
        )
        in_type = 2 if self.precision == "bf16" else 4
        self.reduced = (2 if parallel.reduce == "bf16" else 4) / axes.tensor
        """Bytes of the gradient of one weight as it is reduced."""
        # All below is of a tensor rank, in bytes.
        self.matrices = sum(count(role, layer=0) for role in ROUNDED)
        """Of a block, all that its unit gathers: gains are with the rest."""
        self.gathered_block = in_type * self.matrices / axes.tensor * self.split
        in_unit = max(map(len, self.units.blocks))
        self.gathered_unit = in_unit * self.gathered_block
        """Of the largest unit of blocks."""
        self.gradient_of_head = 4 * self.head / axes.tensor * self.split
        with_rest = bool(own_head) and not self.units.embedding
        with_head = with_rest * self.embedding + n_layers * (self.block - self.matrices)
        self.gathered_rest = self.gradient_of_head + 4 * with_head / axes.tensor * self.split
        """Of what is in no unit of blocks: the head, all gains and, where it is with them, the embedding."""
        # One unit used, one fetched and one on its way, if there are several; a unit's gradients, all but those of the
        # block at work, and as they are reduced.
        gradients = (in_unit - 1) * self.gathered_block + self.reduced * in_unit * self.matrices * self.split
        self.passing_unit = (3 if len(self.units.blocks) > 1 else 1) * self.gathered_unit + gradients
        """Of the units about the one at work in the backward pass."""

    def stored(self, n: float) -> float:
        """Bytes of a rank's share of ``n`` weights in float32."""
        return 4 * n / self._ranks
