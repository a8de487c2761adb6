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
from isogloss.data.sources import Document, fingerprint_inputs, read_documents
from isogloss.data.sources.files import find_files
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
    assert read(path) == [Document(f"{path.name}:{i}", text) for i, text in enumerate(texts, 1)]


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
    assert largest == [BLOCK_BYTES]


def test_a_folder_yields_text_and_lines_sorted_and_named_from_the_folder(tmp_path):
    corpus = tmp_path / "corpus"
    (corpus / "sub").mkdir(parents=True)
    (corpus / ".git").mkdir()
    for name in ["b.txt", "a.TXT", "sub/c.txt", "notes.md", "image.png", ".git/d.txt", ".hidden.txt"]:
        (corpus / name).write_text(name)
    (corpus / "z.jsonl").write_bytes(json_lines(["one", "two"]))
    assert [d.name for d in read(corpus)] == ["a.TXT", "b.txt", "sub/c.txt", "z.jsonl:1", "z.jsonl:2"]
    assert [d.name for d in read(corpus / "notes.md")] == ["notes.md"]
    assert [d.name for d in read(f"{corpus}/**/*.txt", corpus / "b.txt")] == [
        ".git/d.txt",
        ".hidden.txt",
        "b.txt",
        "sub/c.txt",
    ]


def test_text_is_kept_exactly_but_for_the_byte_order_mark(tmp_path):
    (tmp_path / "a.txt").write_bytes("\ufeffone\r\ntwo\n\n".encode())
    (tmp_path / "b.jsonl").write_bytes(b"\xef\xbb\xbf" + json_lines(["x"]) + b"\r\n \n" + json_lines(["y"]))
    assert [d.text for d in read(tmp_path)] == ["one\r\ntwo\n\n", "x", "y"]


BAD_LINES = {
    "broken": (b'{"text": "a"', "not JSON"),
    "nested": (b'{"text": "a", "x": ' + b"[" * 200_000 + b"]" * 200_000 + b"}", "nested too deeply"),
    "huge integer": (b'{"text": "a", "n": ' + b"7" * 5000 + b"}", "cannot be read"),
    "no field": (b'{"body": "a"}', "no field 'text' or 'content' (it has 'body')"),
    "empty object": (b"{}", "it has nothing"),
    "not a string": (b'{"text": 3}', "field 'text' is not a string but a int"),
    "not an object": (b'["text"]', "not a JSON object but a list"),
    "latin-1": (b'{"text": "caf\xe9"}', "byte 0xe9 at offset 13"),
    "lone surrogate": (b'{"text": "ab\\ud800"}', "lone surrogate U+D800 at character 2"),
    "UTF-16": ('{"text": "a"}'.encode("utf-16"), "not UTF-8: byte 0xff at offset 0"),
}


@pytest.mark.parametrize("kind", BAD_LINES)
def test_a_bad_line_is_reported_with_its_place(tmp_path, kind):
    line, message = BAD_LINES[kind]
    path = tmp_path / "a.jsonl"
    path.write_bytes(json_lines(["good"]) + line + b"\n")
    with pytest.raises(UserError) as error:
        read(path)
    assert str(error.value).startswith(f"{path}:2: ")
    assert message in str(error.value)


@pytest.mark.parametrize(
    ("ending", "compress"), [(".gz", gzip.compress), (".zst", zstandard.ZstdCompressor().compress)]
)
def test_truncated_and_damaged_compression(tmp_path, ending, compress):
    data = compress(json_lines([os.urandom(50).hex() for _ in range(5000)]))
    path = tmp_path / f"a.jsonl{ending}"
    path.write_bytes(data[:-1])
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
    for use in (read, lambda path: fingerprint_inputs([path])):
        with pytest.raises(UserError, match=r"a\.txt: cannot be read \(Permission denied\)"):
            use(path)


def test_paths_that_name_nothing(tmp_path):
    (tmp_path / "shakespeare").mkdir()
    (tmp_path / "shakespeare" / "plays.txt").write_text("x")
    (tmp_path / "empty").mkdir()
    os.mkfifo(tmp_path / "pipe")
    for path, message in {
        tmp_path / "shakespear" / "plays.txt": f"{tmp_path} has no 'shakespear'; did you mean shakespeare?",
        tmp_path / "shakespeare" / "play.txt": "has no 'play.txt'; did you mean plays.txt?",
        tmp_path / "shakespeare" / "plays.txt" / "x": "is a file",
        tmp_path / "wholly different": "has no 'wholly different'",
        tmp_path / "*.txt": "no file matches",
        tmp_path / "shakespear" / "*.txt": "did you mean",
        tmp_path / "empty": "has no .txt or .jsonl file",
        tmp_path / "pipe": "neither a regular file nor a folder",
        tmp_path / ("x" * 5000): "cannot be searched",
    }.items():
        with pytest.raises(UserError) as error:
            read(path)
        assert message in str(error.value)
    with pytest.raises(UserError, match="no input paths"):
        read()


def test_relative_paths_and_home(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "a.txt").write_text("x")
    assert [file.name for file in find_files(["*.txt"])] == ["a.txt"]
    assert [file.name for file in find_files(["~/a.txt"])] == ["a.txt"]
    with pytest.raises(UserError, match="did you mean"):
        find_files(["b.txt"])


def test_fingerprint_follows_names_and_contents_only(tmp_path, monkeypatch):
    first, second = tmp_path / "first", tmp_path / "second"
    for folder in (first, second):
        folder.mkdir()
        (folder / "a.txt").write_text("one")
        (folder / "b.txt").write_text("two")
    cache = tmp_path / "cache.json"
    original = fingerprint_inputs([first], cache)
    assert original == fingerprint_inputs([second]) == fingerprint_inputs([first], cache)
    os.utime(first / "a.txt", ns=(1, 1))
    assert fingerprint_inputs([first], cache) == original
    (first / "a.txt").write_text("eno")
    assert fingerprint_inputs([first], cache) != original
    (first / "a.txt").rename(first / "c.txt")
    (first / "c.txt").write_text("one")
    assert fingerprint_inputs([first], cache) != original
    cache.write_text('{"x": 3}')
    assert fingerprint_inputs([second], cache) == original


def test_fingerprint_reads_unchanged_files_once(tmp_path, monkeypatch):
    (tmp_path / "a.txt").write_text("one")
    cache = tmp_path / "new" / "cache.json"
    original = fingerprint_inputs([tmp_path / "a.txt"], cache)
    real_open = Path.open

    def deny(self, *args, **kwargs):
        assert self.suffix != ".txt"
        return real_open(self, *args, **kwargs)

    monkeypatch.setattr(Path, "open", deny)
    assert fingerprint_inputs([tmp_path / "a.txt"], cache) == original
