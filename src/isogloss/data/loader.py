"""Batches as a pure function of the step: nothing to rewind, the same for any number of processes.

A finite source is visited in the shuffled epochs of ``rows/order.py``, a mixture in the order of ``rows/mixing.py``,
and what is endless from its first row on. Batch k holds the next rows after those of batches 0 to k - 1, whose number
is known in closed form, so any step is found at once.
"""

import operator
from collections.abc import Iterator, Mapping
from typing import Any, SupportsIndex

import numpy as np
import torch
from jaxtyping import Int

from isogloss.config.base import UserError
from isogloss.data.batches import BatchPlan
from isogloss.data.corpus import Corpus, Cut
from isogloss.data.mixture import MixtureCorpus
from isogloss.data.rows.mixing import MixedRows
from isogloss.data.rows.order import Shuffled
from isogloss.data.rows.source import Rows, RowSource
from isogloss.models.protocol import IGNORED, Batch


class Loader:
    """Batches of rows, endlessly: any step's batch can be asked for at any time.

    Args:
        rows: what to read.
        plan: how many rows a step; a number is the same for all steps.
        seed: decides the order of a finite source's rows.

    Raises:
        UserError: there are no rows, or ``plan`` cuts them into parts that are not equal.
    """

    def __init__(self, rows: RowSource, plan: BatchPlan | SupportsIndex, seed: int):
        if rows.n_rows == 0:
            raise UserError("the training split has too few tokens to predict any")
        self.source = rows
        self.plan = plan if isinstance(plan, BatchPlan) else BatchPlan(operator.index(plan))
        self.seq_len, self.seed = rows.seq_len, seed
        for stage in self.plan.lengths:
            if rows.seq_len % stage.divisor:
                raise UserError(
                    f"train.seq_len_warmup: rows of {rows.seq_len} tokens cannot be cut into {stage.divisor} equal ones"
                )
        self.order = rows if rows.n_rows is None else Shuffled(rows, seed)

    def batch(self, step: int, rank: int = 0, world_size: int = 1) -> Batch:
        """One process's share of the batch of a step.

        Args:
            step: optimizer step, from 0.
            rank: which share: the global batch is cut into contiguous ones, in order of rank.
            world_size: how many shares.

        Raises:
            UserError: ``world_size`` does not divide the batch size.
        """
        before = self.plan.rows_before(step)
        first, last = _share(self.plan.size(step), rank, world_size)
        rows = self.order.rows(np.arange(before + first, before + last))
        return _to_batch(cut_rows(rows, self.plan.divisor(step)))

    def state(self) -> dict[str, Any]:
        """What, beside the step, decides a batch: saved with a checkpoint and compared by ``resume``."""
        state: dict[str, Any] = {"seq_len": self.seq_len, "batch_size": self.plan.batch_size, "seed": self.seed}
        if self.plan.sizes:
            state["batch_size_warmup"] = [[stage.until, stage.batch_size] for stage in self.plan.sizes]
        if self.plan.lengths:
            state["seq_len_warmup"] = [[stage.until, stage.divisor] for stage in self.plan.lengths]
        if isinstance(self.source, MixedRows):
            return state | {"mixture": self.source.state()}
        return state | {"corpus": self.source.fingerprint}

    def check(self, saved: Mapping[str, Any]) -> None:
        """Make sure that a resumed run goes on with the very same data; a mixture may be mixed otherwise.

        Raises:
            UserError: the corpus or a setting differs from the saved ``state``.
        """
        now = self.state()
        names = [name for name in {**now, **saved} if name != "mixture"]
        changed = [f"{n} was {saved.get(n)}, is {now.get(n)}" for n in names if saved.get(n) != now.get(n)]
        if changed:
            raise UserError(
                f"the data is not what the checkpoint was trained on: {'; '.join(changed)}. "
                "Restore it, or start a new run from the checkpoint's weights"
            )

    def resume(self, saved: Mapping[str, Any], step: int) -> list[str]:
        """Go on from a saved ``state`` at a step; another mixture holds from there on.

        Returns:
            How the mixture has changed, in words.

        Raises:
            UserError: as ``check``.
        """
        self.check(saved)
        if isinstance(self.source, MixedRows) and "mixture" in saved:
            return self.source.resume(saved["mixture"], self.plan.rows_before(step))
        return []

    def shares(self, step: int) -> dict[str, float]:
        """The share of each source in the targets of all steps before this one; empty if nothing is mixed."""
        return self.source.shares(self.plan.rows_before(step)) if isinstance(self.source, MixedRows) else {}


def open_loader(corpus: Corpus, cut: Cut, plan: BatchPlan, seed: int, steps: int) -> Loader:
    """The training batches of a run of ``steps`` steps.

    Raises:
        UserError: as ``Loader``, or a mixture does not last so long.
    """
    if isinstance(corpus, MixtureCorpus):
        return Loader(corpus.mixed(cut, seed, plan.rows_before(steps)), plan, seed)
    return Loader(corpus.rows("train", *cut), plan, seed)


def cut_rows(rows: Rows, divisor: int) -> Rows:
    """Each row as ``divisor`` shorter ones, in order."""
    if divisor == 1:
        return rows
    seq_len = rows.tokens.shape[1] // divisor
    tokens, targets, documents = (None if part is None else part.reshape(-1, seq_len, *part.shape[2:]) for part in rows)
    assert tokens is not None
    assert targets is not None
    return Rows(tokens, targets, None if documents is None else documents - documents[:, :1])


def sequential_batches(
    rows: RowSource, batch_size: int, rank: int = 0, world_size: int = 1, first: int | None = None
) -> Iterator[Batch]:
    """Every row of a finite source, or of its first ones, once and in order, for validation.

    Every process gets as many batches as the others, and with more than one process batches of one shape: the last one
    is filled with rows whose targets are all ``IGNORED``.

    Args:
        rows: finite.
        batch_size: B, rows in a batch over all processes.
        rank: this process's share of each batch.
        world_size: how many processes share a batch.
        first: only so many rows; all if not given, or if there are no more.

    Raises:
        UserError: ``world_size`` does not divide the batch size.
    """
    begin, end = _share(batch_size, rank, world_size)
    assert rows.n_rows is not None, "rows without an end cannot be read to it"
    n_rows = rows.n_rows if first is None else min(first, rows.n_rows)
    for start in range(0, n_rows, batch_size):
        numbers = np.arange(start + begin, start + end if world_size > 1 else min(start + end, n_rows))
        yield _to_batch(_blank_beyond(rows.rows(np.minimum(numbers, n_rows - 1)), numbers, n_rows))


def _blank_beyond(rows: Rows, numbers: Int[np.ndarray, "N"], n_rows: int) -> Rows:
    """Rows beyond the last one predict nothing."""
    if (beyond := numbers >= n_rows).any():
        rows.targets[beyond] = IGNORED
    return rows


def _share(batch_size: int, rank: int, world_size: int) -> tuple[int, int]:
    assert 0 <= rank < world_size
    if batch_size % world_size:
        raise UserError(
            f"batch_size {batch_size} cannot be shared by {world_size} processes: make it a multiple of {world_size}"
        )
    share = batch_size // world_size
    return rank * share, (rank + 1) * share


def _to_batch(rows: Rows) -> Batch:
    documents = None if rows.documents is None else torch.from_numpy(rows.documents)
    return Batch(torch.from_numpy(rows.tokens), torch.from_numpy(rows.targets), documents)
