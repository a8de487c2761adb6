"""A corpus, and a tokenizer trained on it, for the tests of tokenizers."""

import json
import sysconfig
from pathlib import Path
from typing import Any

import pytest

from isogloss.data.tokenizers.bpe import BPETokenizer
from isogloss.data.tokenizers.bpe_training import train_bpe


@pytest.fixture(scope="session")
def library() -> list[str]:
    """Source files of Python's standard library, in alphabetical order."""
    folder = Path(sysconfig.get_paths()["stdlib"])
    return [path.read_text(encoding="utf-8") for path in sorted(folder.glob("*.py"))[:60]]


@pytest.fixture(scope="session")
def trained(library: list[str]) -> BPETokenizer:
    return train_bpe([*library, "किताब कहाँ है? 你好, 世界。 Größe, naïve. " * 20], 2000)


@pytest.fixture(scope="session")
def trained_spec(trained: BPETokenizer, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The ``tokenizer.json`` of ``trained``."""
    folder = tmp_path_factory.mktemp("trained")
    trained.save(folder)
    return json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
