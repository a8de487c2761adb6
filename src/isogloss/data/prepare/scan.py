"""Pass 1: a unit of the input is read, checked and spilled in the order of its keys."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from isogloss.config.base import UserError
from isogloss.data.prepare.config import NearDuplicatesConfig
from isogloss.data.prepare.inputs import Source
from isogloss.data.prepare.near_duplicates import signer
from isogloss.data.prepare.spills import BadEntry, SpillWriter, UnitRecord, write_record
from isogloss.data.sources.records import BadRecord, Document, Dropped

BAD_SHOWN = 5


@dataclass(frozen=True)
class ScanTask:
    """A unit to read, and where to."""

    source: Source
    number: int
    folder: Path
    near_duplicates: NearDuplicatesConfig | None
    max_bad: int


def scan_unit(task: ScanTask) -> UnitRecord:
    """Read a unit and spill its documents.

    Raises:
        UserError: it has more bad records than may be, or has changed since it was listed.
        OSError: the spill cannot be written.
    """
    dropped: Counter[str] = Counter()
    bad: list[BadEntry] = []
    n_documents = n_bytes = 0
    sign = None if task.near_duplicates is None else signer(task.near_duplicates)
    with SpillWriter(task.folder, task.number, sign) as writer:
        for record in task.source.content.read():
            match record:
                case Document():
                    if data := record.text.encode():
                        writer.add(data)
                        n_documents += 1
                        n_bytes += len(data)
                    else:
                        dropped["empty"] += 1
                case Dropped():
                    dropped[record.reason] += 1
                case BadRecord():
                    excerpt = record.excerpt.decode("utf-8", "backslashreplace")
                    bad.append(BadEntry(where=record.where, why=record.why, excerpt=excerpt))
                    if len(bad) > task.max_bad:
                        raise too_many_bad(bad, task.max_bad)
    found = UnitRecord(
        identity=task.source.identity,
        is_validation=task.source.is_validation,
        n_documents=n_documents,
        n_bytes=n_bytes,
        dropped=dict(sorted(dropped.items())),
        bad=tuple(bad),
        runs=tuple(writer.runs),
    )
    write_record(task.folder, task.number, found)
    return found


def too_many_bad(bad: Sequence[BadEntry], max_bad: int) -> UserError:
    """What to tell when there are more bad records than may be."""
    shown = "; ".join(f"{entry.where}: {entry.why}" for entry in bad[:BAD_SHOWN])
    if max_bad == 0:
        return UserError(f"{shown}. Mend it, or set data.max_bad to leave bad records out and have them reported")
    return UserError(f"more than data.max_bad = {max_bad} bad records: {shown}{'; ...' if len(bad) > BAD_SHOWN else ''}")
