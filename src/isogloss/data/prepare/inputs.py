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

UNIT_BYTES = 64 << 20
HASH_THREADS = 8


@dataclass(frozen=True)
class Stdlib:
    """The documents of ``python_stdlib`` as one unit."""

    documents: tuple[Document, ...]

    @property
    def size(self) -> int:
        """In bytes, nearly."""
        return sum(len(document.text) for document in self.documents)


@dataclass(frozen=True)
class Source:
    """A unit and what it is for; workers are sent it."""

    unit: Unit | Stdlib
    is_validation: bool
    identity: str
    """Of its content, as far as reading goes: work done on it is good as long as this is the same."""

    @property
    def n_bytes(self) -> int:
        """Bytes of input that reading it passes."""
        if isinstance(self.unit, Stdlib):
            return self.unit.size
        return (self.unit.size if self.unit.end is None else self.unit.end) - self.unit.start

    def read(self, settings: ReadSettings) -> Iterator[Document | BadRecord | Dropped]:
        """Its records."""
        return iter(self.unit.documents) if isinstance(self.unit, Stdlib) else read_unit(self.unit, settings)


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
        return Inputs([Source(Stdlib(documents), False, fingerprint)], fingerprint, origin, skipped=skipped)
    chosen = [(paths, paths is config.validation) for paths in (config.validation, config.train) if paths]
    units = [(unit, is_validation) for paths, is_validation in chosen for unit in list_units(paths, UNIT_BYTES)]
    hashes = _hash_files([unit for unit, _ in units], config.prepared_dir / "inputs.json")
    sources = [
        Source(unit, is_validation, f"{hashes[unit.path]}:{''.join(endings(unit.path))}:{unit.start}:{unit.end}")
        for unit, is_validation in units
    ]
    sources.sort(key=lambda source: (source.is_validation, source.identity))
    whole = [(unit, is_validation) for unit, is_validation in units if unit.start == 0]
    records = [
        InputRecord(
            name=unit.name,
            split="validation" if is_validation else "train",
            n_bytes=unit.size,
            sha256=hashes[unit.path],
        )
        for unit, is_validation in whole
    ]
    decisive = sorted([is_validation, hashes[unit.path], *endings(unit.path)] for unit, is_validation in whole)
    return Inputs(
        sources,
        hashlib.sha256(json.dumps(decisive).encode()).hexdigest(),
        ", ".join(config.train),
        sorted(records, key=lambda record: (record.split, record.name)),
        ReadSettings(config.text_field, config.max_document_bytes, config.filters),
        config.near_duplicates,
    )


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
