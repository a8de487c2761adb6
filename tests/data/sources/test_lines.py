import gzip
import io
import zlib

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from isogloss.data.sources.lines import BLOCK_BYTES, ZSTD_PIECE_BYTES, read_blocks, split_lines
from isogloss.data.sources.records import EXCERPT_BYTES, BadRecordError

BLOCKS = st.lists(st.lists(st.sampled_from([b"\n", b"a", b"bc", b"d" * 7]), max_size=12).map(b"".join), max_size=12)


@given(BLOCKS, st.integers(0, 12), st.integers(0, 3))
def test_lines_do_not_depend_on_the_blocks(blocks, max_bytes, start):
    content = b"".join(blocks)
    lines = list(split_lines(blocks, max_bytes, start))
    expected = content.removesuffix(b"\n").split(b"\n") if content else []
    assert [line.content for line in lines] == expected  # excerpts are whole: no line is longer than one
    assert [line.too_long for line in lines] == [len(line) if len(line) > max_bytes else 0 for line in expected]
    for line, text in zip(lines, expected, strict=True):
        assert content[line.start - start :].startswith(text)
        assert line.start == start or content[line.start - start - 1 : line.start - start] == b"\n"


@pytest.mark.parametrize("max_bytes", [1, 160, 5000])
def test_of_a_line_that_is_too_long_an_excerpt_is_kept(max_bytes):
    blocks = [b"a\n", *[b"x" * 150] * 1000, b"\nb"]
    first, long, last = split_lines(blocks, max_bytes)
    assert (first.content, last.content, last.too_long) == (b"a", b"b", 0)
    assert (long.content, long.too_long) == (b"x" * EXCERPT_BYTES, 150_000)


@pytest.mark.parametrize(
    ("compression", "compress", "largest"),
    [
        (".gz", gzip.compress, BLOCK_BYTES),
        (".zst", zstandard.ZstdCompressor().compress, (1 << 17) * ZSTD_PIECE_BYTES // 4),
    ],
)
def test_a_small_file_that_stands_for_a_large_one_comes_in_small_blocks(compression, compress, largest):
    content = bytes(100 << 20)
    sizes, total = [], zlib.crc32(b"")
    for block in read_blocks(io.BytesIO(compress(content)), compression):
        sizes.append(len(block))
        total = zlib.crc32(block, total)
    assert sum(sizes) == len(content)
    assert total == zlib.crc32(content)
    assert max(sizes) <= largest


def test_padding_of_zeros_longer_than_a_block_and_what_follows_it():
    padded = gzip.compress(b"a") + bytes(3 * BLOCK_BYTES) + gzip.compress(b"b")
    assert b"".join(read_blocks(io.BytesIO(padded), ".gz")) == b"ab"
    with pytest.raises(BadRecordError, match="damaged"):
        list(read_blocks(io.BytesIO(gzip.compress(b"a") + b"rubbish"), ".gz"))


@pytest.mark.parametrize("compression", [".gz", ".zst"])
@pytest.mark.parametrize("content", [bytes(1 << 18), bytes(i * i % 251 for i in range(300))])
def test_all_that_stands_before_a_cut_is_read(compression, content):
    whole = gzip.compress(content) if compression == ".gz" else zstandard.ZstdCompressor().compress(content)
    for cut in range(len(whole)):
        blocks, read = read_blocks(io.BytesIO(whole[:cut]), compression), b""
        with pytest.raises(BadRecordError, match="truncated"):  # noqa: PT012
            for block in blocks:
                read += block
        assert content.startswith(read)
        if compression == ".gz":
            assert read == zlib.decompressobj(wbits=31).decompress(whole[:cut])
