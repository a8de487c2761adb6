"""BPE tokenizers from a Hugging Face ``tokenizer.json``, encoded by tiktoken wherever that gives the same ids."""

import hashlib
import json
import math
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import Tokenizer as HuggingFaceTokenizer

from isogloss.config.base import UserError
from isogloss.config.stored import parse_json
from isogloss.data.tokenizers.base import well_formed
from isogloss.data.tokenizers.byte_table import ByteTable, byte_level_bytes, piece_bytes
from isogloss.data.tokenizers.end_of_text import check_unwritten, declare_special, find_end_of_text, save_given
from isogloss.data.tokenizers.lossless import check_lossless
from isogloss.data.tokenizers.tiktoken_twin import doubtful_texts, tiktoken_twin
from isogloss.durable import write_whole

_MOST_UNUSED = 1 << 20  # ids


class BPETokenizer:
    """A BPE whose tokens are bytes (GPT-2 and after) or characters with a byte fallback. Implements ``Tokenizer``.

    Args:
        text: the content of a ``tokenizer.json``; it is saved unchanged.
        origin: where the text came from, for the messages.
        end_of_text: the token that opens documents, by its text or id; without it one of ``END_OF_TEXT_NAMES``.
        is_checked: whether it is known to keep text as it is.

    Raises:
        UserError: for a text that is not such a tokenizer, or one that does not keep text as it is.
    """

    def __init__(
        self,
        text: str,
        origin: str = "tokenizer.json",
        end_of_text: str | int | None = None,
        is_checked: bool = False,
    ):
        self._text, self._given = text, end_of_text
        self._spec = _parse(text, origin)
        self.end_of_text, is_declared = find_end_of_text(self._spec, origin, end_of_text)
        if not is_declared:
            declare_special(self._spec, self.end_of_text)
        self._origin = origin
        with _explained(f"{origin}: the tokenizers library cannot read it", Exception):  # it raises Exception itself
            self._slow = HuggingFaceTokenizer.from_str(text if is_declared else json.dumps(self._spec))
        self._slow.no_truncation()
        self._slow.no_padding()
        self._slow.encode_special_tokens = True  # text that looks like a special token is text
        tokens = _token_bytes(self._spec, origin)
        self._fast = tiktoken_twin(self._spec, self._slow)
        self._is_doubtful = doubtful_texts(self._spec)
        first = self.encode("a")
        starts_with_space = len(first) > 0 and tokens[first[0]].startswith(b" ")
        self._table = ByteTable(tokens, dummy_prefix=b" " if starts_with_space else b"")
        if not is_declared:
            check_unwritten(self, end_of_text, self._slow.id_to_token(self.end_of_text) or "", origin)
        if not is_checked:
            check_lossless(self, origin, self._spec)

    def __reduce__(self):
        return type(self), (self._text, "tokenizer.json", self._given, True)

    @property
    def n_tokens(self) -> int:
        """One more than the highest id."""
        return len(self._table.tokens)

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the parts of the file that decide the encoding, and of the token that opens documents."""
        parts = [self._spec.get(key) for key in ("added_tokens", "normalizer", "pre_tokenizer", "model")]
        return hashlib.sha256(json.dumps([*parts, self.end_of_text], sort_keys=True).encode()).hexdigest()

    @property
    def backend(self) -> str:
        """``tiktoken`` where it is certain to give the same ids, else ``tokenizers`` (several times slower)."""
        return "tokenizers" if self._fast is None else "tiktoken"

    @property
    def dummy_prefix(self) -> bytes:
        """The space that some vocabularies put before every text."""
        return self._table.dummy_prefix

    @property
    def lossy_characters(self) -> str:
        """What spaces are written with, in vocabularies of characters."""
        return "" if _is_byte_level(self._spec) else "▁"

    def encode(self, text: str) -> np.ndarray:
        """The ids (uint32) of ordinary text."""
        if self._fast is not None and not self._is_doubtful(text):
            try:
                return self._fast.encode_to_numpy(text, disallowed_special=()).copy()  # a view of bytes, not writable
            except UnicodeEncodeError:
                return self.encode(well_formed(text))
            except ValueError:
                # A run of some million spaces exceeds the stack of tiktoken's regex engine, not of the other.
                pass
        with _explained(f"{self._origin}: the tokenizers library cannot encode a text"):
            return _ids(self._slow.encode(well_formed(text), add_special_tokens=False))

    def encode_batch(self, texts: Sequence[str]) -> list[np.ndarray]:
        """``encode`` for many texts, on all cores."""
        if self._fast is None:
            mended = [well_formed(text) for text in texts]
            with _explained(f"{self._origin}: the tokenizers library cannot encode a text"):
                return [_ids(encoding) for encoding in self._slow.encode_batch_fast(mended, add_special_tokens=False)]
        n_threads = os.cpu_count() or 1
        # Many texts to a task, as a task costs more than a short text; several tasks to a thread, as lengths differ.
        size = math.ceil(len(texts) / (8 * n_threads)) or 1
        shares = [texts[start : start + size] for start in range(0, len(texts), size)]
        with ThreadPoolExecutor(n_threads) as pool:
            encoded = pool.map(lambda share: [self.encode(text) for text in share], shares)
            return [ids for share in encoded for ids in share]

    def decode(self, ids: Sequence[int] | np.ndarray) -> str:
        """The text of some ids, special ones left out. Raises ``UserError`` for an id that does not exist."""
        return self._table.decode(ids)

    def token_bytes(self, token: int) -> bytes:
        """The bytes of one id, none for a special token. Raises ``UserError`` for an id that does not exist."""
        return self._table.token_bytes(token)

    def save(self, folder: str | Path) -> None:
        """Write ``tokenizer.json`` as it was read, and the token that opens documents where it was given."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        write_whole(folder / "tokenizer.json", self._text.encode())
        save_given(folder, self._given)


def _ids(encoding: Any) -> np.ndarray:
    return np.array(encoding.ids, dtype=np.uint32)


@contextmanager
def _explained(what: str, *kinds: type[Exception]) -> Iterator[None]:
    """Raise what some kinds of errors, and panics of the library, say: such as a regular expression beyond its limits.

    Raises:
        UserError: ``what``, and why.
    """
    try:
        yield
    except kinds as error:
        raise UserError(f"{what}: {error}") from error
    except BaseException as error:  # a panic is no Exception, and has no module that it could be imported from
        if type(error).__name__ != "PanicException":
            raise
        raise UserError(f"{what}: {error}; mend its pre-tokenizer, or choose another tokenizer") from error


def _parse(text: str, origin: str) -> dict[str, Any]:
    """The JSON of a BPE tokenizer."""
    try:
        spec = parse_json(text, origin)
    except UserError as error:
        raise UserError(f"{error}; give a Hugging Face tokenizer.json") from error
    match spec:
        case {"model": {"vocab": dict(), "merges": list()}}:
            pass
        case {"model": {"type": str(kind)}}:
            raise UserError(
                f"{origin}: its model is a {kind}; isogloss reads BPE (or the SentencePiece model it came from)"
            )
        case _:
            raise UserError(f"{origin}: JSON, but not a Hugging Face tokenizer.json (no BPE under 'model')")
    if spec["model"].get("dropout"):
        raise UserError(f"{origin}: BPE dropout makes the encoding random; set model.dropout to null")
    return spec


def _components(pre_tokenizer: dict[str, Any] | None) -> Iterator[str]:
    """The types of a pre-tokeniser and of those within it."""
    if pre_tokenizer is not None:
        yield pre_tokenizer["type"]
        for part in pre_tokenizer.get("pretokenizers", []):
            yield from _components(part)


def _is_byte_level(spec: dict[str, Any]) -> bool:
    return "ByteLevel" in _components(spec.get("pre_tokenizer"))


def _token_bytes(spec: dict[str, Any], origin: str) -> list[bytes]:
    """The bytes of every id from 0; none for special tokens and gaps."""
    model = spec["model"]
    if _is_byte_level(spec):
        of_vocab = {rank: byte_level_bytes(token) or token.encode() for token, rank in model["vocab"].items()}
    elif model.get("byte_fallback"):
        of_vocab = {rank: piece_bytes(token) for token, rank in model["vocab"].items()}
    else:
        raise UserError(f"{origin}: neither byte-level nor with byte fallback, so it cannot write every text")
    by_id = dict(of_vocab)
    for token in spec.get("added_tokens") or []:
        if token["special"]:
            by_id[token["id"]] = b""
        elif _is_byte_level(spec) or token["content"] not in model["vocab"]:
            by_id[token["id"]] = token["content"].encode()  # else it stands for what the vocabulary's piece does
    # Every id takes a row of the embedding, and an entry here, whether a token has it or not.
    if (highest := max(by_id)) >= (most := _MOST_UNUSED + 16 * len(by_id)):
        raise UserError(
            f"{origin}: it has the id {highest:,} for {len(by_id):,} tokens, and the highest may be {most - 1:,}; "
            "number the tokens without such gaps"
        )
    return [by_id.get(rank, b"") for rank in range(max(by_id) + 1)]
