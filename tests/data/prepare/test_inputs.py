"""What decides whether inputs are the same: their contents, and never less than their stamps."""

import gzip
import json
import os
from pathlib import Path

import pytest

from isogloss.data.prepare import FilesConfig, inputs, prepare
from isogloss.data.prepare.inputs import open_inputs
from isogloss.data.prepare.keys import scan_key
from isogloss.data.tokenizers.config import BytesConfig


def config_of(folder: Path, **fields) -> FilesConfig:
    return FilesConfig(train=(str(folder / "texts"),), prepared_dir=folder / "prepared", validation_bytes=20, **fields)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "texts").mkdir()
    for number in range(9):
        (tmp_path / f"texts/{number}.txt").write_text(f"text number {number}\n" * 3)
    return tmp_path


def keep_times(path: Path, status: os.stat_result) -> None:
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


def replace(path: Path, data: bytes) -> None:
    status = path.stat()
    other = path.with_name("other")
    other.write_bytes(data)
    keep_times(other, status)
    other.replace(path)


def rewrite(path: Path, data: bytes) -> None:
    status = path.stat()
    path.write_bytes(data)
    keep_times(path, status)


@pytest.mark.parametrize("change", [replace, rewrite])
def test_another_file_of_the_same_size_and_time_is_another_corpus(folder, change):
    first = prepare(config_of(folder), BytesConfig())
    path = folder / "texts/3.txt"
    before = path.stat()
    change(path, path.read_bytes().replace(b"3", b"X"))
    assert (path.stat().st_size, path.stat().st_mtime_ns) == (before.st_size, before.st_mtime_ns)
    assert prepare(config_of(folder), BytesConfig()).name != first.name


def test_verifying_reads_the_inputs_whatever_their_stamps_are(folder):
    first = prepare(config_of(folder), BytesConfig())
    path, cache = folder / "texts/3.txt", folder / "prepared/inputs.json"
    rewrite(path, path.read_bytes().replace(b"3", b"X"))
    known = json.loads(cache.read_bytes())
    status = path.stat()
    known[str(path)][:4] = [status.st_size, status.st_mtime_ns, status.st_ino, status.st_ctime_ns]  # as if unchanged
    cache.write_text(json.dumps(known))
    assert prepare(config_of(folder), BytesConfig()).name == first.name
    assert prepare(config_of(folder), BytesConfig(), verify=True).name != first.name
    assert prepare(config_of(folder), BytesConfig()).name != first.name  # what was found is kept


def test_hashes_of_earlier_versions_are_taken_once_more(folder, monkeypatch):
    first = prepare(config_of(folder), BytesConfig())
    cache = folder / "prepared/inputs.json"
    known = json.loads(cache.read_bytes())
    cache.write_text(json.dumps({path: [entry[0], entry[1], entry[-1]] for path, entry in known.items()}))
    hashed = []
    hash_unit = inputs._hash_unit
    monkeypatch.setattr(inputs, "_hash_unit", lambda unit: hashed.append(unit.name) or hash_unit(unit))
    for _ in range(2):
        assert prepare(config_of(folder), BytesConfig()).name == first.name
    assert sorted(hashed) == [f"{number}.txt" for number in range(9)]
    assert json.loads(cache.read_bytes()) == known


def test_keys_of_corpora_that_earlier_versions_prepared_stay(tmp_path):
    """That of e578a47 for these files."""
    (tmp_path / "a.txt").write_text("one text\n" * 9)
    (tmp_path / "b.jsonl").write_text('{"text": "two"}\n{"text": "three"}\n')
    (tmp_path / "n.md").write_text("# md\n" * 4)
    (tmp_path / "c.txt.gz").write_bytes(gzip.compress(b"gzipped text\n" * 5, mtime=0))
    config = FilesConfig(train=(str(tmp_path / "*"),), prepared_dir=tmp_path / "prepared")
    assert scan_key(open_inputs(config)) == "87f20560bccafdb2"


def test_what_is_read_otherwise_has_another_key(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text('{"text": "one"}\n{"text": "two"}\n')
    keys = {
        scan_key(open_inputs(FilesConfig(train=(str(path),), prepared_dir=tmp_path / "prepared", **fields)))
        for fields in ({}, {"format": "text"}, {"encoding": "cp1252"}, {"format": "text", "separator": "}"})
    }
    assert len(keys) == 4
    (tmp_path / "b.json").write_bytes(path.read_bytes())
    for name, same in {"b.json": True, "a.jsonl": True}.items():
        config = FilesConfig(train=(str(tmp_path / name),), prepared_dir=tmp_path / "prepared")
        assert (scan_key(open_inputs(config)) in keys) == same  # one content, whatever its ending


def test_what_is_not_read_and_what_is_odd_is_in_the_manifest_and_told_each_time(folder):
    for name in ("notes.md", ".hidden.txt", "labels.json"):
        (folder / "texts" / name).write_text('{"a": 1}')
    (folder / "texts/gone.txt").symlink_to("nowhere")
    (folder / "texts/odd.txt").write_text("a\0b")
    (folder / "texts/empty.txt").write_text("")
    told: list[list[str]] = [[], []]
    for lines in told:
        corpus = prepare(config_of(folder), BytesConfig(), lines.append)
    manifest = corpus.manifest
    assert {reason: tally.n for reason, tally in manifest.passed_over.items()} == {
        "with the ending .md": 1,
        "hidden": 1,
        "with the ending .json and no field 'text' or 'content'": 1,
        "dangling link": 1,
    }
    assert {what: (tally.n, Path(tally.first).name) for what, tally in manifest.suspicious.items()} == {
        "with NUL characters": (1, "odd.txt")
    }
    for lines in told:
        assert lines[0].startswith("not read: 4 files or folders: 1 dangling link (")
        assert str(folder / "texts/notes.md") in lines[0]
        left_out = lines.index("left out: 1 empty")
        odd = lines[left_out + 1]
        assert odd.startswith(f"warning: 1 document with NUL characters ({folder / 'texts/odd.txt'}): ")
        assert "data.encoding" in odd
