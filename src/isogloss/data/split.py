"""Which documents are trained on and which validate: decided in one pass that keeps numbers, not texts.

Empty documents and exact duplicates are dropped; of equal documents the first one stays. Sources are surveyed
validation first, so that a document that the user chose for validation is never trained on.

Without documents chosen for validation, those whose names hash lowest validate: the choice depends on the names
alone, not on their order or a seed, and two corpora that share files agree on them.
"""

import hashlib
from array import array
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Int, UInt

from isogloss.config.base import UserError
from isogloss.data.sources import Document

Source = Callable[[], Iterator[Document]]
"""Documents that can be read again and again, in the same order."""

DIGEST_BYTES = 16


@dataclass(frozen=True)
class Survey:
    """One entry per document, in the order of reading (N documents)."""

    source: Int[np.ndarray, "N"]
    """The number of the source it came from."""
    size: Int[np.ndarray, "N"]
    """Bytes of its text as UTF-8."""
    name_hash: UInt[np.ndarray, "N"]
    """64 bits of a hash of its name."""
    is_first: Bool[np.ndarray, "N"]
    """Whether no document before it has the same text."""

    @property
    def kept(self) -> Bool[np.ndarray, "N"]:
        """Neither empty nor a duplicate."""
        return self.is_first & (self.size > 0)

    @property
    def n_empty(self) -> int:
        """How many documents hold no text."""
        return int((self.size == 0).sum())

    @property
    def n_duplicates(self) -> int:
        """How many documents with a text repeat an earlier one."""
        return int((~self.is_first & (self.size > 0)).sum())


def survey(sources: Sequence[Source]) -> Survey:
    """Read every document of every source once, and keep its size and hashes (33 bytes a document)."""
    source_numbers, sizes, name_hashes, digests = array("b"), array("q"), array("Q"), bytearray()
    for number, source in enumerate(sources):
        for document in source():
            data = document.text.encode()
            source_numbers.append(number)
            sizes.append(len(data))
            name = hashlib.blake2b(document.name.encode("utf-8", "surrogateescape"), digest_size=8).digest()
            name_hashes.append(int.from_bytes(name, "little"))
            digests += hashlib.blake2b(data, digest_size=DIGEST_BYTES).digest()
    # Of equal digests np.unique names the first; fixed-width byte strings compare bytewise up to trailing zeros, which
    # digests of one width cannot differ in alone.
    first = np.unique(np.frombuffer(bytes(digests), dtype=f"S{DIGEST_BYTES}"), return_index=True)[1]
    is_first = np.zeros(len(sizes), dtype=bool)
    is_first[first] = True
    return Survey(
        np.array(source_numbers, np.int8), np.array(sizes, np.int64), np.array(name_hashes, np.uint64), is_first
    )


@dataclass(frozen=True)
class Split:
    """What each surveyed document is for.

    Args:
        survey: the documents.
        is_validation: which of the kept ones validate; the others are trained on.
        cut: the document that is cut in two and the bytes of its head, which is trained on while the tail validates.
    """

    survey: Survey
    is_validation: Bool[np.ndarray, "N"]
    cut: tuple[int, int] | None = None

    def texts(self, sources: Sequence[Source], split: str) -> Iterator[str]:
        """The texts of ``"train"`` or ``"validation"``, in the order of reading.

        Raises:
            UserError: the sources no longer hold what was surveyed.
        """
        wanted = self.survey.kept & (self.is_validation if split == "validation" else ~self.is_validation)
        cut_at, head_bytes = self.cut or (-1, 0)
        last = max(int(np.flatnonzero(wanted).max(initial=-1)), cut_at)
        for at, document in enumerate(document for source in sources for document in source()):
            data = document.text.encode()
            if len(data) != self.survey.size[at]:
                raise UserError(f"{document.name}: changed while the corpus was being prepared; prepare it again")
            if at == cut_at:
                yield (data[head_bytes:] if split == "validation" else data[:head_bytes]).decode()
            elif wanted[at]:
                yield document.text
            if at == last:  # the rest need not be read again
                return
        raise UserError("documents vanished while the corpus was being prepared; prepare it again")


def choose_split(documents: Survey, sources: Sequence[Source], validation_bytes: int) -> Split:
    """Set documents aside for validation.

    With two sources the first one validates. With one, documents in order of the hash of their name validate until they
    hold ``validation_bytes``; one that would take them over a tenth of all text is passed by. Where none is small
    enough (a corpus of one file), the longest document is cut at the end of a line, and its tail validates: at most
    ``validation_bytes`` and a tenth of the text.

    Raises:
        UserError: there is no text, or too little of it to split.
    """
    kept = documents.kept
    total = int(documents.size[kept].sum())
    if total == 0:
        raise UserError("the corpus is empty: its files hold no text")
    if len(sources) == 2:
        is_validation = documents.source == 0
        if not (kept & is_validation).any():
            raise UserError("the validation files hold no text")
        if not (kept & ~is_validation).any():
            raise UserError("the training files hold no text that is not also in the validation files")
        return Split(documents, is_validation)
    is_validation = np.zeros(len(kept), dtype=bool)
    chosen = 0
    for at in np.lexsort((np.arange(len(kept)), documents.name_hash)):
        if chosen >= validation_bytes:
            break
        if kept[at] and chosen + documents.size[at] <= total // 10:
            is_validation[at] = True
            chosen += int(documents.size[at])
    if chosen:
        return Split(documents, is_validation)
    longest = int(np.argmax(np.where(kept, documents.size, 0)))
    text = next(document.text for at, document in enumerate(sources[0]()) if at == longest)
    tail_bytes = min(validation_bytes, total // 10)
    head_bytes = _cut_point(text.encode(), tail_bytes)
    if head_bytes == documents.size[longest]:
        raise UserError(
            f"the corpus is too small to split: of {total} bytes of text {tail_bytes} would be for validation; "
            "add text, or name validation files"
        )
    return Split(documents, is_validation, cut=(longest, head_bytes))


def _cut_point(data: bytes, tail_bytes: int) -> int:
    """Where a tail of at most ``tail_bytes`` begins: after the first line end there, else at a character."""
    at = len(data) - tail_bytes
    if at > 0 and (line_end := data.find(b"\n", at - 1, len(data) - 1)) >= 0:
        return line_end + 1
    while at < len(data) and data[at] & 0xC0 == 0x80:  # inside a UTF-8 character
        at += 1
    return at
