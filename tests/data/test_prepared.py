import json
import os
import pickle
import shutil
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from pydantic import TypeAdapter

from isogloss.config.base import UserError
from isogloss.data import prepared, stamps
from isogloss.data.prepare import FilesConfig, prepare
from isogloss.data.prepared import MANIFEST, open_prepared
from isogloss.data.stamps import VERIFIED
from isogloss.data.tokenizers.bytes import BytesTokenizer
from isogloss.data.tokenizers.config import TokenizerConfig
from isogloss.headway import headway


@pytest.fixture
def folder(tmp_path):
    text = tmp_path / "a.txt"
    text.write_text("To be, or not to be\n" * 100)
    tokenizer = TypeAdapter(TokenizerConfig).validate_python({"type": "bytes"})
    return prepare(FilesConfig(train=(str(text),), prepared_dir=tmp_path / "prepared"), tokenizer).folder


def test_opening_is_enough(folder):
    corpus = open_prepared(folder, verify=True)
    assert corpus.tokenizer.fingerprint == corpus.manifest.tokenizer_fingerprint
    assert len(corpus.split("train")) == corpus.manifest.train.n_tokens


def test_what_is_wrong_is_named(folder):
    shard, manifest = folder / "train-00000.bin", folder / MANIFEST
    whole = shard.read_bytes()
    shard.write_bytes(whole[::-1])
    with pytest.raises(UserError, match=r"train-00000\.bin: damaged \(its checksum"):
        open_prepared(folder)
    shard.write_bytes(whole[1:])
    with pytest.raises(UserError, match=r"train-00000\.bin: damaged \(.* its size"):
        open_prepared(folder)
    shard.unlink()
    with pytest.raises(UserError, match=r"train-00000\.bin: cannot be read \(No such file"):
        open_prepared(folder)
    manifest.write_bytes(b"[" * 100_000)
    with pytest.raises(UserError, match=r"manifest\.json: damaged"):
        open_prepared(folder)
    manifest.unlink()
    with pytest.raises(UserError, match="not a prepared corpus"):
        open_prepared(folder)


@pytest.fixture
def hashed(monkeypatch) -> list[str]:
    """The names of the files that are hashed, as they are."""
    names: list[str] = []
    hash_file = stamps.hash_file
    monkeypatch.setattr(stamps, "hash_file", lambda path: (names.append(path.name), hash_file(path))[1])
    return names


def test_only_what_has_changed_is_hashed_again(folder, hashed):
    open_prepared(folder)
    assert hashed == []
    os.utime(folder / "train-00000.bin")
    open_prepared(folder)
    assert hashed == ["train-00000.bin"]
    open_prepared(folder)
    assert hashed == ["train-00000.bin"]
    open_prepared(folder, verify=True)
    assert sorted(hashed[1:]) == sorted(Path(name).name for name in open_prepared(folder).manifest.files)


def test_a_file_of_another_size_than_the_manifests_is_not_whole_whatever_is_known_of_it(folder):
    shard = folder / "train-00000.bin"
    shard.write_bytes(shard.read_bytes()[1:])
    known = json.loads((folder / VERIFIED).read_text())
    (folder / VERIFIED).write_text(json.dumps(known | {shard.name: stamps.stamp_of(shard)}))
    with pytest.raises(UserError, match="its size"):
        open_prepared(folder)


def test_what_changes_while_it_is_hashed_is_hashed_again(folder, hashed, monkeypatch):
    shard = folder / "train-00000.bin"
    os.utime(shard)
    hash_file = stamps.hash_file

    def hash_and_touch(path: Path) -> str:
        found = hash_file(path)
        os.utime(path, ns=(0, 0))
        return found

    with monkeypatch.context() as patch:
        patch.setattr(stamps, "hash_file", hash_and_touch)
        open_prepared(folder)
    open_prepared(folder)
    assert hashed == [shard.name] * 2


def bytes_read(action: Callable[[], object]) -> int:
    """By this process and its threads, as the system counts them; not what is mapped into memory."""

    def count() -> int:
        return int(Path("/proc/self/io").read_text().split()[1])

    begin = count()
    action()
    return count() - begin


def test_opening_reads_no_shard_that_has_not_changed(tmp_path):
    text = tmp_path / "a.txt"
    text.write_text("To be, or not to be\n" * 200_000)  # two bytes a token
    config = FilesConfig(train=(str(text),), prepared_dir=tmp_path / "prepared")
    corpus = prepare(config, BytesTokenizer())
    n_bytes = sum(record.n_bytes for record in corpus.manifest.files.values())
    assert bytes_read(lambda: prepare(config, BytesTokenizer()).rows("train", 64)) < n_bytes / 50
    assert bytes_read(lambda: prepare(config, BytesTokenizer(), verify=True)) > n_bytes
    os.utime(corpus.folder / "train-00000.bin")
    assert bytes_read(lambda: prepare(config, BytesTokenizer())) > n_bytes / 2


def test_a_row_table_is_hashed_when_it_is_made_and_when_it_has_changed(folder, hashed):
    def open_rows() -> list[str]:
        hashed.clear()
        corpus = open_prepared(folder)
        assert corpus.rows("train", 16, packing="best_fit") is corpus.rows("train", 16, packing="best_fit")
        return list(hashed)

    assert open_rows() == []  # it is vouched for by who made it
    assert open_rows() == []
    start = folder / "rows/train-best_fit-16/start.bin"
    os.utime(start)
    assert open_rows() == ["start.bin"]
    assert open_rows() == []
    os.utime(folder / "train-00000.bin")
    open_prepared(folder)  # without its rows, of which it keeps what is known
    assert open_rows() == []
    (folder / VERIFIED).unlink()
    assert {"start.bin", "length.bin", "first.bin"} < set(open_rows())


def test_a_damaged_row_table_is_made_anew_or_found_by_verifying(folder):
    rows = open_prepared(folder).rows("train", 16, packing="best_fit")
    start = folder / "rows/train-best_fit-16/start.bin"
    status, whole = start.stat(), start.read_bytes()
    assert open_prepared(folder, verify=True).check_tables() == 1
    start.write_bytes(bytes([whole[0] ^ 1, *whole[1:]]))
    os.utime(start, ns=(status.st_atime_ns, status.st_mtime_ns))
    with pytest.raises(UserError, match=r"start\.bin: damaged; delete .*train-best_fit-16, and it is made anew"):
        open_prepared(folder, verify=True).check_tables()
    os.utime(start)
    assert open_prepared(folder).rows("train", 16, packing="best_fit").n_rows == rows.n_rows
    assert start.read_bytes() == whole
    (start.parent / "table.json").write_text("{")
    with pytest.raises(UserError, match=r"table\.json: damaged"):
        open_prepared(folder, verify=True).check_tables()


def test_another_process_trusts_what_it_is_told_and_nothing_else(folder, hashed):
    corpus = open_prepared(folder, verify=True)
    corpus.rows("train", 16, packing="document")
    (folder / VERIFIED).unlink()
    told = pickle.dumps(corpus)
    (folder / VERIFIED).mkdir()  # as on a disk that cannot be written
    hashed.clear()
    pickle.loads(told).rows("train", 16, packing="document")
    assert hashed == []
    os.utime(folder / "train-00000.bin")
    pickle.loads(told)
    assert hashed == ["train-00000.bin"]
    shard = folder / "train-00000.bin"
    shard.write_bytes(shard.read_bytes()[::-1])
    with pytest.raises(UserError, match=r"its checksum .*all processes must see one data\.prepared_dir"):
        pickle.loads(told)


def test_a_copy_is_hashed_once_even_where_it_kept_the_times(folder, hashed, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy, copy_function=shutil.copy2)
    n_files = len(open_prepared(copy).manifest.files)
    assert len(hashed) == n_files
    open_prepared(copy)
    assert len(hashed) == n_files


def test_it_is_said_that_much_is_hashed(folder, monkeypatch):
    told: list[str] = []
    open_prepared(folder, verify=True, progress=told.append)
    assert told == []
    monkeypatch.setattr(prepared, "LONG_BYTES", 1)
    open_prepared(folder, progress=told.append)
    assert told == []
    open_prepared(folder, verify=True, progress=told.append)
    (line,) = told
    assert line.startswith("comparing the checksums of 5 files, ")


def test_whoever_waits_hears_of_each_file_that_has_been_hashed(folder):
    before = headway(threading.get_ident())
    open_prepared(folder)
    assert headway(threading.get_ident()) == before
    n_files = len(open_prepared(folder, verify=True).manifest.files)
    assert headway(threading.get_ident()) == before + n_files


def test_a_change_that_leaves_no_trace_is_found_by_verifying(folder):
    shard = folder / "train-00000.bin"
    status, data = shard.stat(), shard.read_bytes()
    shard.write_bytes(data[::-1])
    os.utime(shard, ns=(status.st_atime_ns, status.st_mtime_ns))
    open_prepared(folder)
    with pytest.raises(UserError, match="its checksum"):
        open_prepared(folder, verify=True)


@pytest.mark.campaign(17)
def test_another_tokenizer_is_refused(folder):
    fields = json.loads((folder / MANIFEST).read_text())
    fields["tokenizer_fingerprint"] = "0" * 64
    (folder / MANIFEST).write_text(json.dumps(fields))
    with pytest.raises(
        UserError, match=f"not the tokenizer that made this corpus .*{BytesTokenizer.fingerprint}.*{'0' * 64}"
    ):
        _ = open_prepared(folder).tokenizer


@pytest.mark.control(17)
def test_without_the_comparison_another_tokenizer_would_be_taken(folder, monkeypatch):
    fields = json.loads((folder / MANIFEST).read_text())
    fields["tokenizer_fingerprint"] = "0" * 64
    (folder / MANIFEST).write_text(json.dumps(fields))
    monkeypatch.setattr(prepared.PreparedCorpus, "check_tokenizer", lambda *rest: None)
    assert open_prepared(folder).tokenizer.fingerprint != "0" * 64
