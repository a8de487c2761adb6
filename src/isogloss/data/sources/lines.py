"""Bytes of a file, decompressed, cut into lines: all of it streamed, whatever the file holds.

At most one block, one line of ``max_bytes`` and the decompressor's window (zstd: at most 2 GiB, where the writer asked
for it by ``--long=31``) are in memory; a line that is longer is skipped to its end without being kept.
"""

import codecs
import zlib
from collections.abc import Iterable, Iterator
from io import BufferedIOBase
from typing import NamedTuple

import zstandard

from isogloss.data.sources.records import EXCERPT_BYTES, BadRecordError

BLOCK_BYTES = 1 << 16
ZSTD_PIECE_BYTES = 1 << 8
"""A zstd block of 4 bytes may stand for 128 KiB (RFC 8878, 3.1.1.2): 256 bytes become 8 MiB at most."""


class Line(NamedTuple):
    """A line without its end."""

    start: int
    """Bytes of (decompressed) content before it."""
    content: bytes
    """All of it, or of a line that is too long an excerpt."""
    too_long: int
    """The length in bytes of a line above the limit; else 0."""


def read_blocks(stream: BufferedIOBase, compression: str) -> Iterator[bytes]:
    """The content of a file from where it stands, in blocks.

    Args:
        stream: the file.
        compression: ``.gz``, ``.zst`` or none; several streams end to end are read as ``gzip`` and ``zstd`` do.

    Raises:
        BadRecordError: the compressed data is damaged or ends too early; what came before has been yielded.
        OSError: it cannot be read.
    """
    blocks = iter(lambda: stream.read(BLOCK_BYTES), b"")
    if not compression:
        return blocks
    return _gunzip(blocks) if compression == ".gz" else _unzstd(blocks)


def decode_blocks(blocks: Iterable[bytes], encoding: str | None) -> Iterator[bytes]:
    """The content in UTF-8, from another encoding.

    Args:
        blocks: the content.
        encoding: one of Python's text encodings; None: the content is UTF-8 already, and not touched.

    Raises:
        BadRecordError: it is not in this encoding, or without one is UTF-16 in all likelihood.
    """
    if encoding is None:
        for number, block in enumerate(blocks):
            if number == 0 and (found := find_utf16(block)):
                raise BadRecordError(
                    f"{found.upper()} by its zero bytes, without a byte order mark; set data.encoding={found}"
                )
            yield block
        return
    decoder = codecs.getincrementaldecoder(encoding)()
    try:
        for block in blocks:
            yield decoder.decode(block).encode()
        yield decoder.decode(b"", final=True).encode()
    except UnicodeError as error:
        reason = error.reason if isinstance(error, UnicodeDecodeError) else error
        raise BadRecordError(f"not {encoding} ({reason}); correct data.encoding, or leave it out for UTF-8") from error


def check_encoding(encoding: str) -> None:
    """Refuse what is no encoding of text.

    Raises:
        ValueError: Python knows none of that name.
    """
    try:
        "".encode(encoding)
        codecs.getincrementaldecoder(encoding)
    except LookupError as error:
        raise ValueError(f"no encoding of text: {error}; utf-16, utf-16-le and cp1252 are some") from error


def find_utf16(head: bytes) -> str | None:
    """Which UTF-16 the beginning of a text is, by its zeros: every other byte, as in most scripts' texts some are."""
    even, odd = head[0:4096:2], head[1:4096:2]
    if len(odd) < 2:
        return None
    zeros = even.count(0) / len(even), odd.count(0) / len(odd)
    if max(zeros) < 0.3 or min(zeros) > 0.02:
        return None
    return "utf-16-le" if zeros[1] > zeros[0] else "utf-16-be"


def split_lines(blocks: Iterable[bytes], max_bytes: int, start: int = 0, end: bytes = b"\n") -> Iterator[Line]:
    """The lines of ``blocks``, the last one also without a line end.

    Args:
        blocks: the content.
        max_bytes: the longest line that is kept.
        start: bytes before the first block, added to each line's.
        end: what ends a line.
    """
    parts: list[bytes] = []
    length = 0
    n_held, held = len(end) - 1, b""  # the end of a block may be half of a longer separator
    for block in blocks:
        first, *others = (held + block).split(end)
        last = others[-1] if others else first
        cut = max(0, len(last) - n_held)
        last, held = last[:cut], last[cut:]
        if not others:
            length = extend(parts, length, last, max_bytes)
            continue
        length = extend(parts, length, first, max_bytes)
        yield line_of(start, parts, length, max_bytes)
        start += length + len(end)
        for line in others[:-1]:
            yield line_of(start, [line], len(line), max_bytes)
            start += len(line) + len(end)
        parts.clear()
        length = extend(parts, 0, last, max_bytes)
    length = extend(parts, length, held, max_bytes)
    if length:
        yield line_of(start, parts, length, max_bytes)


def extend(parts: list[bytes], length: int, more: bytes, max_bytes: int) -> int:
    """Add to a line's parts, keeping only an excerpt once it is too long; its new length."""
    if length + len(more) <= max_bytes:
        parts.append(more)
    elif length <= max(max_bytes, EXCERPT_BYTES):
        parts[:] = [b"".join(part[:EXCERPT_BYTES] for part in (*parts, more))[:EXCERPT_BYTES]]
    return length + len(more)


def line_of(start: int, parts: list[bytes], length: int, max_bytes: int) -> Line:
    """A line from its parts."""
    if length > max_bytes:
        return Line(start, b"".join(parts)[:EXCERPT_BYTES], length)
    return Line(start, b"".join(parts), 0)


def _gunzip(blocks: Iterable[bytes]) -> Iterator[bytes]:
    engine = None
    is_first = True
    for block in blocks:
        while block:
            if engine is None:
                # What follows a complete stream begins another one, or it is zeros: padding.
                block = block if is_first else block.lstrip(b"\0")
                if not block:
                    break
                engine, is_first = zlib.decompressobj(wbits=31), False
            try:
                yield engine.decompress(block, BLOCK_BYTES)
            except zlib.error as error:
                raise BadRecordError(f"damaged .gz data ({error}); what came before it may be altered too") from error
            block, engine = (engine.unused_data, None) if engine.eof else (engine.unconsumed_tail, engine)
    if engine is not None:
        yield engine.flush()
    if engine is not None or is_first:
        raise BadRecordError("the .gz data ends too early: the file is truncated")


def _unzstd(blocks: Iterable[bytes]) -> Iterator[bytes]:
    engine = None
    is_first = True
    # `zstd --long=31` needs the largest window; it is only allocated for a frame that asks for it.
    decompressor = zstandard.ZstdDecompressor(max_window_size=1 << 31)
    for block in blocks:
        for first in range(0, len(block), ZSTD_PIECE_BYTES):
            piece = block[first : first + ZSTD_PIECE_BYTES]
            while piece:
                engine, is_first = engine or decompressor.decompressobj(), False
                try:
                    content = engine.decompress(piece)
                except zstandard.ZstdError as error:
                    raise BadRecordError(f"damaged .zst data ({error})") from error
                if content:
                    yield content
                piece, engine = (engine.unused_data, None) if engine.eof else (b"", engine)
    if engine is not None or is_first:
        raise BadRecordError("the .zst data ends too early: the file is truncated")
