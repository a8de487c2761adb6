import builtins
import errno
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
from filelock import FileLock
from pydantic import TypeAdapter, ValidationError

from isogloss.config.base import UserError
from isogloss.data.prepare import FilesConfig, PythonStdlibConfig, pipeline, prepare, training_texts
from isogloss.data.prepare.spills import text_key
from isogloss.data.prepared import BAD_RECORDS, MANIFEST
from isogloss.data.stamps import VERIFIED
from isogloss.data.tokenizers.config import BPEConfig, TokenizerConfig

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
    files = (path for path in folder.rglob("*") if path.is_file() and path.name != VERIFIED)
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


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
        patch.setattr(pipeline, "_make", None)
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
    build = pipeline.build_tokenizer

    def watch(config, read):
        seen.extend(read())
        return build(config, read)

    monkeypatch.setattr(pipeline, "build_tokenizer", watch)
    corpus = prepare(config_of(texts), BPEConfig(vocab_size=270))
    assert seen == decoded(corpus, "train")


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
    empty.write_bytes(b"\xff")
    with pytest.raises(UserError, match=r"all that it holds is 1 bad record; the first is .*void\.txt: not UTF-8"):
        prepare(config.model_copy(update={"max_bad": 1}), BYTES)
    (texts / "zz.txt").write_bytes(b"\xff")
    with pytest.raises(UserError, match=r"zz\.txt: not UTF-8"):
        prepare(config_of(texts), BYTES)
    assert not [path for path in config.prepared_dir.iterdir() if path.is_dir()]


def test_bad_records_are_left_out_up_to_a_limit_and_reported(texts):
    clean = prepare(config_of(texts), BYTES)
    (texts / "records.jsonl").write_text('{"text": "a good one"}\n{"text": 3}\nnonsense\n')
    with pytest.raises(UserError, match=r"(?s)2 bad records, more than max_bad = 1.*records\.jsonl:2: .*jsonl:3: not"):
        prepare(config_of(texts, max_bad=1), BYTES)
    corpus = prepare(config_of(texts, max_bad=2), BYTES)
    assert corpus.manifest.n_bad == 2
    assert corpus.manifest.train.n_documents == clean.manifest.train.n_documents + 1
    reported = [json.loads(line) for line in (corpus.folder / BAD_RECORDS).read_text().splitlines()]
    assert [(Path(entry["where"]).name, entry["excerpt"]) for entry in reported] == [
        ("records.jsonl:2", '{"text": 3}'),
        ("records.jsonl:3", "nonsense"),
    ]
    with pytest.raises(UserError, match="prepared without 2 bad records"):
        prepare(config_of(texts, max_bad=1), BYTES)


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
@pytest.mark.parametrize("victim", ["000000.text", "train-00000.bin", "validation.starts.npy", "manifest.json"])
def test_a_full_disk_is_reported_and_cleaned_up(texts, monkeypatch, code, victim):
    class Full(io.FileIO):
        def write(self, data):
            raise OSError(code, os.strerror(code))

    def open_full(file, mode="r", *args, **kwargs):
        if victim in Path(file).name and "w" in mode:
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
from isogloss.data.prepare import FilesConfig, pipeline, prepare
from isogloss.data.tokenizers.config import BytesConfig

tokenise = pipeline.tokenise_range
def stall(task):
    tokenise(task)
    print("writing", flush=True)
    time.sleep(600)
pipeline.tokenise_range = stall
prepare(FilesConfig(train=(sys.argv[1],), prepared_dir=sys.argv[2]), BytesConfig())
"""


def start_and_stall(config: FilesConfig) -> subprocess.Popen:
    arguments = [sys.executable, "-c", KILLED, config.train[0], str(config.prepared_dir)]
    process = subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "writing\n"
    return process


def folders(config: FilesConfig) -> list[Path]:
    return [path for path in config.prepared_dir.iterdir() if path.is_dir()]


def test_a_killed_preparation_is_gone_on_with(texts, monkeypatch):
    config = config_of(texts, "killed")
    undisturbed = contents(prepare(config_of(texts), BYTES).folder)
    process = start_and_stall(config)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert [path.suffix for path in folders(config)] == [".partial"]
    (folders(config)[0] / "spills" / "stray.aside").write_text("of a process that was killed")

    def again(task):
        raise AssertionError("done before")

    monkeypatch.setattr(pipeline, "scan_unit", again)
    monkeypatch.setattr(pipeline, "tokenise_range", again)
    corpus = prepare(config, BYTES)
    assert contents(corpus.folder) == undisturbed
    assert folders(config) == [corpus.folder]


def test_work_that_nobody_will_go_on_with_is_removed(texts):
    config = config_of(texts, "killed")
    process = start_and_stall(config)
    process.send_signal(signal.SIGKILL)
    process.wait()
    (work,) = folders(config)
    other = FilesConfig(train=(str(texts / "*.txt"),), prepared_dir=config.prepared_dir, max_document_bytes=1000)
    elsewhere = prepare(other, BYTES).folder
    assert set(folders(config)) == {work, elsewhere}  # other paths: that work may still be wanted
    (texts / "07.txt").write_text("changed")
    corpus = prepare(config, BYTES)
    assert contents(corpus.folder) == contents(prepare(config_of(texts, "fresh"), BYTES).folder)
    assert set(folders(config)) == {corpus.folder, elsewhere}
    old = config.prepared_dir / "0123456789abcdef.partial"
    old.mkdir()
    (old / "work.json").write_text('["other"]')
    prepare(other.model_copy(update={"validation_bytes": 30}), BYTES)
    assert old.exists()
    for path in (old / "work.json", old):
        os.utime(path, (0, 0))
    prepare(other.model_copy(update={"validation_bytes": 40}), BYTES)
    assert not old.exists()


def test_a_file_that_changes_while_it_is_prepared_is_named(texts, monkeypatch):
    scan = pipeline.scan_unit

    def meddle(task):
        (texts / "07.txt").write_text("changed meanwhile")
        return scan(task)

    monkeypatch.setattr(pipeline, "scan_unit", meddle)
    with pytest.raises(UserError, match=r"07\.txt: has changed"):
        prepare(config_of(texts), BYTES)


def test_damaged_work_is_not_believed(texts):
    config = config_of(texts, "killed")
    process = start_and_stall(config)
    process.send_signal(signal.SIGKILL)
    process.wait()
    (work,) = folders(config)
    for shard in work.glob("*/range-*.json"):
        shard.unlink()
    spill = work / "spills/000000.text"
    data = spill.read_bytes()
    spill.write_bytes(data[:-1] + b"!")
    with pytest.raises(UserError, match=r"000000\.text: damaged"):
        prepare(config, BYTES)


def test_a_second_process_waits_for_the_first_and_leaves_its_files_alone(texts):
    config = config_of(texts, "shared")
    process = start_and_stall(config)
    told: list[str] = []
    waiting = threading.Event()

    def progress(message):
        told.append(message)
        waiting.set()

    thread = threading.Thread(target=lambda: prepare(config, BYTES, progress), daemon=True)
    thread.start()
    assert waiting.wait(300)
    assert told[0].startswith("another process is preparing")
    assert [path.suffix for path in folders(config)] == [".partial"]
    process.kill()
    process.wait()
    thread.join(300)
    assert not thread.is_alive()
    assert prepare(config, BYTES).manifest.n_duplicates == 1


def test_a_ready_tokenizer_and_the_texts_to_build_one_from(texts):
    config = config_of(texts)
    key, read = training_texts(config)
    seen = list(read())
    corpus = prepare(config, BYTES)
    assert seen == decoded(corpus, "train")
    assert prepare(config, corpus.tokenizer).folder == corpus.folder
    ready = prepare(config_of(texts, "other"), corpus.tokenizer)
    assert ready.manifest.tokenizer == {"type": "given"}
    assert ready.split("train").fingerprint == corpus.split("train").fingerprint
    assert training_texts(config_of(texts, "other"))[0] == key
    assert training_texts(config_of(texts, validation_bytes=30))[0] != key


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


def test_the_work_of_a_process_killed_after_the_renaming_is_removed(tmp_path: Path, monkeypatch) -> None:
    (tmp_path / "a.txt").write_text("To be, or not to be\n" * 100)
    config = FilesConfig(train=(str(tmp_path / "a.txt"),), prepared_dir=tmp_path / "prepared")

    def left() -> list[Path]:
        return list((tmp_path / "prepared").glob("*.partial"))

    with monkeypatch.context() as patch:
        patch.setattr(pipeline, "remove", lambda folder: None)
        prepare(config, BYTES)
    (folder,) = left()
    (folder / "another").mkdir()
    prepare(config, BYTES)
    assert left() == [folder], "it has work for another tokenizer"
    (folder / "another").rmdir()
    with FileLock(folder.with_suffix(".lock")):
        prepare(config, BYTES)
        assert left() == [folder], "another process is at work there"
    prepare(config, BYTES)
    assert left() == []


@pytest.fixture
def unequal(tmp_path) -> Path:
    """Three files of about 216 kB, 640 B and 900 B."""
    folder = tmp_path / "unequal"
    folder.mkdir()
    (folder / "long.txt").write_text("".join(f"line {number} of the long one\n" for number in range(8000)))
    (folder / "b.txt").write_text("b" * 640)
    (folder / "c.txt").write_text("c" * 900)
    return folder


def test_three_unequal_files_are_split_by_bytes_or_refused_in_words(unequal):
    said: list[str] = []
    corpus = prepare(config_of(unequal), BYTES, said.append)
    train, validation = corpus.manifest.train.n_bytes, corpus.manifest.validation.n_bytes
    assert 0.09 < validation / (train + validation) <= 0.1
    assert not [line for line in said if "warning" in line]
    refused: list[str] = []
    for fraction in (0.1, 0.3, 0.5, 0.7, 0.9):
        try:
            corpus = prepare(config_of(unequal, validation_fraction=fraction), BYTES, said.append)
            assert corpus.manifest.train.n_bytes > corpus.manifest.validation.n_bytes
        except UserError as error:
            refused.append(str(error))
    assert refused
    assert all("leaves" in error and "validation_bytes decides" in error for error in refused)


def test_an_odd_split_is_said_at_each_start_and_what_was_asked_for_once_is_refused_without_asking(unequal):
    key = text_key((unequal / "long.txt").read_bytes())
    fraction = int.from_bytes(key[:8], "big") / (1 << 64) + 1e-9  # the long one validates
    asked = config_of(unequal, validation_fraction=fraction, min_train_share=0.0)
    for _ in range(2):
        said: list[str] = []
        corpus = prepare(asked, BYTES, said.append)
        assert corpus.manifest.train.n_bytes < 1_600
        assert sum("warning: " in line and "are asked for" in line for line in said) == 1
    with pytest.raises(UserError, match=r"data\.min_train_share = 0\.5"):
        prepare(asked.model_copy(update={"min_train_share": 0.5}), BYTES)
