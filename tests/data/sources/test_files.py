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


def found(*paths) -> tuple[list[str], dict[str, int]]:
    """The names, and how many are passed over for each reason."""
    reasons: list[str] = []
    names = [file.name for file in find_files(paths, lambda path, reason: reasons.append(reason))]
    return names, {reason: reasons.count(reason) for reason in reasons}


@pytest.fixture
def linked(tmp_path):
    """A folder with links to a folder, to a file, to nothing and back to itself, and with hidden things."""
    for path in ("in/a.txt", "in/sub/b.txt", "in/.hidden.txt", "in/.git/c.txt", "out/d.txt", "out/deep/e.txt"):
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(path)
    for link, target in {"dir": "../out", "file.txt": "../out/d.txt", "gone.txt": "nowhere", "up": ".."}.items():
        (tmp_path / "in" / link).symlink_to(target)
    (tmp_path / "in/sub/self").symlink_to("../sub")
    (tmp_path / "out/back").symlink_to("../in")
    return tmp_path / "in"


def test_one_rule_for_links_and_hidden_files_in_folders_and_globs(linked):
    names = ["a.txt", "dir/d.txt", "dir/deep/e.txt", "file.txt", "sub/b.txt"]
    reasons = {"hidden": 2, "dangling link": 1, "link to a folder that is above it or read already": 3}
    assert found(linked) == (names, reasons)
    assert found(f"{linked}/**/*.txt") == (names, reasons)
    assert found(f"{linked}/**/**/*.txt") == (names, reasons)
    assert found(f"{linked}/*.txt") == (["a.txt", "file.txt"], {"hidden": 1, "dangling link": 1})
    assert found(f"{linked}/*/d.txt") == (["dir/d.txt"], {"hidden": 1})
    assert found(linked / ".hidden.txt") == ([".hidden.txt"], {})
    assert found(linked / ".git") == (["c.txt"], {})
    assert found(f"{linked}/.*.txt") == ([".hidden.txt"], {})
    assert found(f"{linked}/.git/*") == (["c.txt"], {})
    assert found(linked / "dir") == (
        ["back/a.txt", "back/file.txt", "back/sub/b.txt", "d.txt", "deep/e.txt"],
        {
            "hidden": 2,
            "dangling link": 1,
            "link to a folder that is above it or read already": 3,
        },
    )


def test_a_glob_counts_the_folders_that_it_names(linked):
    names, reasons = found(f"{linked}/*")
    assert names == ["a.txt", "file.txt"]
    assert reasons == {"hidden": 2, "dangling link": 1, "folder that a glob without ** names": 3}


def test_links_that_name_each_other_end(tmp_path):
    for number in range(12):
        (tmp_path / f"{number}").mkdir()
        (tmp_path / f"{number}/{number}.txt").write_text("x")
        for other in range(12):
            (tmp_path / f"{number}/to{other}").symlink_to(f"../{other}")
    (tmp_path / "loop.txt").symlink_to("loop.txt")
    names, reasons = found(tmp_path)
    assert len(names) == 12
    assert reasons == {"dangling link": 1, "link to a folder that is above it or read already": 144}


def test_what_a_folder_does_not_read_is_counted_by_ending(tmp_path):
    for name in ("a.txt", "b.md", "c.MD", "d.py", "e", "f.jsonl.xz"):
        (tmp_path / name).write_text("x")
    os.mkfifo(tmp_path / "pipe.txt")
    assert found(tmp_path) == (
        ["a.txt"],
        {
            "with the ending .md": 2,
            "with the ending .py": 1,
            "without an ending": 1,
            "with the ending .xz": 1,
            "neither a regular file nor a folder": 1,
        },
    )
    (tmp_path / "a.txt").unlink()
    with pytest.raises(UserError, match=r"it has 2 with the ending \.md \(b\.md, \.\.\.\), 1 "):
        find_files([tmp_path])
    with pytest.raises(UserError, match=r"no file matches this glob \(but 1 neither"):
        find_files([f"{tmp_path}/*.txt"])
