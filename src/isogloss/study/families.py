"""Families of models: one recipe at several widths or depths."""

from collections.abc import Sequence

from isogloss.config.base import UserError
from isogloss.config.load import with_overrides
from isogloss.init.scheme import Axis
from isogloss.recipe import Recipe

DEFAULT_SIZES: dict[Axis, tuple[int, ...]] = {"width": (64, 128, 256, 512), "depth": (4, 8, 16, 32)}


def resize(recipe: Recipe, axis: Axis, size: int) -> Recipe:
    """The recipe at another width, with as many heads and a hidden width in proportion, or at another depth.

    Raises:
        UserError: no such model is possible.
    """
    if axis == "depth":
        return with_overrides(recipe, [f"model.n_layers={size}"])
    model = recipe.model
    heads = model.mixer.heads(model.d_model)
    changes = [
        f"model.d_model={size}",
        f"model.mixer.n_heads={heads.n_heads}",
        f"model.mixer.n_kv_heads={heads.n_kv_heads}",
        "model.mixer.head_dim=null",
    ]
    if model.ffn.d_ff is not None:
        changes.append(f"model.ffn.d_ff={max(1, round(model.ffn.d_ff * size / model.d_model))}")
    return with_overrides(recipe, changes)


def rising(sizes: Sequence[int]) -> list[int]:
    """Sizes in their order, each once; a slope needs two.

    Raises:
        UserError: there are not two, or one is not a size.
    """
    different = sorted(set(sizes))
    if len(different) < 2 or different[0] < 1:
        raise UserError(f"--sizes is {','.join(map(str, sizes))}: give at least two different ones, such as 64,128,256")
    return different
