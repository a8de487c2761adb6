"""Which documents are trained on and which validate, decided by key, so that it depends on nothing but their texts.

Equal texts are one document, so a document and its copies are on one side; one that is in the validation files is never
trained on. Without such files, documents in the order of their keys validate until there are enough of them, or those
whose key is below a fraction of all possible ones.

A share is one of bytes. Of few documents of unequal sizes no choice of whole ones may come near it: with
``validation_bytes`` the longest is then cut in two. With ``validation_fraction`` a document stays on its side whatever
is added later, so none is cut; a split that leaves too little to train on is refused.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Bool

from isogloss.config.base import UserError
from isogloss.data.prepare.config import FilesText, TextChoice
from isogloss.data.prepare.spills import KEY, KEY_BYTES, SortedDocuments, Spills

SHARD_BYTES = 32 << 20
MAX_SHARDS = 4096
SCAN_DOCUMENTS = 1 << 18
SMALL_VALIDATION_BYTES = 10_000
"""On less text than this, validation is warned of."""


@dataclass(frozen=True)
class Split:
    """What each document is for, and in how many shards they are stored.

    Args:
        n_shards: shard n holds the n-th of so many equal ranges of keys; a function of the documents alone.
        n_documents: different ones, near duplicates left out.
        n_bytes: of their texts.
        by_file: the documents of validation files validate, and no others.
        below: documents whose key is below it validate.
        chosen: keys (sorted) of documents that validate.
        cut: the document whose tail validates while its head is trained on, and the head's bytes.
        dropped: keys (sorted) of near duplicates.
    """

    n_shards: int
    n_documents: int
    n_bytes: int
    by_file: bool = False
    below: bytes = b""
    chosen: np.ndarray = field(default_factory=lambda: np.empty(0, KEY))
    cut: tuple[bytes, int] | None = None
    dropped: np.ndarray = field(default_factory=lambda: np.empty(0, KEY))

    def documents(self, spills: Spills, part: int, n_parts: int) -> tuple[SortedDocuments, Bool[np.ndarray, "N"]]:
        """The documents in a range of keys, near duplicates left out, and which of them validate."""
        documents = without(spills.sorted_documents(part, n_parts), self.dropped)
        if self.by_file:
            return documents, documents.is_validation
        return documents, (documents.keys < np.bytes_(self.below)) | _among(documents.keys, self.chosen)

    def pieces(self, spills: Spills, part: int, n_parts: int) -> Iterator[tuple[list[bytes], list[bytes]]]:
        """The texts in a range of keys, several megabytes at a time: those that train and those that validate."""
        documents, validates = self.documents(spills, part, n_parts)
        at = 0
        for texts in spills.texts(documents):
            sides: tuple[list[bytes], list[bytes]] = [], []
            keys = documents.keys[at : at + len(texts)].tolist()
            for data, key, validating in zip(texts, keys, validates[at : at + len(texts)].tolist(), strict=True):
                if self.cut is not None and key == self.cut[0]:
                    sides[0].append(data[: self.cut[1]])
                    sides[1].append(data[self.cut[1] :])
                else:
                    sides[validating].append(data)
            at += len(texts)
            yield sides

    def texts(self, spills: Spills, split: str) -> Iterator[str]:
        """All texts of ``"train"`` or ``"validation"``, in order."""
        side = split == "validation"
        for part in range(self.n_shards):
            if self.cut is None:  # those of the other side need not be read
                documents, validates = self.documents(spills, part, self.n_shards)
                pieces = spills.texts(documents.where(validates == side))
            else:
                pieces = (sides[side] for sides in self.pieces(spills, part, self.n_shards))
            for data in (data for piece in pieces for data in piece):
                yield data.decode()


def without(documents: SortedDocuments, dropped: np.ndarray) -> SortedDocuments:
    """The documents that are not among some sorted keys."""
    return documents.where(~_among(documents.keys, dropped)) if len(documents) and len(dropped) else documents


def choose_split(spills: Spills, config: TextChoice, by_file: bool, dropped: np.ndarray) -> Split:
    """Set documents aside for validation, by their keys and sizes alone.

    With ``validation_bytes``, one that would take them over a tenth of all text is passed by. Where that finds less
    than half of the share (``validation_bytes``, at most a tenth of the text), the first document between half of it
    and all of it validates alone; where there is none (a corpus of few files), the longest document is cut at the end
    of a line, and its tail validates.

    Raises:
        UserError: there is no text, too little of it to split, or too little is left to train on.
    """
    n_parts = max(1, spills.n_documents // SCAN_DOCUMENTS)

    def parts() -> Iterator[SortedDocuments]:
        return (without(spills.sorted_documents(part, n_parts), dropped) for part in range(n_parts))

    n_documents = n_bytes = n_chosen = 0
    for documents in parts():
        n_documents += len(documents)
        n_bytes += int(documents.size.sum())
        n_chosen += int(documents.is_validation.sum())
    if n_documents == 0:
        raise UserError("the corpus is empty: its files hold no text that is kept")
    n_shards = min(MAX_SHARDS, 1 << max(0, (n_bytes - 1) // SHARD_BYTES).bit_length())

    def split(**fields) -> Split:
        return Split(n_shards, n_documents, n_bytes, dropped=dropped, **fields)

    if by_file:
        if n_chosen == 0:
            raise UserError("the validation files hold no text")
        if n_chosen == n_documents:
            raise UserError("the training files hold no text that is not also in the validation files")
        return split(by_file=True)
    if isinstance(config, FilesText) and config.validation_fraction is not None:
        return _by_fraction(split, parts, n_documents, n_bytes, config)
    tail_bytes = wanted_bytes(config, n_bytes)
    chosen = _first_small(parts, config.validation_bytes, n_bytes // 10, (tail_bytes + 1) // 2)
    if len(chosen):
        return split(chosen=chosen)
    key, data = _longest(spills, parts)
    head_bytes = _cut_point(data, tail_bytes)
    if head_bytes == len(data):
        raise UserError(
            f"the corpus is too small to split: of {n_bytes} bytes of text {tail_bytes} would be for validation; "
            "add text, or name validation files"
        )
    return split(cut=(key, head_bytes))


def wanted_bytes(config: TextChoice, n_bytes: int) -> int:
    """The bytes that are to validate of ``n_bytes`` of text, where no validation files are named."""
    if isinstance(config, FilesText) and config.validation_fraction is not None:
        return round(config.validation_fraction * n_bytes)
    return min(config.validation_bytes, n_bytes // 10)


def check_train_bytes(config: TextChoice, train: int, validation: int, by_file: bool) -> None:
    """Refuse a split that leaves less to train on than the config allows; named validation files are the user's choice.

    Raises:
        UserError: it leaves less.
    """
    share = train / (train + validation)
    if by_file or not isinstance(config, FilesText) or share >= config.min_train_share:
        return
    asked = f"validation_bytes = {config.validation_bytes}"
    ways = "bring more documents, split the long ones, name validation files"
    if config.validation_fraction is not None:
        asked = f"validation_fraction = {config.validation_fraction:g}"
        ways += ", leave data.validation_fraction out, so that validation_bytes decides"
    raise UserError(
        f"data.{asked}, of whole documents whatever their size, leaves {train:,} bytes of text to train on, and "
        f"{validation:,} validate: {share:.1%} is less than data.min_train_share = {config.min_train_share:g}; {ways}, "
        f"or set data.min_train_share to {int(share * 1000) / 1000:g} or less to train on it"
    )


def doubts(config: TextChoice, train: int, validation: int, by_file: bool) -> Iterator[str]:
    """What is odd about a split, in words: a share far from the one asked for, or too little text to validate on.

    Args:
        config: what was asked for.
        train: bytes of text trained on.
        validation: bytes of text that validate.
        by_file: validation files were named.
    """
    n_bytes = train + validation
    wanted = wanted_bytes(config, n_bytes)
    said = f"{validation:,} of {n_bytes:,} bytes of text validate ({validation / n_bytes:.1%})"
    if by_file and train < validation:
        yield f"{said}, so less than half of it is trained on, as data.validation asks"
    elif not by_file and not wanted / 2 <= validation <= 2 * wanted:
        yield f"{said}, where {wanted:,} are asked for: documents are not cut, and few of them hold much of the text"
    if validation < SMALL_VALIDATION_BYTES:
        yield (
            f"only {validation:,} bytes of text validate, and below {SMALL_VALIDATION_BYTES:,} the validation loss is "
            "mostly chance; bring more text, or name validation files (data.validation)"
        )


def _by_fraction(
    split: Callable[..., Split],
    parts: Callable[[], Iterator[SortedDocuments]],
    n_documents: int,
    n_bytes: int,
    config: FilesText,
) -> Split:
    fraction = config.validation_fraction
    assert fraction is not None
    below = int(fraction * (1 << 64)).to_bytes(8, "big").ljust(KEY_BYTES, b"\0")
    n_below = n_bytes_below = 0
    for documents in parts():
        validates = documents.keys < np.bytes_(below)
        n_below += int(validates.sum())
        n_bytes_below += int(documents.size[validates].sum())
    if n_below in (0, n_documents):
        raise UserError(
            f"data.validation_fraction = {fraction} of {n_documents} documents leaves none "
            f"{'for validation' if n_below == 0 else 'to train on'}; leave it out, so that validation_bytes decides"
        )
    check_train_bytes(config, n_bytes - n_bytes_below, n_bytes_below, by_file=False)
    return split(below=below)


def _first_small(parts: Callable[[], Iterator[SortedDocuments]], wanted: int, most: int, enough: int) -> np.ndarray:
    """The keys of the first documents with ``wanted`` bytes; what would take them over ``most`` is passed by.

    Where that gives less than ``enough``: the first document of ``enough`` to ``most`` bytes, if there is one.
    """
    chosen: list[np.ndarray] = [np.empty(0, KEY)]
    alone: np.ndarray = chosen[0]
    n_bytes = 0
    for documents in parts():
        for at, size in enumerate(documents.size.tolist()):
            if n_bytes >= wanted:
                return np.concatenate(chosen)
            if n_bytes + size <= most:
                chosen.append(documents.keys[at : at + 1])
                n_bytes += size
            elif enough <= size <= most and not len(alone):
                alone = documents.keys[at : at + 1]
    return np.concatenate(chosen) if n_bytes >= enough else alone


def _longest(spills: Spills, parts: Callable[[], Iterator[SortedDocuments]]) -> tuple[bytes, bytes]:
    """Key and text of the longest document, of several the one with the lowest key."""
    best: SortedDocuments | None = None
    for documents in parts():
        if len(documents):
            at = int(np.argmax(documents.size))
            if best is None or documents.size[at] > best.size[0]:
                best = documents.where(np.arange(len(documents)) == at)
    assert best is not None
    return best.keys.tolist()[0], next(spills.texts(best))[0]


def _cut_point(data: bytes, tail_bytes: int) -> int:
    """Where a tail of at most ``tail_bytes`` begins: after the first line end that leaves half, else at a character."""
    at = len(data) - tail_bytes
    if at > 0 and (line_end := data.find(b"\n", at - 1, len(data) - max(1, tail_bytes // 2))) >= 0:
        return line_end + 1
    while at < len(data) and data[at] & 0xC0 == 0x80:  # inside a UTF-8 character
        at += 1
    return at


def _among(keys: np.ndarray, chosen: np.ndarray) -> Bool[np.ndarray, "N"]:
    """Which keys are among some sorted ones."""
    if len(keys) == 0 or len(chosen) == 0:
        return np.zeros(len(keys), bool)
    near = chosen[np.searchsorted(chosen, keys[0]) : np.searchsorted(chosen, keys[-1], side="right")]
    return np.isin(keys, near)
