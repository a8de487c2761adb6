"""Generated rows as a corpus that a run can read."""

import hashlib
from collections.abc import Sequence
from typing import Annotated, Any, Final

import numpy as np
from jaxtyping import Int
from pydantic import Field

from isogloss.config.base import UserError
from isogloss.data.corpus import Packing, SplitFacts, SplitName, hash_of
from isogloss.data.counter import Draws
from isogloss.data.rows.source import Rows
from isogloss.data.synthetic.associative_recall import AssociativeRecall, AssociativeRecallConfig
from isogloss.data.synthetic.copy import Copy, CopyConfig
from isogloss.data.synthetic.induction import Induction, InductionConfig
from isogloss.data.synthetic.markov import Markov, MarkovConfig
from isogloss.data.synthetic.modular_arithmetic import ModularArithmetic, ModularArithmeticConfig
from isogloss.data.synthetic.needle import Needle, NeedleConfig
from isogloss.data.synthetic.pcfg import PCFG, PCFGConfig
from isogloss.data.synthetic.selective_copy import SelectiveCopy, SelectiveCopyConfig
from isogloss.data.synthetic.task import SyntheticConfig, Task
from isogloss.data.tokenizers.symbols import SymbolsTokenizer
from isogloss.models.ignored import IGNORED

FORMAT = 1
"""Raised whenever the same settings would give other rows."""

AnySyntheticConfig = Annotated[
    MarkovConfig
    | PCFGConfig
    | CopyConfig
    | InductionConfig
    | AssociativeRecallConfig
    | SelectiveCopyConfig
    | ModularArithmeticConfig
    | NeedleConfig,
    Field(discriminator="type"),
]
"""Any generated corpus, told apart by ``type``."""

TASKS: Final[dict[type[SyntheticConfig], Any]] = {
    MarkovConfig: Markov,
    PCFGConfig: PCFG,
    CopyConfig: Copy,
    InductionConfig: Induction,
    AssociativeRecallConfig: AssociativeRecall,
    SelectiveCopyConfig: SelectiveCopy,
    ModularArithmeticConfig: ModularArithmetic,
    NeedleConfig: Needle,
}


class SyntheticRows:
    """The rows of one split (a ``RowSource``)."""

    def __init__(
        self, task: Task, name: str, split: SplitName, seq_len: int, n_rows: int | None, within_document: bool
    ):
        self.seq_len, self.n_rows = seq_len, n_rows
        self.fingerprint = hashlib.sha256(f"{name}:{split}:{seq_len}".encode()).hexdigest()
        self._task, self._stream, self._split = task, f"{name}:{split}", split
        self._within_document = within_document

    def rows(self, numbers: Int[np.ndarray, "N"] | Sequence[int]) -> Rows:
        """Some rows; targets that do not count are ``IGNORED``."""
        tokens, counts = self._task.generate(Draws(self._stream, np.asarray(numbers)), self.seq_len, self._split)
        documents = np.zeros(counts.shape, dtype=np.int64) if self._within_document else None
        return Rows(np.ascontiguousarray(tokens[:, :-1]), np.where(counts, tokens[:, 1:], IGNORED), documents)


class SyntheticCorpus:
    """A generated corpus (a ``Corpus``): endless to train on, with a fixed number of other rows to validate on.

    Raises:
        UserError: the rows are too short for the task.
    """

    baselines = None
    parts = ()

    def __init__(self, config: SyntheticConfig):
        self.config = config
        self.task: Task = TASKS[type(config)](config)
        self.tokenizer = SymbolsTokenizer(self.task.n_tokens)
        decisive = config.model_dump(mode="json", exclude={"seq_len", "validation_rows"})
        self.name = hash_of([FORMAT, decisive])
        self.origin = f"{decisive['type']}, generated with seed {config.seed}"
        self._check(config.seq_len)
        self.floor: float = self.task.floor(config.seq_len)

    def __reduce__(self):
        return type(self), (self.config,)

    def facts(self, split: SplitName) -> SplitFacts:
        """Rows are documents; training has no end."""
        if split == "train":
            return SplitFacts(None, None, None)
        return SplitFacts(self.config.validation_rows, self.config.validation_rows * (self.config.seq_len + 1), None)

    def rows(
        self, split: SplitName, seq_len: int, within_document: bool = True, packing: Packing = "concatenate"
    ) -> SyntheticRows:
        """The rows of a split; ``packing`` has nothing to pack.

        Raises:
            UserError: rows of this length are too short for the task.
        """
        self._check(seq_len)
        n_rows = None if split == "train" else self.config.validation_rows
        return SyntheticRows(self.task, self.name, split, seq_len, n_rows, within_document)

    def _check(self, seq_len: int) -> None:
        if seq_len < self.task.min_seq_len:
            raise UserError(
                f"rows of {seq_len} tokens are too short for this task; set data.seq_len to at least "
                f"{self.task.min_seq_len}, or ask for less in a row"
            )
