"""Preparing a corpus: documents in, token shards out, in two passes that can be killed at any moment."""

from isogloss.data.prepare.config import (
    FilesConfig,
    FilesText,
    NearDuplicatesConfig,
    PythonStdlibConfig,
    PythonStdlibText,
    ReadConfig,
    TextChoice,
    TextConfig,
)
from isogloss.data.prepare.pipeline import prepare, training_texts

__all__ = [
    "FilesConfig",
    "FilesText",
    "NearDuplicatesConfig",
    "PythonStdlibConfig",
    "PythonStdlibText",
    "ReadConfig",
    "TextChoice",
    "TextConfig",
    "prepare",
    "training_texts",
]
