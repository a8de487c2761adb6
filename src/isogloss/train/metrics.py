"""Recorded numbers: one JSON object a line, in ``metrics.jsonl``, and copies for TensorBoard and W&B where asked.

Each line has ``step`` and ``kind`` (``train``, ``validation``, ``sample``). On resume, lines past the resumed step are
cut off; what is done again at that step itself replaces the earlier record when the file is read.
"""

import json
import math
import os
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from pydantic import ConfigDict
from pydantic_core import from_json

from isogloss.config.stored import Count, Stored
from isogloss.durable import write_whole


@runtime_checkable
class Tracker(Protocol):
    """Where numbers go besides the file."""

    def log(self, step: int, values: dict[str, float]) -> None:
        """Take the numbers of a step."""
        ...

    def close(self, failed: bool) -> None:
        """The run ends here, for now or for good; ``failed``: by an error or a signal."""
        ...


class _Record(Stored):
    """A line of the file; what is read of it again has a type."""

    model_config = ConfigDict(extra="allow")

    step: Count
    kind: str


class _Sample(_Record):
    prompt: str
    text: str


class _Loss(_Record):
    loss: float | None
    bits_per_byte: float | None = None
    tokens: Count = 0


_KINDS = {"sample": _Sample, "train": _Loss, "validation": _Loss}


class Metrics:
    """Appends to a file and hands each record's numbers to trackers; without a path it keeps nothing."""

    def __init__(self, path: Path | None, resumed_step: int, trackers: Sequence[Tracker] = ()) -> None:
        self._trackers = trackers
        self._file = None
        if path is None:  # a rank that is not the first
            return
        kept = [record for record in read_metrics(path) if record["step"] <= resumed_step]
        write_whole(path, "".join(json.dumps(record) + "\n" for record in kept).encode())
        self._file, self._path = path.open("a+", buffering=1, encoding="utf-8"), path

    def write(self, kind: str, step: int, **values: Any) -> None:
        """Record values of a step; a number that is not finite becomes ``null``, as JSON has none."""
        recorded = finite(values)
        if self._file is not None:
            self._file.write(json.dumps({"step": step, "kind": kind, **recorded}) + "\n")
        for tracker in self._trackers:
            tracker.log(step, {f"{kind}/{key}": v for key, v in recorded.items() if isinstance(v, int | float)})

    def reopen(self) -> bool:
        """Write the file again where it was removed or replaced meanwhile, all records in it; whether that was so."""
        if self._file is None:
            return False
        with suppress(FileNotFoundError):
            if os.path.samestat(self._path.stat(), os.fstat(self._file.fileno())):
                return False
        self._file.seek(0)
        records = self._file.read()
        self._path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(self._path, records.encode())
        self._file.close()
        self._file = self._path.open("a+", buffering=1, encoding="utf-8")
        return True

    def __enter__(self) -> "Metrics":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        """Close the file and the trackers."""
        with suppress(*([] if kind is None else [OSError])):  # what failed first is to be said
            if self._file is not None:
                self._file.close()
        for tracker in self._trackers:
            with suppress(*([] if kind is None else [Exception])):  # of whatever kind: they are others' code
                tracker.close(failed=kind is not None)


def finite(value: Any) -> Any:
    """A value as JSON can hold it, with ``None`` for numbers that are not finite, at any depth; tuples become lists."""
    if isinstance(value, dict):
        return {key: finite(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [finite(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The records of a file, in order, a later one of the same step, kind and prompt in an earlier one's place.

    A killed run may leave half a line at the end; it is passed over, as is any line that is no record. No file, no
    records.
    """
    if not path.exists():
        return []
    records: dict[tuple[Any, ...], dict[str, Any]] = {}
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            record = from_json(line, allow_inf_nan=False)
            _Record.model_validate(record)
            _KINDS.get(record["kind"], _Record).model_validate(record)
        except ValueError:
            continue
        records[record["step"], record["kind"], record.get("prompt")] = record
    return list(records.values())
