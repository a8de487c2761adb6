import sysconfig
from pathlib import Path

import pytest

from isogloss.config.base import UserError
from isogloss.data.sources import Document
from isogloss.data.sources.installed import fingerprint_documents, python_stdlib


@pytest.fixture(scope="module")
def library() -> dict[str, str]:
    return {document.name: document.text for document in python_stdlib()}


def test_the_library_is_there_without_tests_packages_and_tables(library):
    assert list(library) == sorted(library, key=lambda name: Path(name).parts)
    assert {"argparse.py", "pydoc_data/topics.py", "encodings/aliases.py", "encodings/cp932.py"} <= set(library)
    assert not {"encodings/cp1252.py", "encodings/mac_roman.py", "encodings/koi8_r.py"} & set(library)
    parts = {part for name in library for part in Path(name).parts}
    assert not parts & {"site-packages", "dist-packages", "__pycache__", "test", "tests", "idle_test"}
    assert not any(name.startswith("_sysconfigdata") for name in library)
    assert 8e6 < sum(len(text.encode()) for text in library.values()) < 16e6


def test_texts_are_the_files_bytes(library):
    root = Path(sysconfig.get_paths()["stdlib"])
    assert all(library[name].encode() == (root / name).read_bytes() for name in ("argparse.py", "typing.py"))


def test_tests_are_added_on_demand_and_encodings_honoured(tmp_path, monkeypatch):
    monkeypatch.setattr(sysconfig, "get_paths", lambda: {"stdlib": str(tmp_path)})
    (tmp_path / "test").mkdir()
    (tmp_path / "a.py").write_bytes(b"# -*- coding: latin-1 -*-\n# caf\xe9\r\n")
    (tmp_path / "b.py").write_bytes(b"# -*- coding: nonsense -*-\n")
    (tmp_path / "c.txt").write_bytes(b"\xff")
    (tmp_path / "d.so").write_bytes(b"binary")
    (tmp_path / "test" / "e.py").write_bytes("\ufeff# é\n".encode())
    skipped: dict[str, str] = {}
    assert list(python_stdlib(True, skipped.__setitem__)) == [
        Document("a.py", "# -*- coding: latin-1 -*-\n# café\r\n"),
        Document("test/e.py", "# é\n"),
    ]
    assert list(skipped) == ["b.py", "c.txt"]
    assert [document.name for document in python_stdlib()] == ["a.py"]


def test_a_python_without_sources_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(sysconfig, "get_paths", lambda: {"stdlib": str(tmp_path / "python311.zip")})
    with pytest.raises(UserError, match="no readable sources"):
        list(python_stdlib())


def test_fingerprint_tells_names_from_texts():
    documents = [[Document("a", "bc")], [Document("ab", "c")], [Document("a", "b"), Document("c", "")], []]
    assert len({fingerprint_documents(each) for each in documents}) == 4
