"""From documents to a prepared corpus, once: survey and split, build the tokenizer, write token shards and a manifest.

The folder's name is a hash of everything that decides its content. It is written beside its place and renamed when it
is complete and on the disk, under a lock that the system releases even when the process is killed: whoever comes next
finds a whole corpus or none.
"""

import hashlib
import json
import platform
import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from filelock import FileLock, Timeout
from pydantic import Field

from isogloss.config.base import Config, UserError
from isogloss.data.baselines import CompressionMeter
from isogloss.data.corpora import fingerprint_documents, python_stdlib
from isogloss.data.corpus import PackedConfig, SplitName
from isogloss.data.prepared import (
    MANIFEST,
    TOKENIZER_FOLDER,
    FileRecord,
    Manifest,
    PreparedCorpus,
    SplitRecord,
    open_prepared,
)
from isogloss.data.shards import ShardWriter, token_dtype
from isogloss.data.sources import fingerprint_inputs, read_documents
from isogloss.data.split import Source, Split, choose_split, survey
from isogloss.data.tokenizers.base import Tokenizer
from isogloss.data.tokenizers.config import TokenizerConfig
from isogloss.data.tokenizers.loading import build_tokenizer
from isogloss.durable import DISK_FULL, hash_file, sync, sync_folder

FORMAT = 1
"""Raised whenever the same inputs and settings would give other files."""

BATCH_CHARACTERS = 1 << 22
PROGRESS_SECONDS = 10


class TextConfig(Config):
    """What every text has that is prepared."""

    validation_bytes: int = Field(default=600_000, ge=1)
    """Text set aside for validation, unless validation files are given; never more than a tenth of all text."""
    prepared_dir: Path = Path("prepared")
    """Where prepared corpora are kept, each in a folder of its own."""


class PythonStdlibText(TextConfig):
    """The sources of the running Python's standard library: nothing to download."""

    type: Literal["python_stdlib"] = "python_stdlib"
    include_tests: bool = False
    """Also the library's own tests: about three times as much text."""


class FilesText(TextConfig):
    """Text files and JSON lines of your own."""

    type: Literal["files"] = "files"
    train: tuple[str, ...] = Field(min_length=1)
    """Files, folders and globs to train on."""
    validation: tuple[str, ...] = ()
    """Files, folders and globs to validate on; without any, a part of ``train`` is set aside."""


class PythonStdlibConfig(PythonStdlibText, PackedConfig):
    """The sources of the running Python's standard library: nothing to download."""


class FilesConfig(FilesText, PackedConfig):
    """Text files and JSON lines of your own."""


TextChoice = Annotated[PythonStdlibText | FilesText, Field(discriminator="type")]
"""Any text that is prepared: what is read, without how its rows are cut."""


@dataclass(frozen=True)
class Inputs:
    """The documents of a corpus, validation first where the user chose it, and what identifies them."""

    sources: Sequence[Source]
    fingerprint: str
    origin: str
    skipped: dict[str, str] = field(default_factory=dict)


def prepare(
    config: PythonStdlibText | FilesText,
    tokenizer_config: TokenizerConfig,
    progress: Callable[[str], None] = lambda message: None,
    verify: bool = False,
) -> PreparedCorpus:
    """The prepared corpus of a config: an existing one where it is whole, else a new one.

    Args:
        config: the corpus.
        tokenizer_config: its tokenizer; one that is trained sees the training split only.
        progress: told in a short sentence what is being done.
        verify: compare the checksums of an existing corpus, not only the sizes of its files.

    Raises:
        UserError: inputs that cannot be read or are empty, or a folder that cannot be written.
    """
    inputs = _open_inputs(config)
    folder = config.prepared_dir / _key(config, tokenizer_config, inputs)
    if (corpus := _reuse(folder, verify, progress)) is not None:
        return corpus
    try:
        config.prepared_dir.mkdir(parents=True, exist_ok=True)
        _sweep(config.prepared_dir)
        with _locked(folder, progress):
            if (corpus := _reuse(folder, verify, progress)) is None:
                _make(folder, config, tokenizer_config, inputs, progress)
                corpus = open_prepared(folder)
    except OSError as error:
        raise UserError(
            f"{config.prepared_dir}: the prepared corpus cannot be written ({error.strerror or error}); "
            "choose another data.prepared_dir"
        ) from error
    return corpus


def training_texts(config: PythonStdlibText | FilesText) -> tuple[str, Callable[[], Iterator[str]]]:
    """What identifies the training texts of a config, and a way to read them again and again."""
    inputs = _open_inputs(config)

    def read() -> Iterator[str]:
        split = choose_split(survey(inputs.sources), inputs.sources, config.validation_bytes)
        return split.texts(inputs.sources, "train")

    return f"{inputs.fingerprint}:{config.validation_bytes}", read


def _open_inputs(config: PythonStdlibText | FilesText) -> Inputs:
    if isinstance(config, PythonStdlibText):
        skipped: dict[str, str] = {}
        documents = list(python_stdlib(config.include_tests, skipped.__setitem__))
        origin = f"the standard library of {platform.python_implementation()} {platform.python_version()}"
        return Inputs([lambda: iter(documents)], fingerprint_documents(documents), origin, skipped)
    groups = [paths for paths in (config.validation, config.train) if paths]
    cache = config.prepared_dir / "inputs.json"
    sources: list[Source] = [lambda paths=paths: read_documents(paths) for paths in groups]
    fingerprint = "+".join(fingerprint_inputs(paths, cache) for paths in groups)
    return Inputs(sources, fingerprint, ", ".join(config.train))


def _key(config: PythonStdlibText | FilesText, tokenizer_config: TokenizerConfig, inputs: Inputs) -> str:
    decisive: list[Any] = [FORMAT, inputs.fingerprint]
    if tokenizer_config.type == "file":  # by its content, which may have changed under the same path
        decisive.append(build_tokenizer(tokenizer_config, tuple).fingerprint)
    else:
        decisive.append(tokenizer_config.model_dump(mode="json"))
    if len(inputs.sources) == 1:
        decisive.append(config.validation_bytes)
    return hashlib.sha256(json.dumps(decisive, sort_keys=True).encode()).hexdigest()[:16]


def _reuse(folder: Path, verify: bool, progress: Callable[[str], None]) -> PreparedCorpus | None:
    if not folder.exists():
        return None
    try:
        return open_prepared(folder, verify)
    except UserError as error:
        progress(f"not reused: {error}")
        return None


@contextmanager
def _locked(folder: Path, progress: Callable[[str], None]) -> Iterator[None]:
    lock = FileLock(folder.with_suffix(".lock"))
    try:
        lock.acquire(timeout=0)
    except Timeout:
        progress(f"another process is preparing {folder}: waiting for it")
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def _sweep(parent: Path) -> None:
    """Remove what killed preparations left behind, but nothing that a living one is writing."""
    for partial in parent.glob("*.partial"):
        try:
            with FileLock(partial.with_suffix(".lock"), timeout=0):
                shutil.rmtree(partial, ignore_errors=True)
        except Timeout:
            continue


def _make(
    folder: Path,
    config: PythonStdlibText | FilesText,
    tokenizer_config: TokenizerConfig,
    inputs: Inputs,
    progress: Callable[[str], None],
) -> None:
    """Write the folder, whole or not at all; the lock is held."""
    progress(f"reading {inputs.origin}")
    documents = survey(inputs.sources)
    split = choose_split(documents, inputs.sources, config.validation_bytes)
    partial = folder.with_suffix(".partial")
    shutil.rmtree(partial, ignore_errors=True)
    try:
        partial.mkdir()
        _write(partial, split, config, tokenizer_config, inputs, progress)
        if folder.exists():  # damaged: _reuse refused it
            shutil.rmtree(folder)
        partial.rename(folder)
        sync_folder(folder.parent)
    except OSError as error:
        if error.errno not in DISK_FULL:
            raise  # told by `prepare`
        # A tokenizer makes at most a token of each byte, and each document has one that opens it and a start.
        n_bytes = 4 * int(documents.size[documents.kept].sum()) + 12 * int(documents.kept.sum())
        raise UserError(
            f"{folder.parent}: the prepared corpus cannot be written ({error.strerror or error}); it needs up to "
            f"{n_bytes:,} bytes and the disk has {shutil.disk_usage(folder.parent).free:,} free: make room there, "
            "or choose another data.prepared_dir"
        ) from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _write(
    folder: Path,
    split: Split,
    config: PythonStdlibText | FilesText,
    tokenizer_config: TokenizerConfig,
    inputs: Inputs,
    progress: Callable[[str], None],
) -> None:
    progress(f"building the tokenizer ({tokenizer_config.type})")
    tokenizer = build_tokenizer(tokenizer_config, lambda: split.texts(inputs.sources, "train"))
    (folder / TOKENIZER_FOLDER).mkdir()
    tokenizer.save(folder / TOKENIZER_FOLDER)
    meter = CompressionMeter()
    train = _write_split(folder, "train", split.texts(inputs.sources, "train"), tokenizer, progress)
    watched = meter.watch(split.texts(inputs.sources, "validation"))
    validation = _write_split(folder, "validation", watched, tokenizer, progress)
    written = sorted(path for path in folder.rglob("*") if path.is_file())
    manifest = Manifest(
        format=FORMAT,
        origin=inputs.origin,
        corpus=config.model_dump(mode="json", exclude={"seq_len", "within_document", "packing", "prepared_dir"}),
        tokenizer=tokenizer_config.model_dump(mode="json"),
        inputs_fingerprint=inputs.fingerprint,
        tokenizer_fingerprint=tokenizer.fingerprint,
        n_tokens=tokenizer.n_tokens,
        dtype=token_dtype(tokenizer.n_tokens),
        train=train,
        validation=validation,
        n_duplicates=split.survey.n_duplicates,
        n_empty=split.survey.n_empty,
        skipped=inputs.skipped,
        baselines=meter.finish(),
        files={path.relative_to(folder).as_posix(): _record(path) for path in written},
    )
    with (folder / MANIFEST).open("wb") as stream:
        stream.write(manifest.model_dump_json(indent=2).encode())
        sync(stream)
    sync_folder(folder / TOKENIZER_FOLDER)
    sync_folder(folder)


def _write_split(
    folder: Path, name: SplitName, texts: Iterable[str], tokenizer: Tokenizer, progress: Callable[[str], None]
) -> SplitRecord:
    """Store each document as ``end_of_text`` and the tokens of its text."""
    opening = np.array([tokenizer.end_of_text], dtype=np.uint32)
    n_bytes, reported = 0, time.monotonic()
    with closing(ShardWriter(folder, name, token_dtype(tokenizer.n_tokens))) as writer:
        for batch in _batches(texts):
            encoded = tokenizer.encode_batch(batch)
            tokens = np.concatenate([part for ids in encoded for part in (opening, ids)])
            assert tokens.max() < tokenizer.n_tokens, "the tokenizer made an id beyond its own vocabulary"
            writer.write(tokens, np.array([1 + len(ids) for ids in encoded]))
            n_bytes += sum(len(text.encode()) for text in batch)
            if time.monotonic() - reported > PROGRESS_SECONDS:
                reported = time.monotonic()
                progress(f"{name}: {n_bytes / 1e6:,.0f} MB of text are {writer.n_tokens:,} tokens so far")
        writer.finish()
    progress(f"{name}: {writer.n_documents:,} documents, {n_bytes:,} bytes, {writer.n_tokens:,} tokens")
    return SplitRecord(
        n_documents=writer.n_documents, n_bytes=n_bytes, n_tokens=writer.n_tokens, shards=tuple(writer.names)
    )


def _batches(texts: Iterable[str]) -> Iterator[list[str]]:
    batch, n_characters = [], 0
    for text in texts:
        batch.append(text)
        n_characters += len(text)
        if n_characters >= BATCH_CHARACTERS:
            yield batch
            batch, n_characters = [], 0
    if batch:
        yield batch


def _record(path: Path) -> FileRecord:
    with path.open("rb+") as stream:  # the tokenizer's files are not yet known to be on the disk
        sync(stream)
    return FileRecord(n_bytes=path.stat().st_size, sha256=hash_file(path))
