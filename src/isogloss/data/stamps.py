"""Which files are known to be whole: each is hashed once, and again only when something about it has changed.

A file's stamp is its size, the time of its last change and its place on the disk (the inode, so that a copy is hashed
even where it kept the time). ``verified.json`` keeps the stamps of the files that were whole when they were last
looked at. It only saves work: without it they are hashed again. What leaves the stamp as it was, such as a disk that
forgets a bit, is seen by hashing alone.
"""

import json
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path

from pydantic import TypeAdapter

from isogloss.config.stored import read_bounded
from isogloss.durable import hash_file, whole_file

VERIFIED = "verified.json"

Stamp = list[int]
_STAMPS = TypeAdapter(dict[str, Stamp])


class Stamps:
    """What is known of the files below a folder.

    Args:
        folder: that keeps ``verified.json``; files are named by their paths in it.
        told: stamps of files that another process has found whole.
        forget: take no file for whole that this object has not hashed.
    """

    def __init__(self, folder: Path, told: Mapping[str, Stamp] | None = None, forget: bool = False) -> None:
        self.folder, self.told = folder, dict(told or {})
        self._kept = {} if forget else _load(folder)
        self.found: dict[str, Stamp] = {}
        """Of the files that are whole."""

    def knows(self, name: str) -> bool:
        """Whether a file is as it was when it was whole.

        Raises:
            OSError: it is not there, or nobody may look.
        """
        stamp = stamp_of(self.folder / name)
        if stamp not in (self.found.get(name), self.told.get(name), self._kept.get(name)):
            return False
        self.found[name] = stamp
        return True

    def is_whole(self, name: str, sha256: str) -> bool:
        """Whether a file has a checksum; it is read only if it is not known.

        Raises:
            OSError: it cannot be read.
        """
        if self.knows(name):
            return True
        stamp = stamp_of(self.folder / name)  # before it is read: a change meanwhile is seen the next time
        if hash_file(self.folder / name) != sha256:
            return False
        self.found[name] = stamp
        return True

    def vouch(self, names: Iterable[str]) -> None:
        """Take files for whole that this process has just made."""
        self.found |= {name: stamp_of(self.folder / name) for name in names}

    def save(self) -> None:
        """Keep what is known, where that is possible."""
        kept = _load(self.folder)
        if kept | self.found != kept:
            with suppress(OSError), whole_file(self.folder / VERIFIED) as stream:  # a full or read-only disk
                stream.write(json.dumps(kept | self.found).encode())


def stamp_of(path: Path) -> Stamp:
    """What changes when a file does: its size, the time of its last change and its place on the disk."""
    status = path.stat()
    return [status.st_size, status.st_mtime_ns, status.st_ino]


def _load(folder: Path) -> dict[str, Stamp]:
    try:
        return _STAMPS.validate_json(read_bounded(folder / VERIFIED), strict=True)
    except (OSError, ValueError):  # absent or damaged
        return {}
