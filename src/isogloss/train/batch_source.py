"""Where a loop's batches come from: a function of the step, or what Python code usually has in its place."""

from collections.abc import Iterable
from typing import Any, Protocol, runtime_checkable

from isogloss.config.base import UserError
from isogloss.models.protocol import Batch, as_batch


@runtime_checkable
class BatchSource(Protocol):
    """Where batches come from: a pure function of the step, counted from 0."""

    def batch(self, step: int) -> Batch:
        """The global batch of a step."""
        ...


class BatchesInTurn:
    """The batches of an iterable in their order, whatever the step; one that can be read again is, at its end.

    Args:
        batches: a list, a ``DataLoader``, a generator, anything that gives batches.
    """

    def __init__(self, batches: Iterable[Any]) -> None:
        self._batches, self._left, self._n_given = batches, iter(batches), 0

    def batch(self, step: int) -> Batch:
        """The next one.

        Raises:
            UserError: there are no more, or it is none.
        """
        found = next(self._left, None)
        if found is None and self._left is not self._batches:
            self._left = iter(self._batches)
            found = next(self._left, None)
        if found is None:
            raise UserError(
                f"the loader has given its {self._n_given} batches, and there is none for step {step + 1}; lower "
                "train.steps, or give what can be read again, such as a list or a DataLoader"
            )
        self._n_given += 1
        return as_batch(found)


def as_batch_source(loader: Any) -> BatchSource:
    """A loader as the loop reads it.

    Raises:
        UserError: it gives no batches.
    """
    if isinstance(loader, BatchSource):
        return loader
    if isinstance(loader, Iterable):
        return BatchesInTurn(loader)
    raise UserError(
        f"a loader has a method batch(step), or can be iterated over; a {type(loader).__name__} is neither "
        "(isogloss.data.loader.Loader reads a corpus)"
    )
