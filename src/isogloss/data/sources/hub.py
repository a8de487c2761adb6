"""Datasets of the Hugging Face hub, streamed through the optional ``datasets`` library: ``hf:NAME[:CONFIG][:SPLIT]``.

``NAME`` is the hub's (``roneneldan/TinyStories``) or a local folder of data files, ``CONFIG`` may be left empty
(``hf:NAME::validation``) and the split is ``train`` unless it is given. A unit is one of the dataset's files.
"""

import importlib
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from typing import Any

from isogloss.config.base import UserError
from isogloss.data.sources.files import HUB
from isogloss.data.sources.records import EXCERPT_BYTES, BadRecord, BadRecordError, Document, take_text
from isogloss.data.sources.units import ReadSettings, Unit


def count_shards(name: str) -> int:
    """How many files a dataset's split has.

    Args:
        name: ``hf:NAME[:CONFIG][:SPLIT]``.

    Raises:
        UserError: ``datasets`` is not installed, or the dataset cannot be opened.
    """
    return _open(name).num_shards


def identify(name: str) -> str:
    """What tells a split's content from another one's or another revision's: files, and their state by the hub.

    Raises:
        UserError: as ``count_shards``.
    """
    builder = _find(name)
    files = builder.config.data_files or {}
    states = sorted((str(split), list(paths), paths.origin_metadata) for split, paths in files.items())
    return repr((builder.hash, builder.config_id, _split_of(name), states))


def read_shard(unit: Unit, settings: ReadSettings) -> Iterator[Document | BadRecord]:
    """The texts of one file of a dataset, named by the file's number (from 0) and the row's (from 1).

    Args:
        unit: the file.
        settings: how to read it.

    Raises:
        UserError: ``datasets`` is not installed, or the dataset cannot be read to its end.
    """
    dataset = _open(unit.name)
    shard = f"{unit.name}:{unit.start}"
    with _explain(shard):
        for number, record in enumerate(dataset.shard(dataset.num_shards, unit.start), 1):
            where = f"{shard}:{number}"
            try:
                text = take_text(record, settings.text_field)
                settings.check_size(len(text.encode()))
            except BadRecordError as error:
                excerpt = repr(record)[:EXCERPT_BYTES].encode(errors="backslashreplace")
                yield BadRecord(where, str(error), excerpt[:EXCERPT_BYTES])
            else:
                yield Document(where, text)


@lru_cache(maxsize=4)
def _find(name: str) -> Any:
    path, config, _ = _parse(name)
    try:
        datasets = importlib.import_module("datasets")
    except ImportError as error:
        raise UserError(f"{name}: a dataset of the hub needs the library: pip install 'isogloss[datasets]'") from error
    with _explain(name):
        return datasets.load_dataset_builder(path, config or None)


def _open(name: str) -> Any:
    with _explain(name):
        return _find(name).as_streaming_dataset(_split_of(name))


def _split_of(name: str) -> str:
    return _parse(name)[2] or "train"


def _parse(name: str) -> tuple[str, str, str]:
    parts = [*name.removeprefix(HUB).split(":"), "", ""]
    if not parts[0] or len(parts) > 5:
        raise UserError(f"{name}: write hf:NAME, hf:NAME:CONFIG, hf:NAME:CONFIG:SPLIT or hf:NAME::SPLIT")
    return parts[0], parts[1], parts[2]


@contextmanager
def _explain(where: str) -> Iterator[None]:
    """The library's errors: of the net, the names, the files' formats."""
    try:
        yield
    except UserError:
        raise
    except (OSError, ValueError, TypeError, importlib.import_module("datasets").exceptions.DatasetsError) as error:
        raise UserError(f"{where}: cannot be read through datasets ({' '.join(str(error).split())})") from error
