"""Documents read from files: plain text and JSON lines, compressed or not, one at a time and in a fixed order.

A path names a file, a folder (searched with its subfolders, hidden ones left out) or a glob (``corpus/**/*.md``). A
folder yields its ``.txt`` and ``.jsonl`` files, each also as ``.gz`` or ``.zst``; a file or a glob that names another
ending (``.md``, ``.rst``, ``.py``, ...) is read as plain text. A plain text file is one document, a line of JSON
lines is one (its field ``text``, or else ``content``).

The order is that of the paths given, and within each of them that of the files' names.
"""

import hashlib
import json
import os
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import zstandard

from isogloss.config.base import UserError
from isogloss.config.problems import did_you_mean
from isogloss.durable import hash_file, write_whole

CHUNK_BYTES = 1 << 16
TEXT_FIELDS = ("text", "content")
FOLDER_ENDINGS = (".txt", ".jsonl")
DECOMPRESSORS: dict[str, Callable[[], Any]] = {
    ".gz": lambda: zlib.decompressobj(wbits=31),
    # `zstd --long=31` needs the largest window; it is only allocated for a frame that asks for it.
    ".zst": lambda: zstandard.ZstdDecompressor(max_window_size=1 << 31).decompressobj(),
}


@dataclass(frozen=True)
class Document:
    """A text and the name that identifies it within its corpus, wherever the corpus lies."""

    name: str
    text: str


@dataclass(frozen=True)
class SourceFile:
    """A file to read, and its name relative to the folder, the glob or the file's own folder that named it."""

    path: Path
    name: str


class BadRecordError(Exception):
    """What is wrong with one record or file; where it is, the caller knows."""


def read_documents(paths: Sequence[str | Path]) -> Iterator[Document]:
    """The documents of all files that ``paths`` name, streamed.

    Args:
        paths: files, folders and globs.

    Yields:
        Documents in a fixed order; line ``n`` of JSON lines is named ``<file>:<n>``. A byte-order mark is not text.

    Raises:
        UserError: a path names nothing, or a record cannot be read (with its file and line).
    """
    for file in find_files(paths):
        content, compression = _endings(file.path)
        blocks = _decompress(_read_blocks(file.path), compression)
        if content == ".jsonl":
            yield from _read_lines(file, blocks)
        else:
            yield from _read_text(file, blocks)


def find_files(paths: Sequence[str | Path]) -> list[SourceFile]:
    """The files that ``paths`` name, each once.

    Raises:
        UserError: no path is given, or one of them names nothing that can be read.
    """
    if not paths:
        raise UserError("no input paths are given: name at least one file, folder or glob")
    found: dict[Path, SourceFile] = {}
    for given in paths:
        path = Path(given).expanduser()
        try:
            files = _expand(path)
        except OSError as error:
            raise UserError(f"{error.filename or path}: cannot be searched ({error.strerror})") from error
        for file in files:
            found.setdefault(file.path, file)
    return list(found.values())


def fingerprint_inputs(paths: Sequence[str | Path], cache: Path | None = None) -> str:
    """SHA-256 (hex) over the names and the contents of all files that ``paths`` name.

    Contents, so that a file merely touched, or a corpus merely moved, counts as unchanged.

    Args:
        paths: files, folders and globs.
        cache: a JSON file that remembers each content's hash with the file's size and modification time; with it only
            files that may have changed are read again.

    Raises:
        UserError: as ``read_documents`` for paths and unreadable files.
    """
    known = _load_hashes(cache)
    fresh: dict[str, list[int | str]] = {}
    total = hashlib.sha256()
    for file in find_files(paths):
        key = str(file.path.absolute())
        entry = known.get(key)
        try:
            status = file.path.stat()
            stamp = [status.st_size, status.st_mtime_ns]
            if entry is None or entry[:2] != stamp:
                entry = [*stamp, hash_file(file.path)]
        except OSError as error:
            raise _rejection(str(file.path), f"cannot be read ({error.strerror})") from error
        fresh[key] = entry
        total.update(json.dumps([file.name, entry[2]]).encode())
    if cache is not None and known | fresh != known:
        _save_hashes(cache, known | fresh)
    return total.hexdigest()


def _rejection(where: str, why: str) -> UserError:
    """The one place that decides what a bad record or file leads to: today always the end of the run."""
    return UserError(f"{where}: {why}")


# --- which files ------------------------------------------------------------------------------------------------------


def _expand(path: Path) -> list[SourceFile]:
    if path.is_dir():
        files = [file for file in _walk(path) if _endings(file)[0] in FOLDER_ENDINGS]
        if not files:
            raise UserError(
                f"{path}: the folder has no .txt or .jsonl file (also as .gz or .zst); "
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


def _endings(path: Path) -> tuple[str, str]:
    """The ending that tells the content and the one that tells the compression: ``("", "")`` for neither."""
    endings = [""] + [ending.lower() for ending in path.suffixes]
    compression = endings.pop() if endings[-1] in DECOMPRESSORS else ""
    return endings[-1], compression


# --- what is in them --------------------------------------------------------------------------------------------------


def _read_blocks(path: Path) -> Iterator[bytes]:
    try:
        with path.open("rb") as stream:
            while block := stream.read(CHUNK_BYTES):
                yield block
    except OSError as error:
        raise _rejection(str(path), f"cannot be read ({error.strerror})") from error


def _decompress(blocks: Iterable[bytes], compression: str) -> Iterator[bytes]:
    """The content of one or several compressed streams, end to end (as ``gzip`` and ``zstd`` themselves accept)."""
    if not compression:
        yield from blocks
        return
    engine = None
    for block in blocks:
        while block:
            engine = engine or DECOMPRESSORS[compression]()
            try:
                yield engine.decompress(block)
            except (zlib.error, zstandard.ZstdError) as error:
                raise BadRecordError(f"damaged {compression} data ({error})") from error
            # What follows a complete stream begins another one; gzip files may end in zeros, which are padding.
            block, engine = (engine.unused_data.lstrip(b"\0"), None) if engine.eof else (b"", engine)
    if engine is not None:
        raise BadRecordError(f"the {compression} data ends too early: the file is truncated")


def _split_lines(blocks: Iterable[bytes]) -> Iterator[bytes]:
    parts: list[bytes] = []
    for block in blocks:
        first, *others = block.split(b"\n")
        parts.append(first)
        if others:
            yield b"".join(parts)
            yield from others[:-1]
            parts = [others[-1]]
    if last := b"".join(parts):
        yield last


def _read_text(file: SourceFile, blocks: Iterable[bytes]) -> Iterator[Document]:
    try:
        text = _decode(b"".join(blocks)).removeprefix("\ufeff")
    except BadRecordError as error:
        raise _rejection(str(file.path), str(error)) from error
    yield Document(file.name, text)


def _read_lines(file: SourceFile, blocks: Iterable[bytes]) -> Iterator[Document]:
    number = 0
    lines = _split_lines(blocks)
    while True:
        number += 1
        try:
            line = next(lines, None)
            if line is None:
                return
            if number == 1:
                line = line.removeprefix(b"\xef\xbb\xbf")
            if not line.strip():
                continue
            text = _parse(line)
        except BadRecordError as error:
            raise _rejection(f"{file.path}:{number}", str(error)) from error
        yield Document(f"{file.name}:{number}", text)


def _decode(data: bytes) -> str:
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise BadRecordError(
            f"not UTF-8: byte 0x{data[error.start]:02x} at offset {error.start} ({error.reason}); convert it to UTF-8"
        ) from error


def _parse(line: bytes) -> str:
    """The text of one JSON line."""
    try:
        record = json.loads(_decode(line))
    except json.JSONDecodeError as error:
        raise BadRecordError(f"not JSON: {error.msg} at column {error.colno}") from error
    except ValueError as error:  # Python refuses to read integers of thousands of digits
        raise BadRecordError(f"JSON that cannot be read: {error}") from error
    except RecursionError as error:
        raise BadRecordError("JSON that is nested too deeply") from error
    if not isinstance(record, dict):
        raise BadRecordError(f"not a JSON object but a {type(record).__name__}")
    field = next((field for field in TEXT_FIELDS if field in record), None)
    if field is None:
        keys = ", ".join(repr(key) for key in list(record)[:8]) or "nothing"
        raise BadRecordError(f"no field 'text' or 'content' (it has {keys})")
    text = record[field]
    if not isinstance(text, str):
        raise BadRecordError(f"field '{field}' is not a string but a {type(text).__name__}")
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise BadRecordError(
            f"field '{field}' has the lone surrogate U+{ord(text[error.start]):04X} at character {error.start}"
        ) from error
    return text


# --- hashes of contents -----------------------------------------------------------------------------------------------


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
