import os

import pytest

from isogloss.config.base import UserError
from isogloss.data.sources import read_documents
from isogloss.data.sources.files import find_files


def read(*paths) -> list:
    return list(read_documents(paths))


def test_a_folder_yields_text_and_lines_sorted_and_named_from_the_folder(tmp_path):
    corpus = tmp_path / "corpus"
    (corpus / "sub").mkdir(parents=True)
    (corpus / ".git").mkdir()
    for name in ["b.txt", "a.TXT", "sub/c.txt", "notes.md", "image.png", ".git/d.txt", ".hidden.txt"]:
        (corpus / name).write_text(name)
    (corpus / "z.jsonl").write_bytes(b'{"text": "one"}\n{"text": "two"}\n')
    assert [d.name for d in read(corpus)] == ["a.TXT", "b.txt", "sub/c.txt", "z.jsonl:1", "z.jsonl:2"]
    assert [d.name for d in read(corpus / "notes.md")] == ["notes.md"]
    assert [d.name for d in read(f"{corpus}/**/*.txt", corpus / "b.txt")] == [
        "b.txt",
        "sub/c.txt",
    ]


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
