"""Bytes of a file, decompressed, cut into lines: all of it streamed, whatever the file holds.

At most one block, one line of ``max_bytes`` and the decompressor's window (zstd: at most 2 GiB, where the writer asked
for it by ``--long=31``) are in memory; a line that is longer is skipped to its end without being kept.
"""

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


def split_lines(blocks: Iterable[bytes], max_bytes: int, start: int = 0) -> Iterator[Line]:
    """The lines of ``blocks``, the last one also without a line end.

    Args:
        blocks: the content.
        max_bytes: the longest line that is kept.
        start: bytes before the first block, added to each line's.
    """
    parts: list[bytes] = []
    length = 0
    for block in blocks:
        first, *others = block.split(b"\n")
        length = _extend(parts, length, first, max_bytes)
        if not others:
            continue
        *whole, last = others
        yield _line(start, parts, length, max_bytes)
        start += length + 1
        for line in whole:
            yield _line(start, [line], len(line), max_bytes)
            start += len(line) + 1
        parts.clear()
        length = _extend(parts, 0, last, max_bytes)
    if length:
        yield _line(start, parts, length, max_bytes)


def _extend(parts: list[bytes], length: int, more: bytes, max_bytes: int) -> int:
    """Add to a line's parts, keeping only an excerpt once it is too long; its new length."""
    if length + len(more) <= max_bytes:
        parts.append(more)
    elif length <= max(max_bytes, EXCERPT_BYTES):
        parts[:] = [b"".join(part[:EXCERPT_BYTES] for part in (*parts, more))[:EXCERPT_BYTES]]
    return length + len(more)


def _line(start: int, parts: list[bytes], length: int, max_bytes: int) -> Line:
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
