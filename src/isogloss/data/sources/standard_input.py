"""Standard input kept in a file, so that it can be read again, cut, hashed and gone on with like any other."""

import filecmp
from contextlib import suppress
from io import BufferedIOBase
from pathlib import Path
from typing import Literal, get_args

from isogloss.config.base import UserError
from isogloss.data.sources.formats import HEAD_BYTES, looks_like_json
from isogloss.durable import sync, sync_folder

Format = Literal["txt", "jsonl", "jsonl.gz", "jsonl.zst", "json", "csv", "tsv", "parquet"]
BLOCK_BYTES = 1 << 20


def keep_standard_input(stream: BufferedIOBase, folder: Path, format_: Format) -> Path:
    """Write a stream to ``<folder>/standard-input.<format>``.

    The file is there whole or not at all; one that has the same content already stays as it is, so that work on it
    goes on.

    Args:
        stream: what to read to its end, such as ``sys.stdin.buffer``.
        folder: where the file goes; made if need be.
        format_: what the stream holds.

    Returns:
        The file.

    Raises:
        UserError: the stream is a terminal or empty, or the file cannot be written.
    """
    assert format_ in get_args(Format)
    if stream.isatty():
        raise UserError("-: standard input is a terminal; pipe the text in: zcat corpus.jsonl.gz | isogloss ...")
    path = folder / f"standard-input.{format_}"
    aside = path.with_name(f".{path.name}.aside")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with aside.open("wb") as copy:
            while block := stream.read(BLOCK_BYTES):
                copy.write(block)
            sync(copy)
        if not aside.stat().st_size:
            aside.unlink()
            raise UserError("-: standard input is empty")
        if path.exists() and filecmp.cmp(path, aside, shallow=False):
            aside.unlink()
        else:
            aside.replace(path)
            sync_folder(folder)
    except OSError as error:
        with suppress(OSError):
            aside.unlink(missing_ok=True)
        raise UserError(f"{path}: standard input cannot be kept ({error.strerror})") from error
    return path


def keep_recognised(stream: BufferedIOBase, folder: Path) -> Path:
    """Write a stream as ``keep_standard_input`` does: as JSON if it looks like it, else as text.

    Raises:
        UserError: as ``keep_standard_input``.
    """
    path = keep_standard_input(stream, folder, "txt")
    with path.open("rb") as kept:
        head = kept.read(HEAD_BYTES + 1)
    return path.rename(path.with_suffix(".json")) if looks_like_json(head.decode("utf-8", "replace")) else path
