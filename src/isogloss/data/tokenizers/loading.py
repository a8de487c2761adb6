"""Tokenizers from a config, and from the files they were saved to."""

from collections.abc import Callable, Iterable
from pathlib import Path

from isogloss.config.base import UserError
from isogloss.config.stored import parse_json, read_bounded
from isogloss.data.tokenizers.base import Tokenizer
from isogloss.data.tokenizers.bpe import BPETokenizer
from isogloss.data.tokenizers.bpe_training import train_bpe
from isogloss.data.tokenizers.bytes import BytesTokenizer, byte_vocabulary
from isogloss.data.tokenizers.config import BPEConfig, BytesConfig, FileConfig, SymbolsConfig, TokenizerConfig
from isogloss.data.tokenizers.end_of_text import load_given
from isogloss.data.tokenizers.sentence_piece import SentencePieceTokenizer
from isogloss.data.tokenizers.symbols import SymbolsTokenizer, symbol_vocabulary
from isogloss.data.tokenizers.tiktoken_ranks import is_ranks_line, read_ranks_file
from isogloss.durable import whole_folder


def build_tokenizer(config: TokenizerConfig, texts: Callable[[], Iterable[str]]) -> Tokenizer:
    """The tokenizer a config asks for.

    Args:
        config: any ``TokenizerConfig``.
        texts: gives the corpus; called only for ``bpe``, which learns from it.

    Raises:
        UserError: for a file that is not there or cannot be read as a tokenizer, and for ``symbols``.
    """
    match config:
        case BytesConfig():
            return BytesTokenizer()
        case BPEConfig():
            return train_bpe(texts(), config.vocab_size)
        case FileConfig():
            return load_tokenizer(config.path, config.pattern, config.end_of_text)
        case SymbolsConfig():
            raise UserError(
                "tokenizer.type symbols is for generated corpora, which have no text (data.type markov and others); "
                "choose bytes, bpe or file for text"
            )


def load_tokenizer(
    path: str | Path, pattern: str = "cl100k", end_of_text: str | int | None = None, *, is_checked: bool = False
) -> Tokenizer:
    """Read a tokenizer: a ``tokenizer.json``, ``*.tiktoken`` or ``*.model``, or a folder, searched in this order.

    Args:
        path: the file or folder.
        pattern: as ``FileConfig.pattern``, for tiktoken ranks files.
        end_of_text: as ``FileConfig.end_of_text``; without it as it was saved, or as the file says.
        is_checked: it was found to keep text as it is, before it was saved.

    Raises:
        UserError: for a path that is not there, is not a tokenizer, or is one that loses text.
    """
    file = _find(Path(path))
    if end_of_text is None:
        end_of_text = load_given(file.parent)
    if file.suffix == ".json":
        return _load_json(file, end_of_text, is_checked)
    if file.suffix == ".tiktoken" or is_ranks_line(_first_line(file)):
        return read_ranks_file(file, pattern, end_of_text)
    return SentencePieceTokenizer(read_bounded(file), str(file), end_of_text, is_checked)


def _find(path: Path) -> Path:
    if path.is_file():
        if path.suffix not in {".json", ".tiktoken", ".model"}:
            raise UserError(f"{path}: a tokenizer's name ends in .json, .tiktoken or .model")
        return path
    if not path.is_dir():
        raise UserError(f"{path}: no such file or folder")
    if (path / "tokenizer.json").is_file():
        return path / "tokenizer.json"
    for suffix in ("tiktoken", "model"):
        found = sorted(path.glob(f"*.{suffix}"))
        if len(found) > 1:
            raise UserError(f"{path}: holds {len(found)} *.{suffix} files; name the one to read")
        if found:
            return found[0]
    raise UserError(f"{path}: holds no tokenizer.json, *.tiktoken or *.model")


def _load_json(file: Path, end_of_text: str | int | None, is_checked: bool) -> Tokenizer:
    try:
        text = read_bounded(file).decode()
    except UnicodeDecodeError as error:
        raise UserError(f"{file}: not UTF-8 text ({error}); give a Hugging Face tokenizer.json") from error
    try:
        spec = parse_json(text, str(file))
    except UserError:
        spec = None  # BPETokenizer says what is wrong
    if spec == byte_vocabulary() and end_of_text in (None, "<|endoftext|>", BytesTokenizer.end_of_text):
        return BytesTokenizer()
    match spec:
        case {"model": {"type": "WordLevel", "vocab": dict(vocab)}} if spec == symbol_vocabulary(len(vocab)):
            return SymbolsTokenizer(len(vocab))
    return BPETokenizer(text, str(file), end_of_text, is_checked)


def _first_line(file: Path) -> bytes:
    with file.open("rb") as stream:
        return stream.readline(4096)


def keep_tokenizer(tokenizer: Tokenizer, folder: Path) -> None:
    """Save a tokenizer as a folder that is there whole, and on the disk, or not at all; a former one gives way.

    One process at a time.

    Raises:
        OSError: it cannot be written.
    """
    with whole_folder(folder) as aside:
        tokenizer.save(aside)
