"""Preparing a corpus: documents in, token shards out, in two passes that can be killed at any moment."""

from isogloss.data.prepare.config import CorpusConfig, DataConfig, FilesConfig, NearDuplicatesConfig, PythonStdlibConfig
from isogloss.data.prepare.pipeline import input_key, prepare, training_texts

__all__ = [
    "CorpusConfig",
    "DataConfig",
    "FilesConfig",
    "NearDuplicatesConfig",
    "PythonStdlibConfig",
    "input_key",
    "prepare",
    "training_texts",
]
