"""What runs round every function in tests refuses wrong shapes, dtypes and types; so tests need not look for them."""

from collections.abc import Callable, Iterator

import pytest
import torch
from beartype.roar import BeartypeCallHintViolation
from jaxtyping import Float, TypeCheckError
from torch import Tensor

from isogloss.models.protocol import Batch
from isogloss.nn.attention import attend
from isogloss.nn.loss import chunk_loss
from isogloss.parallel.env import Ranks, first_host
from isogloss.parallel.fsdp import find_units
from shape_checks import check, quick

REFUSED = (TypeCheckError, BeartypeCallHintViolation)
LOGITS, TARGETS = torch.zeros(3, 5), torch.zeros(3, dtype=torch.int64)


def attended(*shapes: tuple[int, ...], dtype: torch.dtype = torch.float32) -> Tensor:
    q, k, v = (torch.zeros(shape, dtype=dtype) for shape in shapes)
    return attend(q, k, v, None, backend="sdpa", scale=1.0, cap=None)


HEADS = (1, 2, 4, 8)


def test_what_is_right_is_let_through() -> None:
    assert attended(HEADS, HEADS, HEADS).shape == HEADS
    chunk_loss(LOGITS, TARGETS, -1, None, 0)
    assert len(find_units([4, 3, 3], 10, 5).blocks) == 2, "an int passes for a float"


@pytest.mark.parametrize(
    "wrong",
    [
        lambda: attended(HEADS, HEADS, HEADS[1:]),
        lambda: attended(HEADS, HEADS, (1, 2, 5, 8)),  # another length than that of the keys
        lambda: attended(HEADS, HEADS, HEADS, dtype=torch.int64),
        lambda: chunk_loss(LOGITS, TARGETS[1:], -1, None, 0.0),
        lambda: chunk_loss(LOGITS, TARGETS.float(), -1, None, 0.0),
        lambda: chunk_loss(LOGITS.tolist(), TARGETS, -1, None, 0.0),  # pyright: ignore
        lambda: Batch(TARGETS[None], TARGETS[None, 1:]),  # a dataclass
        lambda: Ranks("0", 0, 1),  # pyright: ignore
        lambda: find_units([10.0], None, "5"),  # pyright: ignore
        lambda: first_host(None),  # pyright: ignore
    ],
)
def test_what_is_wrong_is_refused(wrong: Callable[[], object]) -> None:
    with pytest.raises(REFUSED):
        wrong()


def checked(function: Callable) -> Callable:
    """As the library's own functions are."""
    return quick(typechecker=check)(function)


def test_what_is_returned_and_yielded_is_looked_at_too() -> None:
    @checked
    def name() -> str:
        return 1  # pyright: ignore

    @checked
    def cut(x: Float[Tensor, "B T"]) -> Float[Tensor, "B T"]:
        return x[:, 1:]

    @checked
    def inside(given: dict[str, Float[Tensor, "B T"]] | None, like: Float[Tensor, "B T"] | None = None) -> None: ...

    @checked
    def rows(x: Float[Tensor, "B T"]) -> Iterator[int]:
        yield from x  # pyright: ignore

    inside({"a": LOGITS}, LOGITS)
    for call in (
        name,
        lambda: cut(LOGITS),
        lambda: inside({"a": LOGITS.int()}),
        lambda: inside({"a": LOGITS}, LOGITS[1:]),
        lambda: list(rows(TARGETS)),
    ):
        with pytest.raises(REFUSED):
            call()
