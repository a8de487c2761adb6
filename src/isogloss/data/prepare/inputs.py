"""What a corpus is made from: units that workers read alone, and a fingerprint of all their contents.

The fingerprint is of contents, not of names, order or times: a corpus merely moved, touched or listed otherwise counts
as unchanged. Hashes are kept with the size and the modification time of their file, so each is read for it once.
"""

import hashlib
import json
import platform
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from isogloss.config.base import UserError
from isogloss.data.corpora import fingerprint_documents, python_stdlib
from isogloss.data.prepare.config import DataConfig, FilesConfig, NearDuplicatesConfig
from isogloss.data.prepared import InputRecord
from isogloss.data.sources.files import endings
from isogloss.data.sources.reading import ReadSettings, read_unit
from isogloss.data.sources.records import BadRecord, Document, Dropped
from isogloss.data.sources.units import Unit, list_units
from isogloss.durable import hash_file, write_whole

UNIT_BYTES = 32 << 20
HASH_THREADS = 8


@dataclass(frozen=True)
class Files:
    """Files, or parts of them, that are read one after the other."""

    units: tuple[Unit, ...]
    settings: ReadSettings

    @property
    def n_bytes(self) -> int:
        """Bytes of input."""
        return sum(map(_bytes_of, self.units))

    def read(self) -> Iterator[Document | BadRecord | Dropped]:
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

    def read(self) -> Iterator[Document | BadRecord | Dropped]:
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

    @cached_property
    def n_bytes(self) -> int:
        """Bytes to read."""
        return sum(source.n_bytes for source in self.sources)

    @property
    def has_validation(self) -> bool:
        """Whether the user chose what validates."""
        return any(source.is_validation for source in self.sources)


def open_inputs(config: DataConfig) -> Inputs:
    """List and fingerprint what a config names.

    Raises:
        UserError: a path names nothing, or a file cannot be read.
    """
    if not isinstance(config, FilesConfig):
        skipped: dict[str, str] = {}
        documents = tuple(python_stdlib(config.include_tests, skipped.__setitem__))
        fingerprint = fingerprint_documents(documents)
        origin = f"the standard library of {platform.python_implementation()} {platform.python_version()}"
        return Inputs([Source(Embedded(documents), False, fingerprint)], fingerprint, origin, skipped=skipped)
    settings = ReadSettings(config.text_field, config.max_document_bytes, config.filters)
    sides = {"validation": config.validation, "train": config.train}
    listed = {split: list_units(paths, UNIT_BYTES) for split, paths in sides.items() if paths}
    hashes = _hash_files([unit for units in listed.values() for unit in units], config.prepared_dir / "inputs.json")
    sources = [source for split, units in listed.items() for source in _group(units, split, hashes, settings)]
    whole = [(split, unit) for split, units in listed.items() for unit in units if unit.start == 0]
    records = [
        InputRecord(name=unit.name, split=split, n_bytes=unit.size, sha256=hashes[unit.path]) for split, unit in whole
    ]
    decisive = sorted([split, hashes[unit.path], *endings(unit.path)] for split, unit in whole)
    return Inputs(
        sources,
        hashlib.sha256(json.dumps(decisive).encode()).hexdigest(),
        ", ".join(config.train),
        sorted(records, key=lambda record: (record.split, record.name)),
        settings,
        config.near_duplicates,
    )


def _group(units: Sequence[Unit], split: str, hashes: dict[Path, str], settings: ReadSettings) -> Iterator[Source]:
    """Sources of about ``UNIT_BYTES``, the same for the same contents in whatever order."""
    group: list[Unit] = []
    identities: list[str] = []
    n_bytes = 0

    def identity(unit: Unit) -> str:
        return f"{hashes[unit.path]}:{''.join(endings(unit.path))}:{unit.start}:{unit.end}"

    for unit in sorted(units, key=identity):
        if group and n_bytes + _bytes_of(unit) > UNIT_BYTES:
            yield _source(group, identities, split, settings)
            group, identities, n_bytes = [], [], 0
        group.append(unit)
        n_bytes += _bytes_of(unit)
        identities.append(identity(unit))
    yield _source(group, identities, split, settings)


def _source(units: Sequence[Unit], identities: Sequence[str], split: str, settings: ReadSettings) -> Source:
    digest = hashlib.sha256(json.dumps([split, *identities]).encode()).hexdigest()
    return Source(Files(tuple(units), settings), split == "validation", digest)


def _bytes_of(unit: Unit) -> int:
    return (unit.size if unit.end is None else unit.end) - unit.start


def _hash_files(units: Sequence[Unit], cache: Path) -> dict[Path, str]:
    """SHA-256 (hex) of every file, on some threads: hashing lets go of the interpreter."""
    known = _load_hashes(cache)
    files = {unit.path: unit for unit in units}
    missing = [unit for unit in files.values() if known.get(str(unit.path.absolute()), [])[:2] != _stamp(unit)]
    with ThreadPoolExecutor(HASH_THREADS) as pool:
        fresh = dict(zip((unit.path for unit in missing), pool.map(_hash_unit, missing), strict=True))
    added = {str(unit.path.absolute()): [*_stamp(unit), fresh[unit.path]] for unit in missing}
    if added:
        _save_hashes(cache, known | added)
    return {path: fresh.get(path) or str(known[str(path.absolute())][2]) for path in files}


def _stamp(unit: Unit) -> list[int | str]:
    return [unit.size, unit.mtime_ns]


def _hash_unit(unit: Unit) -> str:
    try:
        digest = hash_file(unit.path)
        status = unit.path.stat()
    except OSError as error:
        raise UserError(f"{unit.path}: cannot be read ({error.strerror})") from error
    if [status.st_size, status.st_mtime_ns] != _stamp(unit):
        raise UserError(f"{unit.path}: changed while it was being read; run the same command again")
    return digest


def _load_hashes(cache: Path) -> dict[str, list[int | str]]:
    try:
        known = json.loads(cache.read_bytes())
    except (OSError, ValueError):  # absent or damaged: it only saves time
        return {}
    valid = isinstance(known, dict) and all(isinstance(entry, list) and len(entry) == 3 for entry in known.values())
    return known if valid else {}


def _save_hashes(cache: Path, hashes: dict[str, list[int | str]]) -> None:
    with suppress(OSError):  # a full disk or a read-only folder: it only saves time
        cache.parent.mkdir(parents=True, exist_ok=True)
        write_whole(cache, json.dumps(hashes).encode())
