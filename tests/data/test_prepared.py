import json
import os
from pathlib import Path

import pytest
from pydantic import TypeAdapter

from isogloss.config.base import UserError
from isogloss.data import prepared
from isogloss.data.prepare import FilesConfig, prepare
from isogloss.data.prepared import MANIFEST, open_prepared
from isogloss.data.tokenizers.bytes import BytesTokenizer
from isogloss.data.tokenizers.config import TokenizerConfig


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


def test_only_what_has_changed_is_hashed_again(folder, monkeypatch):
    hashed: list[str] = []
    hash_file = prepared.hash_file
    monkeypatch.setattr(prepared, "hash_file", lambda path: (hashed.append(path.name), hash_file(path))[1])
    open_prepared(folder)
    assert hashed == []
    os.utime(folder / "train-00000.bin")
    open_prepared(folder)
    assert hashed == ["train-00000.bin"]
    open_prepared(folder)
    assert hashed == ["train-00000.bin"]
    open_prepared(folder, verify=True)
    assert sorted(hashed[1:]) == sorted(Path(name).name for name in open_prepared(folder).manifest.files)


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
