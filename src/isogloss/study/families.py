"""Families of models: one recipe at several widths or depths."""

from collections.abc import Sequence

from isogloss.config.base import UserError
from isogloss.config.load import with_overrides
from isogloss.init.scheme import Axis
from isogloss.recipe import Recipe

DEFAULT_SIZES: dict[Axis, tuple[int, ...]] = {"width": (64, 128, 256, 512), "depth": (4, 8, 16, 32)}


def resize(recipe: Recipe, axis: Axis, size: int) -> Recipe:
    """The recipe at another width or depth.

    A hidden width that is given grows in proportion. Where ``head_dim`` is given the heads stay as they are and their
    numbers grow; else there are as many heads, each wider. At its own size a recipe is the same model.

    Raises:
        UserError: no such model is possible.
    """
    if axis == "depth":
        return with_overrides(recipe, [f"model.n_layers={size}"])
    model = recipe.model
    mixer, heads = model.mixer, model.mixer.heads(model.d_model)
    changes = [f"model.d_model={size}"]
    if mixer.head_dim is None:
        changes += [f"model.mixer.n_heads={heads.n_heads}", f"model.mixer.n_kv_heads={heads.n_kv_heads}"]
    else:
        for name, n in (("n_heads", mixer.n_heads), ("n_kv_heads", mixer.n_kv_heads)):
            if n is not None:
                changes.append(f"model.mixer.{name}={_scaled(n, size, model.d_model, name)}")
    if model.ffn.d_ff is not None:
        changes.append(f"model.ffn.d_ff={max(1, round(model.ffn.d_ff * size / model.d_model))}")
    return with_overrides(recipe, changes)


def _scaled(n: int, size: int, d_model: int, name: str) -> int:
    """A number of heads in proportion to the width; one key head stays one for all queries."""
    if name == "n_kv_heads" and n == 1:
        return 1
    if n * size % d_model:
        raise UserError(
            f"at width {size} the {n} {name} of width {d_model} would be {n * size / d_model:g}: model.mixer.head_dim "
            "is given, so heads grow in number; choose --sizes that give whole numbers, or leave head_dim out"
        )
    return n * size // d_model


def rising(sizes: Sequence[int]) -> list[int]:
    """Sizes in their order, each once; a slope needs two.

    Raises:
        UserError: there are not two, or one is not a size.
    """
    different = sorted(set(sizes))
    if len(different) < 2 or different[0] < 1:
        raise UserError(f"--sizes is {','.join(map(str, sizes))}: give at least two different ones, such as 64,128,256")
    return different
