import os
from pathlib import Path

from isogloss.data.sources import fingerprint_inputs


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
