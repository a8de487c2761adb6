"""Additions, whatever they are called: ``x + b``, ``lerp``, ``addcmul``, ``index_add``, ``addmm`` of an activation."""

from collections.abc import Iterable, Mapping
from typing import Any

from torch import Tensor

from isogloss.audit.trace import Product

SUMS: dict[str, tuple[str, str]] = {
    "add": ("self", "other"),
    "sub": ("self", "other"),
    "lerp": ("self", "end"),
    "index_add": ("self", "source"),
    "scatter_add": ("self", "src"),
    "index_put": ("self", "values"),
    "_unsafe_index_put": ("self", "values"),
    "scatter_reduce": ("self", "src"),
}
SUMS_OF_PRODUCTS: dict[str, tuple[str, str, str]] = {
    "addcmul": ("self", "tensor1", "tensor2"),
    "addmm": ("self", "mat1", "mat2"),
    "baddbmm": ("self", "batch1", "batch2"),
    "addmv": ("self", "mat", "vec"),
}


def addends(base: str, named: Mapping[str, Any]) -> list[tuple[Tensor, ...]]:
    """The two addends of an operation, a product as its factors; empty if it is no addition of tensors.

    Args:
        base: the operation.
        named: its arguments.
    """
    if base.endswith("index_put") and not named.get("accumulate"):
        return []
    if base == "scatter_reduce" and named.get("reduce") != "sum":
        return []
    first, *factors = SUMS.get(base) or SUMS_OF_PRODUCTS.get(base) or ("", "")
    found = [tuple(x for name in names if isinstance(x := named.get(name), Tensor)) for names in ([first], factors)]
    return found if len(found[0]) == 1 and len(found[1]) == len(factors) else []


def as_wide(sources: Iterable[str], products: Mapping[str, Product], addend: Tensor) -> frozenset[str]:
    """Those of the sources that write what is added: that have an output for each of its channels.

    A gate has one, a router a few. Of a product that is halved (a GLU's after the last matrix) there are two or more
    for each channel. A channel axis may be cut into heads, or stand before that of time.
    """
    widths = {addend.shape[-1], *addend.shape[1:-1], addend.shape[-1] * (addend.shape[-2] if addend.ndim > 1 else 1)}
    widths -= {1}
    last = addend.shape[-1]
    exact = {s for s in sources if products[s].n_out == last}
    exact = exact or {s for s in sources if products[s].n_out in widths}
    halved = {s for s in sources if last > 1 and products[s].n_out % last == 0}
    for found in (exact, halved):
        if inner := {s for s in found if not products[s].reads_stream}:
            return frozenset(inner)
    return frozenset(exact or halved)
