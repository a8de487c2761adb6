"""What a corpus is made from: units that workers read alone, and a fingerprint of all their contents.

The fingerprint is of contents, not of names, order or times: a corpus merely moved, touched or listed otherwise counts
as unchanged. Hashes are kept with the stamp of their file (its size, its times of modification and of change, its
inode), so each is read for it once, and again when the file is another or may have changed.
"""

import hashlib
import json
import platform
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from pydantic import TypeAdapter

from isogloss.config.base import UserError
from isogloss.config.stored import read_bounded
from isogloss.data.prepare.config import FilesText, NearDuplicatesConfig, TextChoice
from isogloss.data.prepared import InputRecord, SplitName
from isogloss.data.sources import hub
from isogloss.data.sources.files import HUB, endings
from isogloss.data.sources.installed import fingerprint_documents, python_stdlib
from isogloss.data.sources.listing import list_inputs
from isogloss.data.sources.reading import Record, read_unit
from isogloss.data.sources.records import Document
from isogloss.data.sources.tally import Tallies, merge
from isogloss.data.sources.units import ReadSettings, Unit
from isogloss.durable import hash_file, whole_file

UNIT_BYTES = 32 << 20
SMALL_BYTES = 64 << 20
HASH_THREADS = 8
_HASHES = TypeAdapter(dict[str, list[int | str]])
ENTRY_LENGTH = 5
"""Of a file's entry among the hashes: its stamp and its hash."""
TELLING = (".jsonl", ".parquet")
"""Endings that have always said how a file is read; every other one meant text once."""


@dataclass(frozen=True)
class Files:
    """Files, or parts of them, that are read one after the other."""

    units: tuple[Unit, ...]
    settings: ReadSettings
    n_bytes: int
    """Of input."""

    def read(self) -> Iterator[Record]:
        """Their records."""
        for unit in self.units:
            yield from read_unit(unit, self.settings)


@dataclass(frozen=True)
class Embedded:
    """Documents that are at hand."""

    documents: tuple[Document, ...]

    @property
    def n_bytes(self) -> int:
        """Bytes of input, nearly."""
        return sum(len(document.text) for document in self.documents)

    def read(self) -> Iterator[Record]:
        """All of them."""
        return iter(self.documents)


@dataclass(frozen=True)
class Source:
    """What one worker reads alone at a time, and what it is for."""

    content: Files | Embedded
    is_validation: bool
    identity: str
    """Of the content: work done on it is good as long as this is the same."""

    @property
    def n_bytes(self) -> int:
        """Bytes of input that reading it passes."""
        return self.content.n_bytes


@dataclass(frozen=True)
class Inputs:
    """All units of a corpus, and how they are read."""

    sources: Sequence[Source]
    fingerprint: str
    origin: str
    records: Sequence[InputRecord] = ()
    settings: ReadSettings = field(default_factory=ReadSettings)
    near_duplicates: NearDuplicatesConfig | None = None
    skipped: dict[str, str] = field(default_factory=dict)
    passed_over: Tallies = field(default_factory=dict)
    """Files that were found and are not read, by reason."""

    @cached_property
    def n_bytes(self) -> int:
        """Bytes to read."""
        return sum(source.n_bytes for source in self.sources)

    @property
    def is_small(self) -> bool:
        """Whether starting processes would take longer than it saves; a dataset of the hub may be of any size."""
        unknown = any(record.name.startswith(HUB) for record in self.records)
        return self.n_bytes <= SMALL_BYTES and not unknown

    @property
    def has_validation(self) -> bool:
        """Whether the user chose what validates."""
        return any(source.is_validation for source in self.sources)


def open_inputs(config: TextChoice, verify: bool = False) -> Inputs:
    """List and fingerprint what a config names.

    Args:
        config: of the text.
        verify: hash every file, also those that look as they did when they were last hashed.

    Raises:
        UserError: a path names nothing, or a file cannot be read.
    """
    if not isinstance(config, FilesText):
        skipped: dict[str, str] = {}
        documents = tuple(python_stdlib(config.include_tests, skipped.__setitem__))
        fingerprint = fingerprint_documents(documents)
        origin = f"the standard library of {platform.python_implementation()} {platform.python_version()}"
        return Inputs([Source(Embedded(documents), False, fingerprint)], fingerprint, origin, skipped=skipped)
    settings = config.read_settings()
    sides: dict[SplitName, tuple[str, ...]] = {"validation": config.validation, "train": config.train}
    listed: dict[SplitName, list[Unit]] = {}
    passed_over: Tallies = {}
    for split, paths in sides.items():
        if paths:
            listing = list_inputs(paths, UNIT_BYTES, settings)
            listed[split] = listing.units
            merge(passed_over, listing.passed_over)
    cache = config.prepared_dir / "inputs.json"
    hashes = _hash_files([unit for units in listed.values() for unit in units], cache, verify)
    sources = [source for split, units in listed.items() for source in _group(units, split, hashes, settings)]
    whole: list[tuple[SplitName, Unit]] = [
        (split, unit) for split, units in listed.items() for unit in units if unit.start == 0
    ]
    records = [
        InputRecord(name=_printable(unit.name), split=split, n_bytes=unit.size, sha256=hashes[unit.path])
        for split, unit in whole
    ]
    decisive = sorted([split, hashes[unit.path], *_meaning(unit)] for split, unit in whole)
    return Inputs(
        sources,
        hashlib.sha256(json.dumps(decisive).encode()).hexdigest(),
        ", ".join(map(_printable, config.train)),
        sorted(records, key=lambda record: (record.split, record.name)),
        settings,
        config.near_duplicates,
        passed_over=passed_over,
    )


def _meaning(unit: Unit) -> tuple[str, str]:
    """How a file's bytes are read: its endings, where they say it; they stand in the keys of prepared corpora."""
    ending, compression = endings(unit.path)
    if unit.kind in ("lines", "parquet"):
        return {"lines": ".jsonl", "parquet": ".parquet"}[unit.kind], compression
    if unit.kind != "text":
        return unit.kind, compression
    return ("text" if ending in TELLING else ending), compression


def _group(units: Sequence[Unit], split: str, hashes: dict[Path, str], settings: ReadSettings) -> Iterator[Source]:
    """Sources of about ``UNIT_BYTES``, the same for the same contents in whatever order."""
    parts = Counter(unit.path for unit in units)
    identified = sorted(
        (f"{hashes[unit.path]}:{''.join(_meaning(unit))}:{unit.start}:{unit.end}", at) for at, unit in enumerate(units)
    )
    group: list[Unit] = []
    identities = [split]
    n_bytes = 0
    for identity, at in identified:
        size = units[at].size // parts[units[at].path]  # a part of a file, nearly
        if group and n_bytes + size > UNIT_BYTES:
            yield _source(group, identities, settings, n_bytes)
            group, identities, n_bytes = [], [split], 0
        group.append(units[at])
        identities.append(identity)
        n_bytes += size
    yield _source(group, identities, settings, n_bytes)


def _source(units: Sequence[Unit], identities: Sequence[str], settings: ReadSettings, n_bytes: int) -> Source:
    digest = hashlib.sha256(json.dumps(identities).encode()).hexdigest()
    return Source(Files(tuple(units), settings, n_bytes), identities[0] == "validation", digest)


def _hash_files(units: Sequence[Unit], cache: Path, verify: bool) -> dict[Path, str]:
    """What tells each file's content from any other: its SHA-256 (hex), taken on some threads where it is not known."""
    known = _load_hashes(cache)
    files = {unit.path: unit for unit in units}
    of_hub = {path: _hash_text(hub.identify(unit.name)) for path, unit in files.items() if unit.name.startswith(HUB)}
    local = [unit for path, unit in files.items() if path not in of_hub]
    missing = [unit for unit in local if verify or known.get(str(unit.path.absolute()), [])[:-1] != unit.stamp]
    with ThreadPoolExecutor(HASH_THREADS) as pool:  # hashing lets go of the interpreter
        fresh = dict(zip((unit.path for unit in missing), pool.map(_hash_unit, missing), strict=True))
    added = {str(unit.path.absolute()): [*unit.stamp, fresh[unit.path]] for unit in missing}
    if any(known.get(path) != entry for path, entry in added.items()):
        _save_hashes(cache, known | added)
    of_local = {unit.path: fresh.get(unit.path) or str(known[str(unit.path.absolute())][-1]) for unit in local}
    return of_hub | of_local


def _hash_text(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()


def _printable(name: str) -> str:
    """A name that can be written as UTF-8; a path may be none."""
    return name.encode("utf-8", "backslashreplace").decode()


def _hash_unit(unit: Unit) -> str:
    try:
        digest = hash_file(unit.path)
        status = unit.path.stat()
    except OSError as error:
        raise UserError(f"{unit.path}: cannot be read ({error.strerror})") from error
    if [status.st_size, status.st_mtime_ns, status.st_ctime_ns] != [unit.size, unit.mtime_ns, unit.ctime_ns]:
        raise UserError(f"{unit.path}: changed while it was being read; run the same command again")
    return digest


def _load_hashes(cache: Path) -> dict[str, list[int | str]]:
    try:
        known = _HASHES.validate_json(read_bounded(cache), strict=True)
    except (OSError, ValueError):  # absent or damaged: it only saves time
        return {}
    # Earlier versions kept size and modification time alone: such files are hashed once more.
    return {path: entry for path, entry in known.items() if len(entry) == ENTRY_LENGTH}


def _save_hashes(cache: Path, hashes: dict[str, list[int | str]]) -> None:
    with suppress(OSError):  # a full disk or a read-only folder: it only saves time
        cache.parent.mkdir(parents=True, exist_ok=True)
        with whole_file(cache) as stream:  # other processes may be writing it: no lock is held yet
            stream.write(json.dumps(hashes).encode())
