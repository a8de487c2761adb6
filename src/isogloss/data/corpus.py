"""What a run asks of its data, whatever they are made from: rows to train and to validate on, and facts to show."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, Protocol, runtime_checkable

from pydantic import Field

from isogloss.config.base import Config
from isogloss.data.baselines import Baselines
from isogloss.data.rows.source import RowSource
from isogloss.data.tokenizers.base import Tokenizer

SplitName = Literal["train", "validation"]
Packing = Literal["concatenate", "best_fit", "document"]


class Cut(NamedTuple):
    """How rows are asked of a corpus: ``corpus.rows(split, *cut)``."""

    seq_len: int
    within_document: bool
    packing: Packing = "concatenate"


class RowConfig(Config):
    """How data become rows."""

    seq_len: int = Field(default=256, ge=1)
    """Tokens in a row."""
    within_document: bool = True
    """Attention and recurrent state are kept within a document."""

    def cut(self) -> Cut:
        """How rows are asked of the corpus."""
        return Cut(self.seq_len, self.within_document)


class PackedConfig(RowConfig):
    """How documents of various lengths become rows."""

    packing: Packing = "concatenate"
    """concatenate: laid end to end and cut; best_fit: no document cut that fits a row; document: each in rows of its
    own. The latter two pad rows."""

    def cut(self) -> Cut:
        """How rows are asked of the corpus."""
        return Cut(self.seq_len, self.within_document, self.packing)


@dataclass(frozen=True)
class SplitFacts:
    """What a split holds; ``None`` where it is not known, because it is endless, or not made of text.

    Args:
        n_documents: how many documents.
        n_tokens: the ``end_of_text`` that opens each document included.
        n_bytes: of the texts, as UTF-8; bits per byte are shown only where it is known.
    """

    n_documents: int | None
    n_tokens: int | None
    n_bytes: int | None

    @property
    def bytes_per_target(self) -> float | None:
        """UTF-8 bytes that a target stands for on average, every token but the first being one."""
        if self.n_bytes is None or self.n_tokens is None or self.n_tokens < 2:
            return None
        return self.n_bytes / (self.n_tokens - 1)


@runtime_checkable
class Corpus(Protocol):
    """Open data. It can be pickled, and is then small: another process opens it again."""

    @property
    def tokenizer(self) -> Tokenizer:
        """What its ids mean."""
        ...

    @property
    def name(self) -> str:
        """A hash of all that decides it: corpora of one name have the same rows."""
        ...

    @property
    def origin(self) -> str:
        """What it is, in words."""
        ...

    @property
    def floor(self) -> float | None:
        """The lowest loss that a model can reach on the validation split, nats a target, where it is known exactly."""
        ...

    @property
    def baselines(self) -> Baselines | None:
        """What compressors make of the validation text, if it is text."""
        ...

    @property
    def parts(self) -> Sequence["Part"]:
        """The corpora that it is mixed from; empty for one that stands alone."""
        ...

    def facts(self, split: SplitName) -> SplitFacts:
        """What a split holds."""
        ...

    def rows(
        self, split: SplitName, seq_len: int, within_document: bool = True, packing: Packing = "concatenate"
    ) -> RowSource:
        """The rows of a split; those of ``validation`` are finite.

        Args:
            split: which.
            seq_len: T, positions in a row.
            within_document: number the documents of each row, so that attention stays within them.
            packing: how documents become rows; what is generated row by row ignores it.
        """
        ...


@dataclass(frozen=True)
class Part:
    """One of the corpora that a corpus is mixed from.

    Args:
        name: its name in the mixture.
        weight: its share of the mixture's last tokens.
        corpus: itself.
    """

    name: str
    weight: float
    corpus: Corpus


def hash_of(decisive: Sequence[Any]) -> str:
    """A name for what these values, which JSON can write, decide."""
    return hashlib.sha256(json.dumps(decisive, sort_keys=True).encode()).hexdigest()[:16]
