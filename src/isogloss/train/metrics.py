"""Recorded numbers: one JSON object a line, in ``metrics.jsonl``, and copies for TensorBoard and W&B where asked.

Each line has ``step`` and ``kind`` (``train``, ``validation``, ``sample``). On resume, lines past the resumed step are
cut off; what is done again at that step itself replaces the earlier record when the file is read. A ``rewind`` has the
step of the spike, which lies past the step it led to: as many stay as the resumed run has made.
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
from isogloss.durable import sync, write_whole


@runtime_checkable
class Tracker(Protocol):
    """Where numbers go besides the file."""

    def log(self, step: int, values: dict[str, float]) -> None:
        """Take the numbers of a step."""
        ...

    def close(self, failed: bool) -> None:
        """The run ends here, for now or for good; ``failed``: by an error or a signal."""
        ...


@runtime_checkable
class RewindingTracker(Tracker, Protocol):
    """A tracker that can drop the steps that a run does again."""

    def go_back(self, step: int) -> None:
        """The run goes on from this step; what was logged after it is void."""
        ...


class _Record(Stored):
    """A line of the file; what is read of it again has a type."""

    model_config = ConfigDict(extra="allow")

    step: Count
    kind: str
    number: Count | None = None


class _Other(_Record):
    prompt: str | None = None


class _Sample(_Record):
    prompt: str
    text: str


class _Loss(_Other):
    loss: float | None
    bits_per_byte: float | None = None
    tokens: Count = 0


_KINDS = {"sample": _Sample, "train": _Loss, "validation": _Loss}


class Metrics:
    """Appends to a file and hands each record's numbers to trackers; without a path it keeps nothing.

    Args:
        path: of the file; ``None`` on a rank that is not the first.
        resumed_step: records past it are cut off.
        trackers: where numbers go besides.
        n_rewinds: how many rewinds led to that step; their records stay.

    ``n_records`` is how many there are, ``n_settled`` how many of them no later one of the newest step can replace or
    follow: those of the steps before it, and of rewinds.
    """

    def __init__(
        self, path: Path | None, resumed_step: int, trackers: Sequence[Tracker] = (), n_rewinds: int = 0
    ) -> None:
        self._trackers = trackers
        self._path, self._file = path, None
        self.n_records, self.n_settled, self._latest = 0, 0, set[tuple[Any, ...]]()
        self.go_back(resumed_step, n_rewinds)

    def go_back(self, step: int, n_rewinds: int) -> None:
        """Cut off the records past a step, but for those of the first rewinds, which led to it."""
        if self._path is None:
            return
        if self._file is not None:
            self._file.close()
        kept, n_seen = [], 0
        for record in read_metrics(self._path):
            is_rewind = record.get("kind") == "rewind"
            n_seen += is_rewind
            if n_seen <= n_rewinds if is_rewind else record["step"] <= step:
                kept.append(record)
        write_whole(self._path, "".join(json.dumps(record) + "\n" for record in kept).encode())
        self._file = self._path.open("a+", buffering=1, encoding="utf-8")
        self.n_records = len(kept)
        self._latest = {_key(record) for record in kept if record["step"] == step and record.get("kind") != "rewind"}
        self.n_settled = len(kept) - len(self._latest)

    def sync(self) -> None:
        """Bring all records to the disk, so that a power cut leaves them with the checkpoint that follows."""
        if self._file is not None:
            sync(self._file)

    def write(self, kind: str, step: int, **values: Any) -> None:
        """Record values of a step; a number that is not finite becomes ``null``, as JSON has none."""
        recorded = finite(values)
        self._append({"step": step, "kind": kind, **recorded})
        self._track(kind, step, recorded)

    def rewind(self, from_step: int, to: int, number: int, **values: Any) -> None:
        """Go back to an earlier step: cut off the records past it and record the rewind, the run's ``number``-th.

        Trackers, whose steps only grow, have it at the first step that follows.
        """
        self.go_back(to, number - 1)
        recorded = finite({"to": to, "number": number, **values})
        self._append({"step": from_step, "kind": "rewind", **recorded})
        for tracker in self._trackers:
            if isinstance(tracker, RewindingTracker):
                tracker.go_back(to)
        self._track("rewind", to + 1, recorded)

    def _append(self, record: dict[str, Any]) -> None:
        if self._file is not None:
            self._file.write(json.dumps(record) + "\n")
            self._count(record)

    def _track(self, kind: str, step: int, recorded: dict[str, Any]) -> None:
        for tracker in self._trackers:
            tracker.log(step, {f"{kind}/{key}": v for key, v in recorded.items() if isinstance(v, int | float)})

    def _count(self, record: dict[str, Any]) -> None:
        """As they are read: one that replaces another of its step is not one more."""
        if record["kind"] == "rewind":
            self.n_records += 1
            self.n_settled += 1
            return
        key = _key(record)
        if not any(other[0] == key[0] for other in self._latest):
            self.n_settled, self._latest = self.n_records, set()
        self.n_records += key not in self._latest
        self._latest.add(key)

    def reopen(self) -> bool:
        """Write the file again where it was removed or replaced meanwhile, all records in it; whether that was so."""
        if self._file is None or self._path is None:
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


def read_metrics(path: str | Path) -> list[dict[str, Any]]:
    """The records of a file, in order, a later one of the same step, kind, prompt and number in an earlier one's place.

    A killed run may leave half a line at the end; it is passed over, as is any line that is no record. No file, no
    records.
    """
    path = Path(path)
    if not path.exists():
        return []
    records: dict[tuple[Any, ...], dict[str, Any]] = {}
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            record = from_json(line, allow_inf_nan=False)
            _KINDS.get(_Record.model_validate(record).kind, _Other).model_validate(record)
        except ValueError:
            continue
        records[_key(record)] = record
    return list(records.values())


def _key(record: dict[str, Any]) -> tuple[Any, ...]:
    return record["step"], record.get("kind"), record.get("prompt"), record.get("number")
