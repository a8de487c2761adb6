"""Which tokenizer a run uses. Reading this imports no tokenizer library, so that configs load quickly."""

from typing import Annotated, Literal

from pydantic import Field

from isogloss.config.base import Config
from isogloss.config.paths import UserPath


class BytesConfig(Config):
    """Every byte of the UTF-8 text is a token: 256 of them, and one that opens a document."""

    type: Literal["bytes"] = "bytes"
    """bytes: no vocabulary to learn, 257 ids."""


class BPEConfig(Config):
    """A byte-level BPE vocabulary trained on the run's own corpus."""

    type: Literal["bpe"] = "bpe"
    """bpe: byte-pair encoding trained on the corpus."""

    vocab_size: Annotated[int, Field(ge=257)]
    """How many ids, the 256 bytes and the end-of-text token included. A corpus too small to fill it gives fewer;
    the tokenizer's ``n_tokens`` says how many there are."""


class FileConfig(Config):
    """A tokenizer that exists already."""

    type: Literal["file"] = "file"
    """file: read an existing tokenizer."""

    path: UserPath
    """A Hugging Face ``tokenizer.json``, a tiktoken ranks file (``*.tiktoken``), a SentencePiece ``*.model``, or a
    folder that holds one of them."""

    pattern: str = "cl100k"
    """How a tiktoken ranks file, which does not say it, cuts text into pieces: ``gpt2``, ``cl100k`` (GPT-4, Llama 3),
    ``qwen2``, ``o200k`` (GPT-4o), ``isogloss``, or a regular expression as Oniguruma reads it. Other files bring their
    own."""

    end_of_text: str | int | None = None
    """The token that opens documents, by its text or id; without it the file's own, by its usual names. A tiktoken
    ranks file has no names: give the id."""


class SymbolsConfig(Config):
    """The ids of a generated corpus, which has no text: each is written as its number."""

    type: Literal["symbols"] = "symbols"
    """symbols: of generated corpora; as many ids as the task has."""


TokenizerConfig = Annotated[BytesConfig | BPEConfig | FileConfig | SymbolsConfig, Field(discriminator="type")]
"""Any tokenizer, told apart by ``type``."""
