"""A hash of all inputs, so that a corpus prepared from them is found again."""

import hashlib
import json
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from isogloss.config.base import UserError
from isogloss.data.sources import hub
from isogloss.data.sources.files import find_files
from isogloss.durable import hash_file, write_whole


def fingerprint_inputs(paths: Sequence[str | Path], cache: Path | None = None) -> str:
    """SHA-256 (hex) over the names and the contents of all files that ``paths`` name.

    Contents, so that a file merely touched, or a corpus merely moved, counts as unchanged; of a dataset of the hub, the
    state of its files in place of their content.

    Args:
        paths: files, folders, globs and ``hf:`` names.
        cache: a JSON file that remembers each content's hash with the file's size and modification time; with it only
            files that may have changed are read again.

    Raises:
        UserError: as ``read_documents`` for paths and unreadable files.
    """
    known = _load_hashes(cache)
    fresh: dict[str, list[int | str]] = {}
    total = hashlib.sha256()
    for file in find_files(paths):
        if file.is_hub:
            total.update(json.dumps([file.name, hub.identify(file.name)]).encode())
            continue
        key = str(file.path.absolute())
        entry = known.get(key)
        try:
            status = file.path.stat()
            stamp = [status.st_size, status.st_mtime_ns]
            if entry is None or entry[:2] != stamp:
                entry = [*stamp, hash_file(file.path)]
        except OSError as error:
            raise UserError(f"{file.path}: cannot be read ({error.strerror})") from error
        fresh[key] = entry
        total.update(json.dumps([file.name, entry[2]]).encode())
    if cache is not None and known | fresh != known:
        _save_hashes(cache, known | fresh)
    return total.hexdigest()


def _load_hashes(cache: Path | None) -> dict[str, list[int | str]]:
    if cache is None:
        return {}
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
