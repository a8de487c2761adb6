"""Preparing a corpus: documents in, token shards out, in two passes that can be killed at any moment."""

from isogloss.data.prepare.config import (
    DataConfig,
    FilesConfig,
    FilesText,
    NearDuplicatesConfig,
    PythonStdlibConfig,
    PythonStdlibText,
    TextChoice,
)
from isogloss.data.prepare.pipeline import prepare, training_texts

__all__ = [
    "DataConfig",
    "FilesConfig",
    "FilesText",
    "NearDuplicatesConfig",
    "PythonStdlibConfig",
    "PythonStdlibText",
    "TextChoice",
    "prepare",
    "training_texts",
]
