"""What bad records lead to: they are counted and kept aside in a report, up to a limit of the user's."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

from isogloss.config.base import UserError
from isogloss.data.sources.records import BadRecord

N_SHOWN = 5


class BadInput:
    """Bad records of one preparation, in a file of JSON lines: ``where``, ``why`` and an ``excerpt`` of the bytes.

    The file is there only when there is something in it; one of an earlier attempt is removed.

    Args:
        report: the file; None: there is none.
        max_bad: how many are put up with; one more ends the preparation.

    Raises:
        UserError: the report cannot be written.
    """

    def __init__(self, report: Path | None, max_bad: int = 0):
        self.report = report
        self.max_bad = max_bad
        self.n_bad = 0
        self._shown: list[BadRecord] = []
        self._stream: TextIO | None = None
        if report is not None:
            with self._explain_errors():
                report.unlink(missing_ok=True)

    def add(self, record: BadRecord) -> None:
        """Count a record and write it to the report.

        Raises:
            UserError: it is one too many, or the report cannot be written.
        """
        self.n_bad += 1
        if len(self._shown) < N_SHOWN:
            self._shown.append(record)
        if self.report is not None:
            self._write(record, self.report)
        if self.n_bad > self.max_bad:
            self.close()
            raise UserError(self._explain())

    def shown(self) -> list[str]:
        """The first of them, a line each."""
        more = self.n_bad - len(self._shown)
        lines = [f"  {record.where}: {record.why}" for record in self._shown]
        return [*lines, *([f"  and {more:,} more"] if more else [])]

    def _write(self, record: BadRecord, report: Path) -> None:
        excerpt = record.excerpt.decode("utf-8", errors="backslashreplace")
        entry = json.dumps({"where": record.where, "why": record.why, "excerpt": excerpt}, ensure_ascii=False)
        with self._explain_errors():
            if self._stream is None:
                report.parent.mkdir(parents=True, exist_ok=True)
                # By lines, so that it is on record even when the process is killed; a path may be no UTF-8.
                self._stream = report.open("w", buffering=1, encoding="utf-8", errors="backslashreplace")
            self._stream.write(entry + "\n")

    def close(self) -> None:
        """Close the report."""
        if self._stream is not None:
            with self._explain_errors():
                self._stream.close()

    def _explain(self) -> str:
        first = self._shown[0]
        if not self.max_bad:
            kept = f"; it is kept in {self.report}" if self.report else ""
            return f"{first.where}: {first.why}; mend it, or go on without such records up to a limit (max_bad){kept}"
        kept = f"; all are in {self.report}" if self.report else ""
        return "\n".join(
            [
                f"{self.n_bad} bad records, more than max_bad = {self.max_bad}; mend them or raise the limit{kept}:",
                *self.shown(),
            ]
        )

    @contextmanager
    def _explain_errors(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise UserError(f"{self.report}: the report of bad records cannot be written ({error.strerror})") from error
