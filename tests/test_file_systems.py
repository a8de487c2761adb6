"""File systems that cannot flush a folder or lock a file: the work goes on, and one warning says what is weaker."""

import errno
import fcntl
import mmap
import os
import shutil
import stat
from pathlib import Path

import filelock
import numpy as np
import pytest
import torch

from isogloss import durable
from isogloss.checkpoint.config import CheckpointConfig
from isogloss.checkpoint.layout import checkpoint_folders
from isogloss.checkpoint.load import load_checkpoint
from isogloss.checkpoint.save import save_checkpoint
from isogloss.data.mapped import map_array, map_npy
from isogloss.durable import FileLock, sync_folder, whole_file, whole_folder, write_whole

PARTS = {"model": {"w": torch.ones(3)}}


@pytest.fixture(autouse=True)
def _nothing_said(monkeypatch) -> None:
    monkeypatch.setattr(durable, "_said", set())


def refuse_flushes(monkeypatch, number: int, files: bool = False) -> None:
    def fsync(handle: int) -> None:
        if files or stat.S_ISDIR(os.fstat(handle).st_mode):
            raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "fsync", fsync)


def refuse_locks(monkeypatch, number: int) -> None:
    def flock(handle: int, operation: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", flock)


NO_FLUSH = [errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP, errno.EACCES, errno.EBADF]
NO_LOCK = [errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL]


@pytest.mark.parametrize("number", NO_FLUSH)
def test_a_folder_that_cannot_be_flushed_is_said_once(tmp_path: Path, monkeypatch, capsys, number: int) -> None:
    refuse_flushes(monkeypatch, number)
    write_whole(tmp_path / "a", b"a")
    with whole_file(tmp_path / "b") as stream:
        stream.write(b"b")
    with whole_folder(tmp_path / "c") as aside:
        (aside / "d").write_bytes(b"d")
    save_checkpoint(tmp_path / "checkpoints", 1, PARTS, {}, CheckpointConfig())
    assert {path.name for path in tmp_path.iterdir()} == {"a", "b", "c", "checkpoints"}
    assert load_checkpoint(tmp_path / "checkpoints/step-0000000001").step == 1
    (said,) = capsys.readouterr().err.splitlines()
    assert said.startswith(f"isogloss: warning: {tmp_path}: ")
    assert "offers no flush" in said
    assert "docs/reliability.md" in said


@pytest.mark.parametrize("number", [errno.EINVAL, errno.ENOSYS])
def test_nor_is_a_file_that_cannot_be_flushed(tmp_path: Path, monkeypatch, capsys, number: int) -> None:
    refuse_flushes(monkeypatch, number, files=True)
    save_checkpoint(tmp_path, 1, PARTS, {}, CheckpointConfig())
    assert len(capsys.readouterr().err.splitlines()) == 1


@pytest.mark.parametrize("number", [errno.EIO, errno.ENOSPC, errno.EDQUOT])
def test_a_flush_that_fails_is_an_error_with_its_path(tmp_path: Path, monkeypatch, number: int) -> None:
    refuse_flushes(monkeypatch, number)
    with pytest.raises(OSError, match=os.strerror(number)) as caught:
        sync_folder(tmp_path)
    assert (caught.value.errno, caught.value.filename) == (number, str(tmp_path))


@pytest.mark.parametrize("number", [errno.EIO, errno.EACCES, errno.EPERM])
def test_a_lock_that_fails_is_an_error_with_its_path(tmp_path: Path, monkeypatch, number: int) -> None:
    refuse_locks(monkeypatch, number)
    with pytest.raises(OSError, match=os.strerror(number)) as caught:
        FileLock(tmp_path / "lock").acquire()
    assert (caught.value.errno, caught.value.filename) == (number, str(tmp_path / "lock"))


def test_a_folder_that_cannot_be_listed_is_written_to(tmp_path: Path, monkeypatch, capsys) -> None:
    def refused(path: object, *_: object) -> int:
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    monkeypatch.setattr(os, "open", refused)  # whoever runs the tests may read everything
    sync_folder(tmp_path)
    assert f"{tmp_path}: its file system offers no flush (Permission denied)" in capsys.readouterr().err


@pytest.mark.parametrize("number", NO_LOCK)
def test_where_there_are_no_locks_the_work_goes_on(tmp_path: Path, monkeypatch, capsys, number: int) -> None:
    refuse_locks(monkeypatch, number)
    for _ in range(2):
        with FileLock(tmp_path / "lock"), FileLock(tmp_path / "lock", timeout=0):
            pass
    (said,) = capsys.readouterr().err.splitlines()
    assert said.startswith(f"isogloss: warning: {tmp_path}: its file system offers no lock")
    assert "start none" in said
    assert not [path.name for path in tmp_path.iterdir() if path.name != "lock"], "the probe is gone"


def test_where_the_lock_itself_is_refused_too(tmp_path: Path, monkeypatch, capsys) -> None:
    def refused(self: object, **_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(filelock.FileLock, "acquire", refused)
    with FileLock(tmp_path / "lock"):
        pass
    assert "No locks available" in capsys.readouterr().err


def test_a_lock_that_is_held_is_held(tmp_path: Path, capsys) -> None:
    with FileLock(tmp_path / "lock"), pytest.raises(filelock.Timeout):
        FileLock(tmp_path / "lock").acquire(timeout=0)
    with FileLock(tmp_path / "lock", timeout=0):
        pass
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("number", [errno.ENODEV, errno.ENOTSUP])
def test_files_that_cannot_be_mapped_are_read(tmp_path: Path, monkeypatch, capsys, number: int) -> None:
    np.save(tmp_path / "a.npy", np.arange(9))
    np.arange(9, dtype="<u4").tofile(tmp_path / "a.bin")

    def refused(*_: object, **__: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(mmap, "mmap", refused)
    assert map_npy(tmp_path / "a.npy").tolist() == list(range(9))
    assert map_array(tmp_path / "a.bin", "<u4").tolist() == list(range(9))
    assert map_array(tmp_path / "a.bin", "<u4", 8, 3).tolist() == [2, 3, 4]
    with pytest.raises(ValueError, match="shorter than 8 items"):
        map_array(tmp_path / "a.bin", "<u4", 8, 8)
    assert capsys.readouterr().err.count("offers no mapping") == 1


def test_ranks_and_workers_do_not_say_it_again(tmp_path: Path, monkeypatch, capsys) -> None:
    refuse_flushes(monkeypatch, errno.EINVAL)
    for name, value in (("RANK", "1"), ("SLURM_PROCID", "3")):
        with monkeypatch.context() as patch:
            patch.setenv(name, value)
            write_whole(tmp_path / "a", b"a")
    assert capsys.readouterr().err == ""


def test_a_run_is_trained_stopped_and_gone_on_with_there(call, monkeypatch, tiny: Path) -> None:
    """Prepared, locked, saved, resumed and exported: with neither flushes of folders nor locks."""
    refuse_flushes(monkeypatch, errno.EINVAL)
    refuse_locks(monkeypatch, errno.ENOLCK)
    settings = ("watch.sample_tokens=0", "data.packing=best_fit")
    code, _, errors = call("train", tiny, "train.steps=4", *settings)
    assert code == 0
    assert sorted(line.partition("offers no ")[2].split()[0] for line in errors.splitlines()) == ["flush", "lock"]
    code, out, _ = call("train", tiny, "train.steps=6", *settings)
    assert code == 0
    assert "resuming after step 4" in out
    assert call("export", tiny.parent / "runs/tiny", tiny.parent / "hf")[0] == 0


@pytest.mark.parametrize("asynchronous", [True, False])
@pytest.mark.parametrize("stage", ["rename", "rmtree", "list"])
def test_a_checkpoint_that_cannot_be_pruned_ends_no_run(
    call, monkeypatch, tiny: Path, stage: str, asynchronous: bool
) -> None:
    root, rename, rmtree, glob = tiny.parent / "runs/tiny/checkpoints", Path.rename, shutil.rmtree, Path.glob
    left = [True]

    def refused(path: object) -> bool:
        return left[0] and "step-0000000002" in str(path) and str(path).endswith("-old")

    def no_rename(path: Path, target: Path) -> Path:
        if refused(target) and stage == "rename":
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return rename(path, target)

    def no_rmtree(path: Path, ignore_errors: bool = False) -> None:
        if not (refused(path) and stage == "rmtree"):
            rmtree(path, ignore_errors=ignore_errors)

    def no_glob(path: Path, pattern: str):
        if stage == "list" and pattern.endswith("-old") and left[0]:
            raise OSError(errno.ESTALE, "Stale file handle", str(path))
        return glob(path, pattern)

    monkeypatch.setattr(Path, "rename", no_rename)
    monkeypatch.setattr(shutil, "rmtree", no_rmtree)
    monkeypatch.setattr(Path, "glob", no_glob)
    settings = ("checkpoint.every=2", "checkpoint.keep_last=1", f"checkpoint.asynchronous={str(asynchronous).lower()}")
    code, _, errors = call("train", tiny, "train.steps=4", "watch.sample_tokens=0", *settings)
    assert code == 0, errors
    assert "cannot be deleted, and takes room; it is tried again after the next checkpoint" in errors
    assert str(root) in errors
    assert 4 in checkpoint_folders(root)
    left[0] = False
    assert call("train", tiny, "train.steps=6", "watch.sample_tokens=0", *settings)[0] == 0
    assert [path.name for path in root.iterdir()] == ["step-0000000006"]
