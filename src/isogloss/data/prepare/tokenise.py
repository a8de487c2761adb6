"""Pass 2: the documents in a range of keys are merged, split and stored as token shards."""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np

from isogloss.config.stored import Count, DamagedError, Stored, read_stored
from isogloss.data.prepare.spills import Spills
from isogloss.data.prepare.split import Split
from isogloss.data.shards import ShardRecord, ShardWriter, token_dtype
from isogloss.data.tokenizers.base import Tokenizer, lossy_characters
from isogloss.data.tokenizers.loading import load_tokenizer
from isogloss.durable import write_whole

SPLITS = ("train", "validation")


class SideRecord(Stored):
    """What one split has in a range of keys."""

    n_bytes: Count
    shard: ShardRecord
    n_altered: int = 0
    """Documents with a character that the tokenizer does not keep."""
    altered: str = ""
    """The surroundings of the first such character."""


class RangeRecord(Stored):
    """What pass 2 made of a range of keys: for each split."""

    train: SideRecord
    validation: SideRecord


@dataclass(frozen=True)
class TokeniseTask:
    """A range of keys to store, from where and to where. ``in_process`` may use all cores."""

    number: int
    spills: Spills
    split: Split
    tokenizer: Path
    folder: Path
    in_process: bool


def shard_name(split: str, number: int) -> str:
    """Without an ending."""
    return f"{split}-{number:05d}"


def tokenise_range(task: TokeniseTask) -> RangeRecord:
    """Store the documents of a range, each as ``end_of_text`` and the tokens of its text.

    Raises:
        UserError: a text is not what pass 1 wrote.
        OSError: a shard cannot be written.
    """
    tokenizer = _load(task.tokenizer)
    n_bytes = [0, 0]
    losses = [Losses(lossy_characters(tokenizer)) for _ in SPLITS]
    with ExitStack() as stack:
        dtype = token_dtype(tokenizer.n_tokens)
        writers = [
            stack.enter_context(ShardWriter(task.folder, shard_name(split, task.number), dtype)) for split in SPLITS
        ]
        for sides in task.split.pieces(task.spills, task.number, task.split.n_shards):
            for side, texts in enumerate(sides):
                if texts:
                    tokens, lengths = _encode(tokenizer, texts, task.in_process)
                    writers[side].write(tokens, lengths)
                    n_bytes[side] += sum(map(len, texts))
                    losses[side].look(texts)
    train, validation = (
        SideRecord(n_bytes=size, shard=writer.record, n_altered=lost.n_documents, altered=lost.first)
        for size, writer, lost in zip(n_bytes, writers, losses, strict=True)
    )
    record = RangeRecord(train=train, validation=validation)
    write_whole(_record_file(task.folder, task.number), record.model_dump_json().encode())
    return record


class Losses:
    """Documents with characters that a tokenizer does not keep, counted."""

    def __init__(self, characters: str):
        self._characters = [character.encode() for character in characters]
        self.n_documents, self.first = 0, ""

    def look(self, texts: Sequence[bytes]) -> None:
        """Count those among some texts in UTF-8."""
        if not self._characters:
            return
        for text in texts:
            places = [text.find(character) for character in self._characters if character in text]
            if places:
                self.n_documents += 1
                near = text[max(0, min(places) - 20) : min(places) + 20]
                self.first = self.first or repr(near.decode("utf-8", "ignore"))


def read_range(folder: Path, number: int, itemsize: int) -> RangeRecord | None:
    """What was made of a range before, if its shards are there."""
    try:
        record = read_stored(_record_file(folder, number), RangeRecord)
        for split, side in (("train", record.train), ("validation", record.validation)):
            for ending, size in ((".bin", itemsize * side.shard.n_tokens), (".starts", 8 * side.shard.n_documents)):
                if size and (folder / f"{shard_name(split, number)}{ending}").stat().st_size != size:
                    return None
    except (OSError, DamagedError):
        return None
    return record


def _record_file(folder: Path, number: int) -> Path:
    return folder / f"range-{number:05d}.json"


@lru_cache(maxsize=1)
def _load(folder: Path) -> Tokenizer:
    return load_tokenizer(folder, is_checked=True)


def _encode(tokenizer: Tokenizer, texts: Sequence[bytes], in_process: bool) -> tuple[np.ndarray, np.ndarray]:
    """The tokens of some documents end to end, and how many each has."""
    opening = np.array([tokenizer.end_of_text], dtype=np.uint32)
    decoded: Iterator[str] = (data.decode() for data in texts)
    encoded = tokenizer.encode_batch(list(decoded)) if in_process else [tokenizer.encode(text) for text in decoded]
    tokens = np.concatenate([part for ids in encoded for part in (opening, ids)])
    assert tokens.max() < tokenizer.n_tokens, "the tokenizer made an id beyond its own vocabulary"
    return tokens, np.array([1 + len(ids) for ids in encoded])
