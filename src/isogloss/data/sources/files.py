"""Which files a path means: a file, a folder (searched with its subfolders) or a glob.

One rule holds for folders and globs. Hidden files and folders are left out, unless the glob's own part begins with a
dot. Links are followed, to files and to folders; a folder is entered once, by its own name before any link's, and a
link to a folder above the searched one is not followed, so a cycle ends. Whatever is found and not read is handed to
``on_skip`` with the reason. A path that is named itself is read whatever it is called.

A folder yields the files whose endings are in ``FOLDER_ENDINGS``, also as ``.gz`` or ``.zst``; a file or a glob that
names another ending (``.md``, ``.rst``, ``.py``, ...) is read as plain text. ``hf:...`` names a dataset of the Hugging
Face hub and stands for itself.
"""

import os
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

from isogloss.config.base import UserError
from isogloss.config.paths import expand
from isogloss.config.problems import did_you_mean
from isogloss.data.sources.tally import Tallies, count_one, in_words

HUB = "hf:"
STANDARD_INPUT = "-"
FOLDER_ENDINGS = (".txt", ".jsonl", ".ndjson", ".json", ".csv", ".tsv", ".parquet")
COMPRESSIONS = (".gz", ".zst")
WILDCARDS = "*?["

HIDDEN = "hidden"
DANGLING = "dangling link"
READ_ALREADY = "link to a folder that is above it or read already"
SPECIAL = "neither a regular file nor a folder"
WITH_ENDING = "with the ending "
WITHOUT_ENDING = "without an ending"
FOLDER = "folder that a glob without ** names"

OnSkip = Callable[[Path, str], None]
"""Called with what is found and not read, and why."""


@dataclass(frozen=True)
class SourceFile:
    """A file to read, and its name relative to the folder, the glob or the file's own folder that named it."""

    path: Path
    name: str
    is_searched: bool = False
    """Whether it was found in a folder, and not named by its own name or a glob."""

    @property
    def is_hub(self) -> bool:
        """Whether it is no file but a dataset of the hub."""
        return self.name.startswith(HUB)


def find_files(paths: Sequence[str | Path], on_skip: OnSkip = lambda path, reason: None) -> list[SourceFile]:
    """The files that ``paths`` name, each once, in the order of the paths and within each of them of their names.

    Args:
        paths: files, folders, globs and ``hf:`` names.
        on_skip: called with what is found there and not read.

    Raises:
        UserError: no path is given, or one of them names nothing that can be read.
    """
    if not paths:
        raise UserError("no input paths are given: name at least one file, folder or glob")
    found: dict[Path, SourceFile] = {}
    for given in paths:
        if str(given) == STANDARD_INPUT:
            raise UserError("-: standard input cannot be read here, only where it is kept in a file first")
        path = Path(given) if str(given).startswith(HUB) else expand(given)
        try:
            files = [SourceFile(path, str(given))] if str(given).startswith(HUB) else _expand(path, on_skip)
        except OSError as error:
            raise UserError(f"{error.filename or path}: cannot be searched ({error.strerror})") from error
        for file in files:
            found.setdefault(file.path, file)
    return list(found.values())


def endings(path: Path) -> tuple[str, str]:
    """The ending that tells the content and the one that tells the compression: ``("", "")`` for neither."""
    found = [""] + [ending.lower() for ending in path.suffixes]
    compression = found.pop() if found[-1] in COMPRESSIONS else ""
    return found[-1], compression


def is_by_ending(reason: str) -> bool:
    """Whether a file is passed over for its ending alone."""
    return reason == WITHOUT_ENDING or (reason.startswith(WITH_ENDING) and " and " not in reason)


def _expand(path: Path, on_skip: OnSkip) -> list[SourceFile]:
    is_searched = path.is_dir()
    if is_searched:
        root, files = path, _search_folder(path, on_skip)
    elif path.is_file():
        root, files = path.parent, [path]
    elif any(sign in str(path) for sign in WILDCARDS):
        root, files = _search_glob(path, on_skip)
    elif path.is_symlink() and not path.exists():
        raise UserError(f"{path}: a link to {path.readlink()}, which does not exist")
    elif path.exists():
        raise UserError(f"{path}: neither a regular file nor a folder; write its content to a file first")
    else:
        raise UserError(f"{path}: there is no such file or folder{_suggest(path)}")
    named = (SourceFile(file, file.relative_to(root).as_posix(), is_searched) for file in files)
    return sorted(named, key=lambda file: file.name)


def _search_folder(folder: Path, on_skip: OnSkip) -> list[Path]:
    skipped: Tallies = {}

    def skip(path: Path, reason: str) -> None:
        count_one(skipped, reason, path.relative_to(folder).as_posix())
        on_skip(path, reason)

    files: list[Path] = []
    for path in _search(folder, ("**", "*"), skip):
        ending = endings(path)[0]
        if ending in FOLDER_ENDINGS:
            files.append(path)
        else:
            skip(path, f"{WITH_ENDING}{ending}" if ending else WITHOUT_ENDING)
    if not files:
        known, has = ", ".join(FOLDER_ENDINGS[2:]), f"it has {in_words(skipped)}; " if skipped else ""
        raise UserError(
            f"{folder}: the folder has no .txt or .jsonl file, nor another that is read from folders ({known}; each "
            f"also as .gz or .zst); {has}name other kinds by a glob such as '{folder / '**' / '*.md'}'"
        )
    return files


def _search_glob(path: Path, on_skip: OnSkip) -> tuple[Path, list[Path]]:
    """The leading folder without wildcards, and the files that the pattern matches below it."""
    first = next(i for i, part in enumerate(path.parts) if any(sign in part for sign in WILDCARDS))
    root, parts = Path(*path.parts[:first]), path.parts[first:]
    once = [part for part, before in zip(parts, ("", *parts), strict=False) if (part, before) != ("**", "**")]
    skipped: Tallies = {}

    def skip(found: Path, reason: str) -> None:
        count_one(skipped, reason, found.relative_to(root).as_posix())
        on_skip(found, reason)

    files = list(_search(root, once, skip)) if root.is_dir() else []
    if not files:
        only = f" (but {in_words(skipped)})" if skipped else ""
        raise UserError(f"{path}: no file matches this glob{only}{_suggest(root) if not root.exists() else ''}")
    return root, files


def _search(folder: Path, parts: Sequence[str], on_skip: OnSkip, is_deep: bool = False) -> Iterator[Path]:
    """The files below a folder whose path there matches a pattern, part by part; ``**`` stands for any folders."""
    part, *rest = parts
    if part == "**":
        for inner in _folders(folder, on_skip):
            yield from _search(inner, rest or ["*"], on_skip, is_deep=True)
        return
    for path in _matches(folder, part, on_skip, is_deep, bool(rest)):
        if rest:
            if path.is_dir():
                yield from _search(path, rest, on_skip)
        elif path.is_file():
            yield path
        elif path.is_dir():
            if not is_deep:  # else it is entered
                on_skip(path, FOLDER)
        else:
            on_skip(path, DANGLING if path.is_symlink() else SPECIAL)


def _matches(folder: Path, part: str, on_skip: OnSkip, is_deep: bool, leads_on: bool) -> Iterator[Path]:
    """What a part of a pattern matches in a folder; only a folder leads on to the parts after it."""
    if not any(sign in part for sign in WILDCARDS):
        path = folder / part
        if os.path.lexists(path):
            yield path
        return
    for path in sorted(folder.iterdir(), key=lambda path: path.name):
        if not fnmatchcase(path.name, part):
            continue
        if not path.name.startswith(".") or part.startswith("."):
            yield path
        elif not is_deep if path.is_dir() else not leads_on:  # folders below ** are counted when they are entered
            on_skip(path, HIDDEN)


def _folders(root: Path, on_skip: OnSkip) -> Iterator[Path]:
    """The folder and those below it, each once; what is linked comes after what is really there."""
    seen = {_place(parent) for parent in root.resolve().parents}
    real, linked = deque([root]), deque[Path]()
    while real or linked:
        folder = real.popleft() if real else linked.popleft()
        if (place := _place(folder)) in seen:
            on_skip(folder, READ_ALREADY)
            continue
        seen.add(place)
        yield folder
        with os.scandir(folder) as entries:
            for entry in sorted(entries, key=lambda entry: entry.name):
                path = folder / entry.name
                if not (path.is_dir() if entry.is_symlink() else entry.is_dir()):
                    continue
                if entry.name.startswith("."):
                    on_skip(path, HIDDEN)
                else:
                    (linked if entry.is_symlink() else real).append(path)


def _place(folder: Path) -> tuple[int, int]:
    status = folder.stat()
    return status.st_dev, status.st_ino


def _suggest(path: Path) -> str:
    """The nearest existing name to the first part of ``path`` that does not exist."""
    missing = path.absolute()
    while not missing.parent.exists():
        missing = missing.parent
    if not missing.parent.is_dir():
        return f"; {missing.parent} is a file"
    near = did_you_mean(missing.name, [other.name for other in missing.parent.iterdir()])
    return f"; {missing.parent} has no '{missing.name}'{near}"
