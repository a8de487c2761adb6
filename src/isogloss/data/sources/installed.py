"""Corpora that need no download: today the standard library of the running Python, about 11 MB of source and prose."""

import hashlib
import os
import sysconfig
import tokenize
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from isogloss.config.base import UserError
from isogloss.data.sources.records import Document

TEXT_ENDINGS = {".py", ".txt", ".rst"}
NOT_LIBRARY = {"site-packages", "dist-packages", "__pycache__"}
TEST_FOLDERS = {"test", "tests", "idle_test"}
BUILD_RECORD = "_sysconfigdata"
CHARACTER_TABLE = "codecs.charmap_decode("


def python_stdlib(
    include_tests: bool = False, on_skip: Callable[[str, str], None] = lambda name, why: None
) -> Iterator[Document]:
    """The source and documentation files of the running interpreter's standard library.

    Left out, because a loss measured on them would flatter the model: the 8-bit character tables of ``encodings`` (some
    seventy near-copies of one another: those in the validation split would be known from the training split). Left out
    as well, because it differs between machines: the record of how this interpreter was built. Installed packages are
    never part of it.

    Args:
        include_tests: also the library's own tests, which are about twice as large as the library.
        on_skip: called with the name of a file that could not be decoded or read, and why.

    Yields:
        Documents named by their path below the library, sorted by name.

    Raises:
        UserError: the interpreter has no library folder with sources (a zipped or frozen Python).
    """
    root = Path(sysconfig.get_paths()["stdlib"])
    paths = sorted(_walk(root, NOT_LIBRARY if include_tests else NOT_LIBRARY | TEST_FOLDERS))
    if not paths:
        raise UserError(
            f"{root}: this Python keeps no readable sources of its standard library here; "
            "use another Python, or a corpus of your own (type: files)"
        )
    for document in _documents(root, paths, on_skip):
        if not (document.name.startswith("encodings/") and CHARACTER_TABLE in document.text):
            yield document


def library_sources(root: Path, on_skip: Callable[[str, str], None] = lambda name, why: None) -> Iterator[Document]:
    """The source and documentation files of installed packages, their tests left out.

    Args:
        root: a package's folder, or the folder of many.
        on_skip: called with the name of a file that could not be decoded or read, and why.

    Yields:
        Documents named by their path below ``root``, sorted by name.
    """
    return _documents(root, sorted(_walk(root, TEST_FOLDERS | {"__pycache__"})), on_skip)


def fingerprint_documents(documents: Iterable[Document]) -> str:
    """SHA-256 (hex) over the names and texts of documents, in order."""
    total = hashlib.sha256()
    for document in documents:
        for part in (document.name, document.text):
            data = part.encode()
            total.update(len(data).to_bytes(8, "little"))
            total.update(data)
    return total.hexdigest()


def _documents(root: Path, paths: Iterable[Path], on_skip: Callable[[str, str], None]) -> Iterator[Document]:
    for path in paths:
        name = path.relative_to(root).as_posix()
        try:
            yield Document(name, _decode(path))
        except (OSError, SyntaxError, LookupError, UnicodeDecodeError) as error:
            on_skip(name, str(error))


def _walk(root: Path, left_out: set[str]) -> Iterator[Path]:
    for parent, folders, names in os.walk(root):
        folders[:] = [name for name in folders if name not in left_out]
        for name in names:
            if Path(name).suffix in TEXT_ENDINGS and not name.startswith(BUILD_RECORD):
                yield Path(parent, name)


def _decode(path: Path) -> str:
    """The text, by the encoding that a source file declares (PEP 263); every other file must be UTF-8."""
    if path.suffix != ".py":
        return path.read_bytes().decode("utf-8").removeprefix("\ufeff")
    with path.open("rb") as stream:
        encoding, _ = tokenize.detect_encoding(stream.readline)
        stream.seek(0)
        return stream.read().decode(encoding)
