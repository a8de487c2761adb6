"""Operations as a dispatch mode sees them: their names, arguments and kinds."""

import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor

PRODUCTS = frozenset(
    ("mm", "addmm", "bmm", "baddbmm", "addbmm", "linear", "_grouped_mm", "convolution", "matmul", "mv", "addmv")
)
LOOKUPS = frozenset(("index", "index_select", "gather", "_embedding_bag"))
JOINS = frozenset(("cat", "stack"))
ARRANGES = JOINS | frozenset(
    ("copy", "where", "index_put", "scatter", "slice_scatter", "select_scatter", "constant_pad_nd", "native_layer_norm")
)
"""Operations other than products, and other than element by element, that a matrix of parameters may take part in."""
CONSTANTS = ("zeros", "ones", "full", "empty", "rand", "new_zeros", "new_ones", "new_full", "new_empty", "normal")
"""Beginnings of operations whose result has nothing of their input but its shape."""


@contextmanager
def in_plain_operations() -> Iterator[None]:
    """Fused kernels of whole modules off, so that each product can be seen; compiled functions run as written."""
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with ExitStack() as stack:
            stack.enter_context(warnings.catch_warnings())
            warnings.simplefilter("ignore")
            stack.enter_context(torch.backends.mkldnn.flags(enabled=False))  # else an LSTM is one operation
            stack.enter_context(torch.compiler.set_stance("force_eager"))
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)


def signature_of(func: Any) -> tuple[str, list[Any]]:
    """An operation's name, without its namespace, and its arguments; a higher-order one declares none."""
    schema = getattr(func, "_schema", None)
    if schema is None:
        return func.name(), []
    return schema.name.rpartition("::")[2], schema.arguments


def named_arguments(arguments: list[Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
    """All arguments of an operation by their names."""
    return {a.name: x for a, x in zip(arguments, args, strict=False)} | kwargs


def is_pointwise(func: Any) -> bool:
    """Whether it works element by element."""
    return torch.Tag.pointwise in getattr(func, "tags", ())


def is_whole(x: Tensor) -> bool:
    """Whether a tensor is all of its memory."""
    return x.numel() * x.element_size() == x.untyped_storage().nbytes()
