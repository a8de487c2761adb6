"""Recorded numbers: one JSON object a line, in ``metrics.jsonl``, and copies for TensorBoard and W&B where asked.

Each line has ``step`` and ``kind`` (``train``, ``validation``, ``sample``). On resume, lines past the resumed step are
cut off; what is done again at that step itself replaces the earlier record when the file is read.
"""

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

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


class Metrics:
    """Appends to a file and hands each record's numbers to trackers; without a path it keeps nothing."""

    def __init__(self, path: Path | None, resumed_step: int, trackers: Sequence[Tracker] = ()) -> None:
        self._trackers = trackers
        self._file = None
        if path is None:  # a rank that is not the first
            return
        kept = [record for record in read_metrics(path) if record["step"] <= resumed_step]
        write_whole(path, "".join(json.dumps(record) + "\n" for record in kept).encode())
        self._file = path.open("a", buffering=1, encoding="utf-8")

    def write(self, kind: str, step: int, **values: Any) -> None:
        """Record values of a step; a number that is not finite becomes ``null``, as JSON has none."""
        recorded = finite(values)
        if self._file is not None:
            self._file.write(json.dumps({"step": step, "kind": kind, **recorded}) + "\n")
        for tracker in self._trackers:
            tracker.log(step, {f"{kind}/{key}": v for key, v in recorded.items() if isinstance(v, int | float)})

    def __enter__(self) -> "Metrics":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        """Close the file and the trackers."""
        if self._file is not None:
            self._file.close()
        for tracker in self._trackers:
            tracker.close(failed=kind is not None)


def finite(value: Any) -> Any:
    """A value as JSON can hold it, with ``None`` for numbers that are not finite, at any depth; tuples become lists."""
    if isinstance(value, dict):
        return {key: finite(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [finite(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def read_metrics(path: str | Path) -> list[dict[str, Any]]:
    """The records of a file, in order, a later one of the same step, kind and prompt in an earlier one's place.

    A killed run may leave half a line at the end; it is passed over. No file, no records.
    """
    path = Path(path)
    if not path.exists():
        return []
    records: dict[tuple[Any, ...], dict[str, Any]] = {}
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            record = json.loads(line)
        except ValueError:
            continue
        if isinstance(record, dict) and isinstance(record.get("step"), int):
            records[record["step"], record.get("kind"), record.get("prompt")] = record
    return list(records.values())
