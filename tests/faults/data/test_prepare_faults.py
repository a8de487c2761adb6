"""Faults of the disk and of what is on it, through the whole preparation: one clear message, and nothing is lost.

Each ends with its control: the fault mended, the same call gives what an undisturbed one gives.
"""

import json
import os
import random
import resource
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from isogloss.config.base import UserError
from isogloss.data.prepare import FilesConfig, pipeline, prepare
from isogloss.data.prepared import PreparedCorpus, open_prepared
from isogloss.data.tokenizers.config import BPEConfig, BytesConfig

BYTES = BytesConfig()
slow = pytest.mark.skipif("ISOGLOSS_FAULTS" not in os.environ, reason="starts processes: make faults")
N_PLACES = 3 * int(os.environ.get("ISOGLOSS_FAULTS", "1"))


@pytest.fixture
def texts(tmp_path: Path) -> Path:
    folder = tmp_path / "texts"
    folder.mkdir()
    for number in range(4):
        lines = [json.dumps({"text": f"{number}.{i}: " + "größer 大 " * (i % 9)}) for i in range(300)]
        (folder / f"{number}.jsonl").write_text("\n".join(lines) + "\n")
    return folder


def config_of(texts: Path, place: str = "prepared") -> FilesConfig:
    return FilesConfig(train=(str(texts),), prepared_dir=texts.parent / place, validation_bytes=5000)


def contents(corpus: PreparedCorpus) -> dict[str, bytes]:
    return {name: (corpus.folder / name).read_bytes() for name in (*corpus.manifest.files, "manifest.json")}


@contextmanager
def files_of_at_most(n_bytes: int) -> Iterator[None]:
    """A real limit of the system's: what is written beyond it fails, in the middle of a file."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (n_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@contextmanager
def as_nobody() -> Iterator[None]:
    """For root nothing is forbidden."""
    user = os.geteuid()
    if user == 0:
        os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(user)


def open_to_all(folder: Path) -> None:
    """A folder of pytest's, and those above it that are pytest's too."""
    top = Path(tempfile.gettempdir()).resolve()
    for parent in (folder, *folder.parents):
        if parent == top or parent.stat().st_uid != os.geteuid() or not parent.is_relative_to(top):
            break
        parent.chmod(0o777)


@pytest.mark.campaign(10)
def test_no_room_at_any_size(texts: Path) -> None:
    expected = contents(prepare(config_of(texts, "calm"), BYTES))
    largest = max(map(len, expected.values()))
    config = config_of(texts)
    for n_bytes in [1, *(random.Random(0).randrange(1, largest) for _ in range(N_PLACES))]:
        with files_of_at_most(n_bytes), pytest.raises(UserError, match=r"File too large.* bytes and the disk has"):
            prepare(config, BYTES)
        assert not [path for path in config.prepared_dir.iterdir() if path.is_dir() or path.name.endswith(".aside")]
    assert contents(prepare(config, BYTES)) == expected


@pytest.mark.campaign(10)
@slow
def test_a_disk_that_fills_up_in_a_worker(texts: Path) -> None:
    config = config_of(texts)
    expected = contents(prepare(config_of(texts, "calm"), BYTES))
    with files_of_at_most(max(map(len, expected.values())) // 2), pytest.raises(UserError, match="File too large"):
        prepare(config, BYTES, workers=1)  # it inherits the limit
    assert contents(prepare(config, BYTES, workers=1)) == expected
    assert [path for path in config.prepared_dir.iterdir() if path.is_dir()] == [prepare(config, BYTES).folder]


@pytest.mark.campaign(15)
def test_no_permission_to_read(texts: Path) -> None:
    config = config_of(texts)
    open_to_all(texts)
    (texts / "2.jsonl").chmod(0)
    with as_nobody(), pytest.raises(UserError, match=r"2\.jsonl: cannot be read \(Permission denied\)"):
        prepare(config, BYTES)
    (texts / "2.jsonl").chmod(0o644)
    with as_nobody():
        assert contents(prepare(config, BYTES)) == contents(prepare(config_of(texts, "calm"), BYTES))


@pytest.mark.campaign(15)
def test_no_permission_to_search_a_folder_of_the_input(texts: Path) -> None:
    open_to_all(texts)
    (texts / "below").mkdir()
    (texts / "0.jsonl").rename(texts / "below/0.jsonl")
    (texts / "below").chmod(0)
    with as_nobody(), pytest.raises(UserError, match=r"below.*Permission denied"):
        prepare(config_of(texts), BYTES)  # not the three other files alone
    (texts / "below").chmod(0o755)
    with as_nobody():
        assert len(prepare(config_of(texts), BYTES).manifest.inputs) == 4


@pytest.mark.campaign(15)
def test_no_permission_to_write_but_to_reuse(texts: Path) -> None:
    config = config_of(texts)
    open_to_all(texts)
    config.prepared_dir.mkdir(mode=0o755)
    if os.geteuid() != 0:
        config.prepared_dir.chmod(0o555)
    with (
        as_nobody(),
        pytest.raises(UserError, match=r"cannot be written \(Permission denied\).*another data\.prepared_dir"),
    ):
        prepare(config, BYTES)
    config.prepared_dir.chmod(0o755)
    expected = contents(prepare(config, BYTES))
    with as_nobody():  # of another user, and cannot be written: it can be read all the same, and its rows found
        corpus = prepare(config, BYTES)
        assert contents(corpus) == expected
        assert corpus.rows("train", 64, packing="best_fit").n_rows > 0


@pytest.mark.campaign(15)
def test_no_permission_to_read_a_corpus(texts: Path) -> None:
    config = config_of(texts)
    open_to_all(texts)
    corpus = prepare(config, BYTES)
    expected = contents(corpus)
    corpus.folder.chmod(0)
    with as_nobody(), pytest.raises(UserError, match="Permission denied"):
        open_prepared(corpus.folder)
    config.prepared_dir.chmod(0o555)
    with as_nobody(), pytest.raises(UserError, match="Permission denied"):
        prepare(config, BYTES)
    config.prepared_dir.chmod(0o755)
    corpus.folder.chmod(0o755)
    assert contents(prepare(config, BYTES)) == expected


@pytest.mark.campaign(17)
def test_a_tokenizer_that_differs_from_the_manifests(texts: Path) -> None:
    config = config_of(texts)
    corpus = prepare(config, BPEConfig(vocab_size=300))
    other = prepare(config, BPEConfig(vocab_size=280))
    assert other.folder != corpus.folder  # asked for another, it is another corpus
    before = contents(corpus)
    (path,) = (corpus.folder / "tokenizer").iterdir()
    path.write_bytes((other.folder / "tokenizer" / path.name).read_bytes())
    with pytest.raises(UserError, match=r"tokenizer\.json: damaged .* differs from the manifest's"):
        open_prepared(corpus.folder)
    # Even where the manifest vouches for the file, the fingerprints are compared.
    manifest = json.loads(before["manifest.json"])
    manifest["files"][f"tokenizer/{path.name}"] = other.manifest.files[f"tokenizer/{path.name}"].model_dump()
    (corpus.folder / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(UserError) as error:
        _ = open_prepared(corpus.folder).tokenizer
    for one in (corpus, other):
        assert one.manifest.tokenizer_fingerprint[:16] in str(error.value)
    shutil.rmtree(corpus.folder)  # as the message says
    assert contents(prepare(config, BPEConfig(vocab_size=300))) == before


@pytest.mark.campaign(9)
def test_a_checksum_that_differs_in_any_file(texts: Path) -> None:
    config = config_of(texts)
    corpus = prepare(config, BYTES)
    expected = contents(corpus)
    for name in corpus.manifest.files:
        path = corpus.folder / name
        data = bytearray(path.read_bytes())
        if not data:
            continue
        data[random.Random(name).randrange(len(data))] ^= 1
        path.write_bytes(data)
        with pytest.raises(UserError, match=f"{path.name}: damaged .its checksum differs from the manifest's"):
            open_prepared(corpus.folder)
        told: list[str] = []
        assert contents(prepare(config, BYTES, told.append)) == expected
        assert [line for line in told if line.startswith("not reused")] == told[:1]


@pytest.mark.campaign(15)
@pytest.mark.parametrize("workers", [0, pytest.param(1, marks=slow)])
@pytest.mark.parametrize("change", ["vanishes", "grows", "shrinks", "is replaced"])
def test_a_file_that_changes_while_it_is_prepared(
    texts: Path, monkeypatch: pytest.MonkeyPatch, change: str, workers: int
) -> None:
    path = texts / "2.jsonl"
    whole = path.read_bytes()
    scan = pipeline._scan

    def meddle(*arguments):  # listed and hashed, but not read yet
        match change:
            case "vanishes":
                path.unlink()
            case "grows":
                path.write_bytes(whole + whole[:100])
            case "shrinks":
                os.truncate(path, 1000)
            case "is replaced":
                path.with_name("other").write_bytes(whole[::-1])
                path.with_name("other").replace(path)
        return scan(*arguments)

    config = config_of(texts)
    monkeypatch.setattr(pipeline, "_scan", meddle)
    with pytest.raises(UserError, match=rf"2\.jsonl: has {'vanished' if change == 'vanishes' else 'changed'} since"):
        prepare(config, BYTES, workers=workers)
    monkeypatch.undo()
    path.write_bytes(whole)
    corpus = prepare(config, BYTES, workers=workers)
    assert contents(corpus) == contents(prepare(config_of(texts, "calm"), BYTES))
    assert [folder for folder in config.prepared_dir.iterdir() if folder.is_dir()] == [corpus.folder]


@pytest.mark.campaign(14)
def test_a_report_of_bad_records_is_kept_for_a_week(texts: Path) -> None:
    lines = (texts / "0.jsonl").read_bytes()
    (texts / "0.jsonl").write_bytes(b"{" + lines)
    config = config_of(texts)
    with pytest.raises(UserError, match=r"0\.jsonl:1: not JSON"):
        prepare(config, BYTES)
    (report,) = config.prepared_dir.glob("*.bad.jsonl")
    (texts / "0.jsonl").write_bytes(lines)
    prepare(config, BYTES)
    assert report.exists()
    os.utime(report, (0, 0))
    prepare(config.model_copy(update={"validation_bytes": 4000}), BYTES)
    assert not report.exists()


@pytest.mark.campaign(14)
def test_bad_records_are_reported_in_the_order_of_their_lines(texts: Path) -> None:
    lines = (texts / "0.jsonl").read_text().splitlines()
    for number in (3, 20, 100):
        lines[number - 1] = "{"
    (texts / "0.jsonl").write_text("\n".join(lines))
    config = config_of(texts).model_copy(update={"max_bad": 3})
    corpus = prepare(config, BYTES)
    entries = [json.loads(line) for line in (corpus.folder / "bad_records.jsonl").read_text().splitlines()]
    assert [entry["where"].rpartition(":")[2] for entry in entries] == ["3", "20", "100"]
