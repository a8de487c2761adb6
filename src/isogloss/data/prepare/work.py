"""The folder that a preparation works in: who may, what a killed one left, and when it can go.

It is ``<key of the scan>.partial`` beside the corpora, under a lock that the system releases even when the process is
killed. What is in it survives the process, so that the next one with the same inputs goes on; it goes when the corpus
is complete, when the same paths are prepared with other content or settings, and after a week. The report of bad
records that stopped a preparation stands beside it as ``<key of the scan>.bad.jsonl``, for a week too.
"""

import json
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import Timeout

from isogloss.config.stored import parse_json, read_bounded
from isogloss.durable import FileLock, write_whole

ENDING = ".partial"
BAD_ENDING = ".bad.jsonl"
_WORK = "work.json"
_KEPT_SECONDS = 7 * 24 * 3600


@contextmanager
def work_folder(parent: Path, key: str, paths: list[str], progress: Callable[[str], None]) -> Iterator[Path]:
    """Hold the folder of a scan, after all that is dead beside it has been removed.

    Args:
        parent: where corpora are kept.
        key: of the scan.
        paths: what is prepared, as the user named it.
        progress: told when another process holds the folder.

    Raises:
        OSError: it cannot be made.
    """
    parent.mkdir(parents=True, exist_ok=True)
    _sweep(parent, key, paths)
    lock = FileLock(parent / f"{key}.lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        progress(f"another process is preparing {parent / key}: waiting for it")
        lock.acquire()
    try:
        folder = parent / f"{key}{ENDING}"
        folder.mkdir(exist_ok=True)
        try:
            write_whole(folder / _WORK, json.dumps(paths).encode())
        except OSError:
            with suppress(OSError):  # not if there is work in it
                folder.rmdir()
            raise
        yield folder
    finally:
        lock.release()


def remove(folder: Path) -> None:
    """Remove a work folder whose lock is held."""
    shutil.rmtree(folder, ignore_errors=True)


def remove_idle(parent: Path, key: str) -> None:
    """Remove the folder of a scan whose corpus is in its place: a process killed just then leaves it.

    It stays where a process holds it, or where it has work for another tokenizer.
    """
    folder = parent / f"{key}{ENDING}"
    with suppress(OSError):  # it is not there, or others remove it
        if all(entry.name in (_WORK, "spills") for entry in folder.iterdir()):
            with suppress(Timeout), FileLock(parent / f"{key}.lock", timeout=0):
                remove(folder)


def _sweep(parent: Path, key: str, paths: list[str]) -> None:
    for report in parent.glob(f"*{BAD_ENDING}"):
        with suppress(OSError):  # another process was quicker
            if time.time() - report.stat().st_mtime > _KEPT_SECONDS:
                report.unlink()
    for folder in parent.glob(f"*{ENDING}"):
        if folder.name == f"{key}{ENDING}" or not _is_dead(folder, paths):
            continue
        with suppress(Timeout), FileLock(folder.with_suffix(".lock"), timeout=0):  # else a living process works there
            remove(folder)


def _is_dead(folder: Path, paths: list[str]) -> bool:
    """Whether nobody will go on with it."""
    try:
        newest = max(path.stat().st_mtime for path in (folder, *folder.iterdir()))
        superseded = parse_json(read_bounded(folder / _WORK), _WORK) == paths
    except (OSError, ValueError):
        return True
    return superseded or time.time() - newest > _KEPT_SECONDS
