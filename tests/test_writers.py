"""Whatever writes a file or a folder leaves it whole, or as it was before: on a full disk, and where it is killed."""

import errno
import re
from pathlib import Path

import pytest
from matplotlib.figure import Figure

import isogloss
from isogloss import durable
from isogloss.data.tokenizers.bpe import BPETokenizer
from isogloss.data.tokenizers.bpe_training import train_bpe
from isogloss.data.tokenizers.bytes import BytesTokenizer
from isogloss.data.tokenizers.symbols import SymbolsTokenizer
from isogloss.interop.hf import export_hf
from isogloss.report.saving import save_figure
from isogloss.report.tables import write_page

# Writing by hand, each with the reason why it is whole all the same.
BY_HAND = {
    "durable.py": "the protocol itself",
    "checkpoint/save.py": "writes through checkpoint/storage.py into a folder that is renamed",
    "checkpoint/storage.py": "writes into folders that are renamed",
    "checkpoint/consolidate.py": "writes into a whole_folder",
    "checkpoint/room.py": "a probe, removed at once",
    "data/named/fetch.py": "writes into a whole_folder",
    "data/named/pip.py": "writes into a temporary folder",
    "data/rows/fitting.py": "writes into a whole_folder",
    "data/sources/bad_input.py": "a journal: each line counts, also of a preparation that is killed",
    "data/sources/standard_input.py": "the protocol, but for a file that may stay as it is",
    "interop/hf.py": "writes into a whole_folder",
    "launch/slurm.py": "writes into a whole_folder",
    "train/metrics.py": "a journal: each line counts, also of a run that is killed",
}
WRITING = re.compile(
    r'write_text\(|write_bytes\(|\.open\("[wa]|\bopen\([^)\n]*, "[wax]|json\.dump\(|save_file\(|np\.save|tofile\('
    r"|savefig\(path"
)


def test_no_other_code_writes_files_by_hand() -> None:
    root = Path(isogloss.__file__).parent
    by_hand = {p.relative_to(root).as_posix() for p in root.rglob("*.py") if WRITING.search(p.read_text())}
    assert by_hand == set(BY_HAND)


@pytest.fixture
def full_disk(monkeypatch) -> None:
    def full(stream) -> None:
        raise OSError(errno.ENOSPC, "no space")

    monkeypatch.setattr(durable, "sync", full)


def figure() -> Figure:
    return Figure(figsize=(1, 1))


@pytest.mark.parametrize(
    ("name", "write"),
    [
        ("tokenizer.json", lambda folder: BytesTokenizer().save(folder)),
        ("tokenizer.json", lambda folder: SymbolsTokenizer(9).save(folder)),
        ("tokenizer.json", lambda folder: train_bpe(["ab ab ab"], 258).save(folder)),
        ("plot.png", lambda folder: save_figure(figure(), folder / "plot.png", 50)),
        ("page.html", lambda folder: write_page(folder / "page.html", "t", [], ["a"], [["b"]], folder / "image.png")),
    ],
    ids=["bytes", "symbols", "bpe", "plot", "page"],
)
def test_a_full_disk_leaves_what_was_there(tmp_path: Path, full_disk, name: str, write) -> None:
    (tmp_path / "image.png").write_bytes(b"")
    (tmp_path / name).write_text("good")
    with pytest.raises(OSError, match="no space"):
        write(tmp_path)
    assert (tmp_path / name).read_text() == "good"
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted({"image.png", name})


class Killed(BaseException):
    """Stands for a process that dies: nothing that it left is cleaned up."""


def test_an_export_that_is_killed_midway_does_not_stand_in_its_own_way(
    make_decoder, tmp_path: Path, monkeypatch
) -> None:
    model, folder = make_decoder(), tmp_path / "new"

    def die(self, place: Path) -> None:
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(BytesTokenizer, "save", die)
        patch.setattr(durable.shutil, "rmtree", lambda *args, **options: None)
        with pytest.raises(Killed):
            export_hf(model, BytesTokenizer(), folder, seq_len=8)
    assert not folder.exists()
    assert any(tmp_path.iterdir()), "a killed process leaves something, elsewhere"
    written = export_hf(model, BytesTokenizer(), folder, seq_len=8)
    assert sorted(written) == sorted(folder.iterdir())
    assert [path.name for path in tmp_path.iterdir()] == ["new"]


def test_an_export_into_the_working_folder_is_refused(make_decoder, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match="name a new folder in it"):
        export_hf(make_decoder(), None, Path(), seq_len=8)


def test_a_tokenizer_is_written_as_one_file_of_a_folder_that_holds_others(tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("stays")
    tokenizer = train_bpe(["ab ab ab"], 258)
    assert isinstance(tokenizer, BPETokenizer)
    tokenizer.save(tmp_path)
    assert (tmp_path / "mine").read_text() == "stays"
