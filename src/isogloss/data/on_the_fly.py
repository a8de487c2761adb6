"""Text read and tokenised while training runs: a quick look at files without preparing them.

The documents are read in the order of the files, again and again; nothing is shuffled, deduplicated or written. Row r
covers the T+1 tokens from position r·T of the endless stream on. A step further on is found by reading up to it, so a
run that goes on takes as long as reading took so far; what is kept in memory is one document and the rows asked for.
"""

import hashlib
from collections.abc import Callable, Iterator
from typing import Any, Literal

import numpy as np
from jaxtyping import Int
from pydantic import Field

from isogloss.config.base import UserError
from isogloss.config.lists import Texts
from isogloss.data.baselines import Baselines, measure_baselines
from isogloss.data.corpus import Packing, Part, RowConfig, SplitFacts, SplitName
from isogloss.data.rows.packing import PackedRows
from isogloss.data.rows.source import Rows, RowSource
from isogloss.data.shards import TokenStream
from isogloss.data.sources import Account, read_documents
from isogloss.data.sources.files import endings, find_files
from isogloss.data.tokenizers.base import Tokenizer
from isogloss.data.tokenizers.config import TokenizerConfig
from isogloss.data.tokenizers.loading import build_tokenizer

NOTHING_LEFT = "data.train: no text is left to train on beyond the validation text; lower data.validation_bytes"


class OnTheFlyConfig(RowConfig):
    """Files read as training goes, in their order: for a quick look, without preparing them."""

    type: Literal["on_the_fly"] = "on_the_fly"
    train: Texts = Field(min_length=1)
    """Files, folders and globs."""
    validation_bytes: int = Field(default=600_000, ge=1)
    """The first documents that hold so much text validate, and are not trained on."""
    min_train_share: float = Field(default=0.5, ge=0, le=1)
    """Refuse files whose first documents take so much that less than this share of their bytes is left to train on."""


class OnTheFlyCorpus:
    """Files read as training goes (a ``Corpus``)."""

    floor: float | None = None
    parts: tuple[Part, ...] = ()

    def __init__(self, config: OnTheFlyConfig, tokenizer_config: TokenizerConfig) -> None:
        self._config, self._tokenizer_config = config, tokenizer_config
        self.tokenizer: Tokenizer = build_tokenizer(tokenizer_config, tuple)
        self.origin = f"{', '.join(config.train)}, read on the fly"
        decisive: list[object] = []
        for file in find_files(config.train):
            stat = None if file.is_hub else file.path.stat()
            decisive.append((file.name, stat and (str(file.path.absolute()), stat.st_size, stat.st_mtime_ns)))
        decisive += [self.tokenizer.fingerprint, config.validation_bytes]
        self.name = hashlib.sha256(repr(decisive).encode()).hexdigest()[:16]
        self.account = Account()
        """What is left out of the files, as far as they have been read."""
        texts: list[str] = []
        self._n_bytes = 0
        for text in _texts(config.train, self.account):
            texts.append(text)
            self._n_bytes += len(text.encode())
            if self._n_bytes >= config.validation_bytes:
                break
        else:
            raise UserError(NOTHING_LEFT if texts else "data.train: these files hold no text")
        self._n_validation = len(texts)
        self._check_train_bytes()
        self.baselines: Baselines | None = measure_baselines(texts)
        ids = [_tokens(self.tokenizer, text) for text in texts]
        lengths = np.array([len(some) for some in ids])
        self._validation = TokenStream([np.concatenate(ids)], np.cumsum(lengths) - lengths, self.name)

    def __reduce__(self) -> tuple[Any, ...]:
        """Another process reads the files for itself."""
        return OnTheFlyCorpus, (self._config, self._tokenizer_config)

    def _check_train_bytes(self) -> None:
        """Refuse to train on too little, as far as sizes say: not those of compressed files and tables."""
        files, config = find_files(self._config.train), self._config
        if any(file.is_hub or endings(file.path)[0] == ".parquet" or endings(file.path)[1] for file in files):
            return
        n_bytes = sum(file.path.stat().st_size for file in files)  # the text is shorter, if anything
        if self._n_bytes > (1 - config.min_train_share) * n_bytes:
            raise UserError(
                f"data.validation_bytes = {config.validation_bytes}: the first documents, which validate, hold "
                f"{self._n_bytes:,} of {n_bytes:,} bytes, so the share left to train on is less than "
                f"data.min_train_share = {config.min_train_share:g}; lower data.validation_bytes, name short files "
                "first, prepare the text (data.type=files), or set data.min_train_share to train on it"
            )

    def facts(self, split: SplitName) -> SplitFacts:
        """What a split holds; of the training text nothing is known beforehand."""
        if split == "train":
            return SplitFacts(None, None, None)
        return SplitFacts(self._n_validation, len(self._validation), self._n_bytes)

    def rows(
        self, split: SplitName, seq_len: int, within_document: bool = True, packing: Packing = "concatenate"
    ) -> RowSource:
        """The rows of a split, laid end to end and cut."""
        if split == "validation":
            return PackedRows(self._validation, seq_len, self.tokenizer.end_of_text, within_document)

        def documents() -> Iterator[np.ndarray]:
            for number, text in enumerate(_texts(self._config.train)):
                if number >= self._n_validation:
                    yield _tokens(self.tokenizer, text)

        return ReadRows(documents, seq_len, within_document, self.name)


class ReadRows:
    """The endless rows of documents that are read again and again (a ``RowSource``).

    Args:
        documents: gives the tokens of each document, from the first one on.
        seq_len: T.
        with_documents: also number the documents within each row.
        fingerprint: of the documents.
    """

    n_rows: int | None = None

    def __init__(
        self, documents: Callable[[], Iterator[np.ndarray]], seq_len: int, with_documents: bool, fingerprint: str
    ) -> None:
        self.seq_len, self.fingerprint = seq_len, fingerprint
        self._documents, self._with_documents = documents, with_documents
        self._rewind()

    def rows(self, numbers: Int[np.ndarray, "N"]) -> Rows:
        """Some rows; those before the last ones asked for are found by reading from the beginning."""
        found = {}
        for number in sorted(set(numbers.tolist())):
            found[number] = self._row(number)
        windows, documents = (np.stack([found[n][i] for n in numbers.tolist()]) for i in (0, 1))
        numbered = documents[:, :-1] - documents[:, :1] if self._with_documents else None
        return Rows(windows[:, :-1].copy(), windows[:, 1:].copy(), numbered)

    def _rewind(self) -> None:
        self._stream = self._endless()
        self._begin = 0
        """The position of the first token that is held."""
        self._tokens = np.empty(0, np.int64)
        self._numbers = np.empty(0, np.int64)

    def _endless(self) -> Iterator[np.ndarray]:
        while True:
            empty = True
            for tokens in self._documents():
                empty = False
                yield tokens
            if empty:
                raise UserError(NOTHING_LEFT)

    def _row(self, number: int) -> tuple[np.ndarray, np.ndarray]:
        first = number * self.seq_len
        if first < self._begin:
            self._rewind()
        while self._begin + len(self._tokens) < first + self.seq_len + 1:
            keep = max(first - self._begin, 0)
            self._begin += min(keep, len(self._tokens))
            tokens = next(self._stream)
            nth = self._numbers[-1] + 1 if len(self._numbers) else 0
            self._tokens = np.concatenate([self._tokens[keep:], tokens.astype(np.int64)])
            self._numbers = np.concatenate([self._numbers[keep:], np.full(len(tokens), nth)])
        at = first - self._begin
        return self._tokens[at : at + self.seq_len + 1], self._numbers[at : at + self.seq_len + 1]


def _texts(paths: tuple[str, ...], account: Account | None = None) -> Iterator[str]:
    return (document.text for document in read_documents(paths, account=account))


def _tokens(tokenizer: Tokenizer, text: str) -> np.ndarray:
    return np.append(np.uint32(tokenizer.end_of_text), tokenizer.encode(text))
