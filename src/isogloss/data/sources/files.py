"""Which files a path means: a file, a folder (searched with its subfolders, hidden ones left out) or a glob.

A folder yields its ``.txt``, ``.jsonl`` and ``.parquet`` files, the first two also as ``.gz`` or ``.zst``; a file or a
glob that names another ending (``.md``, ``.rst``, ``.py``, ...) is read as plain text. ``hf:...`` names a dataset of
the Hugging Face hub and stands for itself.
"""

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from isogloss.config.base import UserError
from isogloss.config.paths import expand
from isogloss.config.problems import did_you_mean

HUB = "hf:"
STANDARD_INPUT = "-"
FOLDER_ENDINGS = (".txt", ".jsonl", ".parquet")
COMPRESSIONS = (".gz", ".zst")


@dataclass(frozen=True)
class SourceFile:
    """A file to read, and its name relative to the folder, the glob or the file's own folder that named it."""

    path: Path
    name: str

    @property
    def is_hub(self) -> bool:
        """Whether it is no file but a dataset of the hub."""
        return self.name.startswith(HUB)


def find_files(paths: Sequence[str | Path]) -> list[SourceFile]:
    """The files that ``paths`` name, each once, in the order of the paths and within each of them of their names.

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
            files = [SourceFile(path, str(given))] if str(given).startswith(HUB) else _expand(path)
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


def _expand(path: Path) -> list[SourceFile]:
    if path.is_dir():
        files = [file for file in _walk(path) if endings(file)[0] in FOLDER_ENDINGS]
        if not files:
            raise UserError(
                f"{path}: the folder has no .txt or .jsonl file (also as .gz or .zst), and no .parquet; "
                f"name other kinds by a glob such as '{path / '**' / '*.md'}'"
            )
        root = path
    elif path.is_file():
        files, root = [path], path.parent
    elif any(sign in str(path) for sign in "*?["):
        root, pattern = _split_glob(path)
        try:
            files = [file for file in root.glob(pattern) if file.is_file()]
        except (ValueError, NotImplementedError) as error:
            raise UserError(f"{path}: not a glob that can be used ({error})") from error
        if not files:
            raise UserError(f"{path}: no file matches this glob{_suggest(root) if not root.exists() else ''}")
    elif path.is_symlink() and not path.exists():
        raise UserError(f"{path}: a link to {path.readlink()}, which does not exist")
    elif path.exists():
        raise UserError(f"{path}: neither a regular file nor a folder; write its content to a file first")
    else:
        raise UserError(f"{path}: there is no such file or folder{_suggest(path)}")
    named = (SourceFile(file, file.relative_to(root).as_posix()) for file in files)
    return sorted(named, key=lambda file: file.name)


def _walk(folder: Path) -> Iterator[Path]:
    def fail(error: OSError) -> None:
        raise error

    for parent, folders, names in os.walk(folder, onerror=fail):
        folders[:] = [name for name in folders if not name.startswith(".")]
        paths = (Path(parent, name) for name in names if not name.startswith("."))
        yield from (path for path in paths if path.is_file())


def _split_glob(path: Path) -> tuple[Path, str]:
    """The leading folder without wildcards, and the pattern below it."""
    first = next(i for i, part in enumerate(path.parts) if any(sign in part for sign in "*?["))
    return Path(*path.parts[:first]), str(Path(*path.parts[first:]))


def _suggest(path: Path) -> str:
    """The nearest existing name to the first part of ``path`` that does not exist."""
    missing = path.absolute()
    while not missing.parent.exists():
        missing = missing.parent
    if not missing.parent.is_dir():
        return f"; {missing.parent} is a file"
    near = did_you_mean(missing.name, [other.name for other in missing.parent.iterdir()])
    return f"; {missing.parent} has no '{missing.name}'{near}"
