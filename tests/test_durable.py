"""What is on the disk when: content, then the names of what holds it, then the new name, then the list that has it.

The system's cache survives kill -9, so the calls are recorded and their order is checked; each guard has its control.
"""

import errno
import os
from contextlib import suppress
from pathlib import Path

import pytest

from isogloss import durable
from isogloss.data.prepare import FilesConfig, prepare
from isogloss.data.tokenizers.config import BytesConfig
from isogloss.data.tokenizers.loading import keep_tokenizer
from isogloss.durable import put_folder, whole_file, whole_folder, write_whole

FOLDER = [
    ("fsync", "a.bin"), ("fsync", "b.bin"), ("fsync", "below"), ("fsync", ".new.aside"), ("rename", "new"),
    ("fsync", "root"),
]  # fmt: skip


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "root").mkdir()
    return tmp_path / "root"


@pytest.fixture
def calls(monkeypatch) -> list[tuple[str, str]]:
    """The calls that order things on the disk, with the names they are made for."""
    made: list[tuple[str, str]] = []
    fsync, rename, replace = os.fsync, Path.rename, Path.replace

    def recorded_fsync(descriptor: int) -> None:
        made.append(("fsync", Path(f"/proc/self/fd/{descriptor}").readlink().name))
        fsync(descriptor)

    def recorded_rename(path: Path, target: Path) -> Path:
        found = rename(path, target)
        made.append(("rename", Path(target).name))
        return found

    monkeypatch.setattr(os, "fsync", recorded_fsync)
    monkeypatch.setattr(Path, "rename", recorded_rename)
    monkeypatch.setattr(
        Path, "replace", lambda path, target: (replace(path, target), made.append(("rename", target.name)))[0]
    )
    return made


def fill(folder: Path, content: bytes = b"new") -> None:
    with whole_folder(folder) as aside:
        (aside / "below").mkdir()
        (aside / "below/a.bin").write_bytes(content)
        (aside / "b.bin").write_bytes(content)


def contents(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def in_order(calls: list[tuple[str, str]]) -> bool:
    at = {call: calls.index(call) for call in FOLDER if call in calls}
    within = [("fsync", "a.bin"), ("fsync", "below"), *FOLDER[3:]], [("fsync", "b.bin"), *FOLDER[3:]]
    return len(at) == len(FOLDER) and all([at[c] for c in some] == sorted(at[c] for c in some) for some in within)


def test_a_folder_is_flushed_then_renamed_then_its_name_is_flushed(root: Path, calls) -> None:
    fill(root / "new")
    assert in_order(calls)
    assert contents(root) == {"new/b.bin": b"new", "new/below/a.bin": b"new"}


@pytest.mark.parametrize("guard", ["files", "folders"])
def test_the_order_is_what_is_checked(root: Path, calls, monkeypatch, guard: str) -> None:
    """The controls: each guard taken out."""
    if guard == "folders":
        monkeypatch.setattr(durable, "sync_folder", lambda folder: None)
    else:
        fsync = os.fsync
        monkeypatch.setattr(os, "fsync", lambda fd: fsync(fd) if Path(f"/proc/self/fd/{fd}").is_dir() else None)
    fill(root / "new")
    assert not in_order(calls)


@pytest.mark.parametrize("write", [lambda path: write_whole(path, b"x"), lambda path: stream_to(path)])
def test_a_file_is_flushed_then_renamed_then_its_name_is_flushed(root: Path, calls, write) -> None:
    write(root / "file")
    (content, aside), *rest = calls
    assert (content, aside.startswith(".file.")) == ("fsync", True)
    assert rest == [("rename", "file"), ("fsync", "root")]


def stream_to(path: Path, synced: bool = True) -> None:
    with whole_file(path, synced) as stream:
        stream.write(b"x")


def test_nobody_waits_for_what_need_not_survive_a_power_cut(root: Path, calls) -> None:
    stream_to(root / "file", synced=False)
    assert calls == [("rename", "file")]


def test_a_block_that_fails_leaves_what_was_there(root: Path) -> None:
    fill(root / "new", b"former")
    before = contents(root)
    with suppress(ZeroDivisionError), whole_folder(root / "new") as aside:
        (aside / "b.bin").write_bytes(b"half")
        _ = 1 / 0
    assert contents(root) == before


@pytest.mark.parametrize("write", [lambda path: write_whole(path, b"x"), lambda path: stream_to(path)])
def test_a_file_that_cannot_be_put_in_its_place_leaves_nothing_behind(root: Path, monkeypatch, write) -> None:
    (root / "file").write_bytes(b"former")

    def full(handle: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        write(root / "file")
    assert contents(root) == {"file": b"former"}


def test_processes_that_write_one_file_do_not_disturb_each_other(root: Path, monkeypatch) -> None:
    with whole_file(root / "file") as first:
        first.write(b"first")
        with monkeypatch.context() as patch:
            patch.setattr(os, "getpid", lambda: -1)
            stream_to(root / "file")
        assert contents(root)["file"] == b"x"
    assert contents(root) == {"file": b"first"}, "the last one to end"


def test_a_folder_that_cannot_be_renamed_leaves_what_was_there(root: Path, monkeypatch) -> None:
    fill(root / "new", b"former")
    before, rename = contents(root), Path.rename

    def refused(path: Path, target: Path) -> Path:
        if path.name == ".new.aside":
            raise PermissionError
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", refused)
    with pytest.raises(PermissionError):
        fill(root / "new")
    assert contents(root) == before


@pytest.mark.parametrize("former", ["folder", "file"])
def test_a_former_one_gives_way_and_debris_goes(root: Path, former: str) -> None:
    if former == "folder":
        fill(root / "new", b"former")
        (root / "new/more").write_bytes(b"former")
    else:
        (root / "new").write_bytes(b"former")
    for debris in (".new.aside", ".new.former"):
        (root / debris).mkdir()
        (root / debris / "left").write_bytes(b"of a killed process")
    fill(root / "new")
    assert contents(root) == {"new/b.bin": b"new", "new/below/a.bin": b"new"}


def test_killed_before_any_call_the_former_one_or_the_new_one_is_whole(root: Path, monkeypatch) -> None:
    """Or none, between the two renames; never a part of one."""
    former, new = {"b.bin": b"former", "below/a.bin": b"former"}, {"b.bin": b"new", "below/a.bin": b"new"}
    seen = []
    for n_calls in range(20):
        fill(root / "new", b"former")
        if not killed_at(root, monkeypatch, n_calls):
            break
        seen.append(contents(root / "new"))
    assert all(found in (former, new, {}) for found in seen)
    assert seen[0] == former
    assert seen[-1] == new
    assert seen.count({}) == 1


def test_corpora_row_tables_and_tokenizers_are_written_so(root: Path, calls) -> None:
    (root / "a.txt").write_text("To be, or not to be\n" * 50)
    corpus = prepare(FilesConfig(train=(str(root / "a.txt"),), prepared_dir=root / "prepared"), BytesConfig())
    corpus.rows("train", 16, packing="best_fit")
    keep_tokenizer(corpus.tokenizer, root / "kept")
    for folder in (corpus.folder, corpus.folder / "rows/train-best_fit-16", root / "kept"):
        at = calls.index(("rename", folder.name))
        before, after = calls[:at], calls[at:]
        files = [
            path.name for path in folder.rglob("*") if path.is_file() and "rows" not in path.parts[len(folder.parts) :]
        ]
        assert files
        assert {("fsync", name) for name in files} <= set(before)
        assert before[-1][0] == "fsync", "the list of the files' names"
        assert after[1] == ("fsync", folder.parent.name)


class Killed(BaseException):
    """Stands for a process that dies."""


def killed_at(root: Path, monkeypatch, n_calls: int) -> bool:
    """Whether a process that dies before a call of the protocol came so far."""
    left = [n_calls]

    def dying(function):
        def call(*arguments, **named):
            if left[0] == 0:
                raise Killed
            left[0] -= 1
            return function(*arguments, **named)

        return call

    rmtree = durable.shutil.rmtree

    def delete(folder: Path) -> None:
        if left[0] == 0:  # it dies in the middle
            next(path for path in folder.rglob("*") if path.is_file()).unlink()
        dying(rmtree)(folder)

    aside = root / ".new.aside"
    aside.mkdir(exist_ok=True)
    (aside / "below").mkdir(exist_ok=True)
    (aside / "below/a.bin").write_bytes(b"new")
    (aside / "b.bin").write_bytes(b"new")
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", dying(os.fsync))
        patch.setattr(Path, "rename", dying(Path.rename))
        patch.setattr(durable.shutil, "rmtree", delete)
        try:
            put_folder(aside, root / "new")
        except Killed:
            return True
    return False
