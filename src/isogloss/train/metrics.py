"""Recorded numbers: one JSON object a line, in ``metrics.jsonl``, and copies for TensorBoard and W&B where asked.

Each line has ``step`` and ``kind`` (``train``, ``validation``, ``sample``). On resume, lines past the resumed step are
cut off; what is done again at that step itself replaces the earlier record when the file is read.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

Sink = Callable[[int, dict[str, Any]], None]


class Metrics:
    """Appends to a file and hands each record to further sinks."""

    def __init__(self, path: Path, resumed_step: int, sinks: list[Sink] | None = None) -> None:
        self._path = path
        self._sinks = sinks or []
        kept = [record for record in read_metrics(path) if record["step"] <= resumed_step]
        aside = path.with_suffix(".aside")
        aside.write_text("".join(json.dumps(record) + "\n" for record in kept))
        aside.replace(path)
        self._file = path.open("a", buffering=1)

    def write(self, kind: str, step: int, **values: Any) -> None:
        """Record values of a step."""
        record = {"step": step, "kind": kind, **values}
        self._file.write(json.dumps(record) + "\n")
        for sink in self._sinks:
            sink(step, {f"{kind}/{key}": v for key, v in values.items() if isinstance(v, int | float)})

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The records of a file, in order, a later one of the same step, kind and prompt in an earlier one's place.

    A killed run may leave half a line at the end; it is passed over. No file, no records.
    """
    if not path.exists():
        return []
    records: dict[tuple[Any, ...], dict[str, Any]] = {}
    for line in path.read_text().splitlines():
        try:
            record = json.loads(line)
        except ValueError:
            continue
        if isinstance(record, dict) and isinstance(record.get("step"), int):
            records[record["step"], record.get("kind"), record.get("prompt")] = record
    return list(records.values())
