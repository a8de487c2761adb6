import builtins
import errno
import functools
import io
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
from pydantic import TypeAdapter, ValidationError

from isogloss.config.base import UserError
from isogloss.data import prepare as prepare_module
from isogloss.data import shards
from isogloss.data.prepare import FilesConfig, PythonStdlibConfig, prepare
from isogloss.data.prepared import MANIFEST
from isogloss.data.tokenizers.config import TokenizerConfig

BYTES = TypeAdapter(TokenizerConfig).validate_python({"type": "bytes"})


@pytest.fixture
def texts(tmp_path) -> Path:
    folder = tmp_path / "texts"
    folder.mkdir()
    for i in range(60):
        (folder / f"{i:02d}.txt").write_text(f"Document number {i}, café.\n" * (i % 7 + 1))
    (folder / "copy.txt").write_text((folder / "05.txt").read_text())
    (folder / "empty.txt").write_text("")
    return folder


def config_of(texts: Path, name: str = "prepared", **fields) -> FilesConfig:
    return FilesConfig(train=(str(texts),), prepared_dir=texts.parent / name, **fields)


def contents(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def decoded(corpus, split) -> list[str]:
    stream = corpus.split(split)
    tokens = stream.gather(np.arange(len(stream)))
    parts = np.split(tokens, stream.document_starts[1:])
    assert all(part[0] == corpus.tokenizer.end_of_text for part in parts)
    return [corpus.tokenizer.decode(part[1:]) for part in parts]


def test_every_document_comes_back_from_one_split(texts):
    corpus = prepare(config_of(texts), BYTES)
    train, validation = decoded(corpus, "train"), decoded(corpus, "validation")
    originals = {path.read_text() for path in texts.glob("*.txt")} - {""}
    assert sorted(train + validation) == sorted(originals)
    manifest = corpus.manifest
    assert (manifest.n_duplicates, manifest.n_empty) == (1, 1)
    assert (manifest.train.n_documents, manifest.validation.n_documents) == (len(train), len(validation))
    assert manifest.train.n_bytes == sum(len(text.encode()) for text in train)
    assert corpus.manifest.validation.n_bytes == sum(len(text.encode()) for text in validation)
    assert manifest.validation.n_tokens == len(corpus.split("validation"))
    assert corpus.split("train") is corpus.split("train")
    assert corpus.split("train").fingerprint != corpus.split("validation").fingerprint
    assert manifest.dtype == "<u2"


def test_a_single_text_and_chosen_validation_files(tmp_path):
    play, other = tmp_path / "play.txt", tmp_path / "other.jsonl"
    play.write_text("To be, or not to be\n" * 100)
    other.write_text(json.dumps({"text": "chosen"}) + "\n")
    corpus = prepare(FilesConfig(train=(str(play),), prepared_dir=tmp_path / "prepared"), BYTES)
    assert (decoded(corpus, "train")[0], decoded(corpus, "validation")) == (
        "To be, or not to be\n" * 90,
        ["To be, or not to be\n" * 10],
    )
    both = FilesConfig(train=(str(play),), validation=(str(other),), prepared_dir=tmp_path / "prepared")
    corpus = prepare(both, BYTES)
    assert (decoded(corpus, "train"), decoded(corpus, "validation")) == ([play.read_text()], ["chosen"])


def test_it_is_reused_until_something_decisive_changes(texts, monkeypatch):
    first = prepare(config_of(texts), BYTES)
    os.utime(texts / "07.txt", ns=(1, 1))
    with monkeypatch.context() as patch:
        patch.setattr(prepare_module, "_make", None)
        assert prepare(config_of(texts, seq_len=7, within_document=False), BYTES).folder == first.folder
    assert prepare(config_of(texts, validation_bytes=30), BYTES).folder != first.folder
    (texts / "07.txt").write_text("changed")
    assert prepare(config_of(texts), BYTES).folder != first.folder


def test_damage_is_found_and_mended(texts):
    config = config_of(texts)
    folder = prepare(config, BYTES).folder
    whole = contents(folder)
    shard = folder / "train-00000.bin"
    told: list[str] = []
    for damage, verify in [
        (lambda: shard.write_bytes(whole[shard.name][:-2]), False),
        (lambda: shard.write_bytes(whole[shard.name][:-2] + b"\0\0"), True),
        (lambda: shard.unlink(), False),
        (lambda: (folder / MANIFEST).write_bytes(b'{"format": 1'), False),
        (lambda: (folder / MANIFEST).unlink(), False),
    ]:
        damage()
        told.clear()
        prepare(config, BYTES, told.append, verify)
        assert contents(folder) == whole
        assert told[0].startswith("not reused: ")
        prepare(config, BYTES, told.append, verify=True)


def test_the_trained_tokenizer_sees_the_training_split_only(texts, monkeypatch):
    seen: list[str] = []
    build = prepare_module.build_tokenizer

    def watch(config, read):
        seen.extend(read())
        return build(config, read)

    monkeypatch.setattr(prepare_module, "build_tokenizer", watch)
    corpus = prepare(config_of(texts), BYTES)
    assert seen == decoded(corpus, "train")


def test_many_small_batches_and_shards_make_the_same_stream(texts, monkeypatch):
    whole = prepare(config_of(texts), BYTES).split("train")
    monkeypatch.setattr(prepare_module, "BATCH_CHARACTERS", 50)
    monkeypatch.setattr(prepare_module, "ShardWriter", functools.partial(shards.ShardWriter, shard_tokens=64))
    corpus = prepare(config_of(texts, "other"), BYTES)
    parts = corpus.split("train")
    assert len(corpus.manifest.train.shards) == -(-len(whole) // 64)
    positions = np.arange(len(whole))
    np.testing.assert_array_equal(parts.gather(positions), whole.gather(positions))
    np.testing.assert_array_equal(parts.document_starts, whole.document_starts)


def test_a_trained_and_a_saved_tokenizer(texts):
    tokenizers = TypeAdapter(TokenizerConfig)
    trained = prepare(config_of(texts), tokenizers.validate_python({"type": "bpe", "vocab_size": 270}))
    assert trained.manifest.n_tokens == trained.tokenizer.n_tokens == 270
    assert trained.manifest.train.n_tokens < trained.manifest.train.n_bytes
    assert all(text.startswith("Document number") for text in decoded(trained, "train"))
    path = texts.parent / "elsewhere"
    shutil.copytree(trained.folder / "tokenizer", path)
    given = prepare(config_of(texts), tokenizers.validate_python({"type": "file", "path": path}))
    assert given.folder != trained.folder
    assert given.split("train").fingerprint == trained.split("train").fingerprint
    moved = tokenizers.validate_python({"type": "file", "path": path.rename(texts.parent / "moved")})
    assert prepare(config_of(texts), moved).folder == given.folder


def test_empty_and_bad_inputs_leave_nothing_behind(texts):
    empty = texts.parent / "void.txt"
    empty.write_text("")
    config = FilesConfig(train=(str(empty),), prepared_dir=texts.parent / "prepared")
    with pytest.raises(UserError, match="the corpus is empty"):
        prepare(config, BYTES)
    (texts / "zz.txt").write_bytes(b"\xff")
    with pytest.raises(UserError, match=r"zz\.txt: not UTF-8"):
        prepare(config_of(texts), BYTES)
    assert not [path for path in config.prepared_dir.iterdir() if path.is_dir()]


def test_an_unreadable_input_is_named(texts, monkeypatch):
    open_path = Path.open

    def deny(self, *args, **kwargs):
        if self.name == "07.txt":
            raise PermissionError(errno.EACCES, "Permission denied", str(self))
        return open_path(self, *args, **kwargs)

    monkeypatch.setattr(Path, "open", deny)
    with pytest.raises(UserError, match=r"07\.txt: cannot be read \(Permission denied\)"):
        prepare(config_of(texts), BYTES)


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT])
@pytest.mark.parametrize("victim", ["train-00000.bin", "validation.starts.npy", "manifest.json"])
def test_a_full_disk_is_reported_and_cleaned_up(texts, monkeypatch, code, victim):
    class Full(io.FileIO):
        def write(self, data):
            raise OSError(code, os.strerror(code))

    def open_full(file, mode="r", *args, **kwargs):
        if Path(file).name == victim and "w" in mode:
            return io.BufferedWriter(Full(file, "w"))
        return open_file(file, mode, *args, **kwargs)

    open_file = io.open
    monkeypatch.setattr(io, "open", open_full)
    monkeypatch.setattr(builtins, "open", open_full)
    config = config_of(texts)
    with pytest.raises(UserError) as error:
        prepare(config, BYTES)
    assert str(config.prepared_dir) in str(error.value)
    assert os.strerror(code) in str(error.value)
    assert "bytes" in str(error.value)
    assert not [path for path in config.prepared_dir.iterdir() if path.is_dir()]
    monkeypatch.undo()
    prepare(config, BYTES)


def test_a_real_file_size_limit_is_reported(texts):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    (texts / "big.txt").write_text("".join(f"{i}\n" for i in range(200_000)))
    config = config_of(texts)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, hard))
    try:
        with pytest.raises(UserError, match="File too large"):
            prepare(config, BYTES)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert not [path for path in config.prepared_dir.iterdir() if path.is_dir()]


def test_a_folder_that_cannot_be_made_is_reported(texts):
    (texts.parent / "file").write_text("in the way")
    with pytest.raises(UserError, match=r"cannot be written \(Not a directory\)"):
        prepare(config_of(texts, "file/prepared"), BYTES)


KILLED = """
import sys, time
from isogloss.data import prepare as module
from pydantic import TypeAdapter

batches = module._batches
def stall(texts):
    for batch in batches(texts):
        yield batch
        print("writing", flush=True)
        time.sleep(60)
module._batches = stall
tokenizer = TypeAdapter(module.TokenizerConfig).validate_python({"type": "bytes"})
module.prepare(module.FilesConfig(train=(sys.argv[1],), prepared_dir=sys.argv[2]), tokenizer)
"""


def start_and_stall(config: FilesConfig) -> subprocess.Popen:
    arguments = [sys.executable, "-c", KILLED, config.train[0], str(config.prepared_dir)]
    process = subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "writing\n"
    return process


def test_a_killed_preparation_leaves_nothing_that_the_next_one_minds(texts):
    config = config_of(texts, "killed")
    undisturbed = contents(prepare(config_of(texts), BYTES).folder)
    process = start_and_stall(config)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert [path.suffix for path in config.prepared_dir.iterdir() if path.is_dir()] == [".partial"]
    other = prepare(config_of(texts, "killed", validation_bytes=30), BYTES)
    assert [path for path in config.prepared_dir.iterdir() if path.is_dir()] == [other.folder]
    assert contents(prepare(config, BYTES).folder) == undisturbed


def test_a_second_process_waits_for_the_first_and_leaves_its_files_alone(texts):
    config = config_of(texts, "shared")
    process = start_and_stall(config)
    told: list[str] = []
    waiting = threading.Event()

    def progress(message):
        told.append(message)
        waiting.set()

    thread = threading.Thread(target=lambda: prepare(config, BYTES, progress))
    thread.start()
    assert waiting.wait(10)
    assert told[0].startswith("another process is preparing")
    assert [path.suffix for path in config.prepared_dir.iterdir() if path.is_dir()] == [".partial"]
    process.kill()
    process.wait()
    thread.join(10)
    assert not thread.is_alive()
    assert prepare(config, BYTES).manifest.n_duplicates == 1


def test_the_default_corpus(tmp_path):
    corpus = prepare(PythonStdlibConfig(prepared_dir=tmp_path), BYTES)
    manifest = corpus.manifest
    assert 600_000 <= corpus.manifest.validation.n_bytes <= manifest.train.n_bytes // 9
    assert 1 < manifest.baselines.xz_bits_per_byte < manifest.baselines.gzip_bits_per_byte < 3
    assert manifest.skipped == {}
    assert "standard library" in manifest.origin


def test_the_config_is_a_union_by_type():
    adapter = TypeAdapter(FilesConfig | PythonStdlibConfig)
    assert isinstance(adapter.validate_python({"type": "python_stdlib"}), PythonStdlibConfig)
    assert adapter.validate_python({"type": "files", "train": ["a.txt"]}).train == ("a.txt",)
    for bad in ({"type": "files", "train": []}, {"type": "files", "trian": ["a"]}, {"type": "c4"}):
        with pytest.raises(ValidationError):
            adapter.validate_python(bad)
