"""Pass 1: a unit of the input is read, checked and spilled in the order of its keys."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from isogloss.data.prepare.config import NearDuplicatesConfig
from isogloss.data.prepare.inputs import Source
from isogloss.data.prepare.near_duplicates import signer
from isogloss.data.prepare.spills import BadEntry, SpillWriter, UnitRecord, write_record
from isogloss.data.sources.bad_input import BadInput
from isogloss.data.sources.records import BadRecord, Document, Dropped, Suspicion
from isogloss.data.sources.tally import Tallies, count_one


@dataclass(frozen=True)
class ScanTask:
    """A unit to read, and where to."""

    source: Source
    number: int
    folder: Path
    near_duplicates: NearDuplicatesConfig | None
    max_bad: int


def scan_unit(task: ScanTask) -> UnitRecord:
    """Read a unit and spill its documents; with more bad records than may be it ends early, and nothing is kept.

    Raises:
        UserError: a file has changed since it was listed, or cannot be read.
        OSError: the spill cannot be written.
    """
    dropped: Counter[str] = Counter()
    bad: list[BadEntry] = []
    suspicious: Tallies = {}
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
                case Suspicion():
                    count_one(suspicious, record.what, record.where)
                case BadRecord():
                    bad.append(_entry(record))
                    if len(bad) > task.max_bad:
                        break
    found = UnitRecord(
        identity=task.source.identity,
        is_validation=task.source.is_validation,
        n_documents=n_documents,
        n_bytes=n_bytes,
        dropped=dict(sorted(dropped.items())),
        bad=tuple(bad),
        runs=tuple(writer.runs),
        suspicious=suspicious,
    )
    if len(bad) <= task.max_bad:
        write_record(task.folder, task.number, found)
    return found


def report_bad(records: Iterable[UnitRecord], report: Path, max_bad: int) -> None:
    """Write all bad records to a file, if there are any.

    Raises:
        UserError: they are too many.
    """
    kept = BadInput(report, max_bad)
    for entry in sorted((entry for record in records for entry in record.bad), key=_place):
        kept.add(BadRecord(entry.where, entry.why, entry.excerpt.encode()))
    kept.close()


def _place(entry: BadEntry) -> tuple[str, int, str]:
    """File and line, the lines by their numbers."""
    file, _, line = entry.where.rpartition(":")
    return (file, int(line), "") if line.isascii() and line.isdigit() else (entry.where, 0, entry.why)


def _entry(record: BadRecord) -> BadEntry:
    where = record.where.encode("utf-8", "backslashreplace").decode()  # a path may be no UTF-8
    why = record.why.encode("utf-8", "backslashreplace").decode()
    return BadEntry(where=where, why=why, excerpt=record.excerpt.decode("utf-8", "backslashreplace"))
