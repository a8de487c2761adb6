import gzip
import io
import json
import os
from pathlib import Path

import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from isogloss.config.base import UserError
from isogloss.data.sources import Document, read_documents
from isogloss.data.sources.lines import BLOCK_BYTES

TEXTS = st.lists(st.text(st.characters(exclude_categories=["Cs"]), max_size=40), max_size=20)


def json_lines(texts, field="text") -> bytes:
    return b"".join(json.dumps({field: text}).encode() + b"\n" for text in texts)


def read(*paths) -> list[Document]:
    return list(read_documents(paths))


@settings(deadline=None)
@given(TEXTS, st.sampled_from(["", ".gz", ".zst"]), st.sampled_from(["text", "content"]))
def test_json_lines_come_back_whole_and_in_order(tmp_path_factory, texts, ending, field):
    path = tmp_path_factory.mktemp("lines") / f"a.jsonl{ending}"
    data = json_lines(texts, field)
    compress = {"": bytes, ".gz": gzip.compress, ".zst": zstandard.ZstdCompressor().compress}[ending]
    path.write_bytes(compress(data))
    assert read(path) == [Document(f"{path.name}:{i}", text) for i, text in enumerate(texts, 1) if text]


def test_lines_longer_than_a_block_and_several_compressed_frames(tmp_path):
    texts = ["a" * (3 * BLOCK_BYTES), "b", "c" * BLOCK_BYTES]
    frames = [zstandard.ZstdCompressor().compress(json_lines([text])) for text in texts]
    (tmp_path / "a.jsonl.zst").write_bytes(b"".join(frames))
    (tmp_path / "b.jsonl.gz").write_bytes(b"".join(gzip.compress(json_lines([text])) for text in texts) + b"\0" * 512)
    assert [document.text for document in read(tmp_path)] == texts + texts


def test_a_file_of_lines_is_never_read_whole(tmp_path, monkeypatch):
    path = tmp_path / "a.jsonl"
    path.write_bytes(json_lines(["x" * 1000] * 1000))
    largest = []
    real_open = Path.open

    class Watched(io.BufferedReader):
        def read(self, size=-1):
            largest.append(size)
            return super().read(size)

    monkeypatch.setattr(Path, "open", lambda self, mode: Watched(real_open(self, mode, buffering=0)))
    next(read_documents([path]))
    assert largest == [BLOCK_BYTES] * 2  # to recognise it, and to read it


def test_text_is_kept_exactly_but_for_the_byte_order_mark(tmp_path):
    (tmp_path / "a.txt").write_bytes("\ufeffone\r\ntwo\n\n".encode())
    (tmp_path / "b.jsonl").write_bytes(b"\xef\xbb\xbf" + json_lines(["x"]) + b"\r\n \n" + json_lines(["y"]))
    assert [d.text for d in read(tmp_path)] == ["one\r\ntwo\n\n", "x", "y"]


@pytest.mark.parametrize(
    ("ending", "compress"), [(".gz", gzip.compress), (".zst", zstandard.ZstdCompressor().compress)]
)
def test_truncated_and_damaged_compression(tmp_path, ending, compress):
    data = compress(json_lines([os.urandom(50).hex() for _ in range(5000)]))
    path = tmp_path / f"a.jsonl{ending}"
    path.write_bytes(data[:-1])
    with pytest.raises(UserError, match="truncated"):
        read(path)
    path.write_bytes(b"")
    with pytest.raises(UserError, match="truncated"):
        read(path)
    path.write_bytes(data[: len(data) // 2])
    with pytest.raises(UserError, match="truncated"):
        read(path)
    path.write_bytes(b"not compressed at all")
    with pytest.raises(UserError, match=f"a.jsonl{ending}:1: damaged {ending} data"):
        read(path)


def test_text_that_is_not_utf8_names_the_byte(tmp_path):
    (tmp_path / "a.txt").write_bytes(b"abc\n\xff")
    with pytest.raises(UserError, match=r"a\.txt: not UTF-8: byte 0xff at offset 4"):
        read(tmp_path)


def test_an_unreadable_file_is_named(tmp_path, monkeypatch):
    path = tmp_path / "a.txt"
    path.write_text("x")

    def deny(self, *args, **kwargs):
        raise PermissionError(13, "Permission denied", str(self))

    monkeypatch.setattr(Path, "open", deny)
    with pytest.raises(UserError, match=r"a\.txt: cannot be read \(Permission denied\)"):
        read(path)
