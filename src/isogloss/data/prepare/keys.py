"""What decides a prepared corpus, in the names of its folders: what is named alike has the same content."""

from typing import Any

from isogloss.data.corpus import hash_of
from isogloss.data.prepare.config import FilesText, TextChoice
from isogloss.data.prepare.inputs import Inputs
from isogloss.data.prepare.near_duplicates import SEQUENCES, find_rensa

FORMAT = 2
"""Raised whenever the same inputs and settings would give other files."""


def scan_key(inputs: Inputs) -> str:
    """Of all that decides what pass 1 finds."""
    settings = inputs.settings
    near = inputs.near_duplicates
    version = None if near is None else find_rensa().RMinHash.ALGORITHM_VERSION
    # Settings that came later are named, and only where they are set: the keys of earlier corpora stay as they are.
    later = {"encoding": settings.encoding, "separator": settings.separator}
    given = [[name, value] for name, value in later.items() if value is not None]
    return hash_of(
        [
            FORMAT,
            inputs.fingerprint,
            settings.text_field,
            settings.max_document_bytes,
            settings.filters.model_dump(mode="json"),
            near and near.model_dump(mode="json"),
            version if near is None else [version, SEQUENCES],
            *given,
        ]
    )


def split_decision(config: TextChoice) -> list[Any]:
    """All that decides, beside the documents, which of them validate."""
    if isinstance(config, FilesText) and config.validation:
        return ["files"]
    if isinstance(config, FilesText) and config.validation_fraction is not None:
        return ["fraction", config.validation_fraction]
    return ["bytes", config.validation_bytes]
