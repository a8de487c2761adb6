"""What is on the disk when: a folder gets its name when its files are flushed, and is announced when the name is.

kill -9 does not test this, for the system's cache survives it; so the calls are recorded and their order is checked.
"""

import os
from pathlib import Path

import pytest
import torch

import checkpoint_jobs as jobs
import isogloss.checkpoint.save
import isogloss.checkpoint.storage
from isogloss.checkpoint.config import CheckpointConfig
from isogloss.checkpoint.save import save_checkpoint


def record_a_save(root: Path, monkeypatch) -> list[tuple[str, str]]:
    """The calls that order a save, with the names they were made for."""
    calls: list[tuple[str, str]] = []
    fsync, rename = os.fsync, Path.rename

    def recorded_fsync(descriptor: int) -> None:
        calls.append(("fsync", Path(f"/proc/self/fd/{descriptor}").readlink().name.partition("-step")[0]))
        fsync(descriptor)

    def recorded_rename(path: Path, target: Path) -> Path:
        calls.append(("rename", Path(target).name))
        return rename(path, target)

    parts = {"model": {"w": torch.ones(3)}, "optimizer": {"w/step": torch.ones(())}}
    save_checkpoint(root, 1, parts, {}, CheckpointConfig(keep_last=1))
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", recorded_fsync)
        patch.setattr(Path, "rename", recorded_rename)
        save_checkpoint(
            root, 2, parts, {}, CheckpointConfig(keep_last=1), reached=lambda point: calls.append(("reached", point))
        )
    return calls


def check(calls: list[tuple[str, str]], root: Path) -> None:
    committed = calls.index(("rename", "step-0000000002"))
    before, after = calls[:committed], calls[committed:]
    for name in sorted(path.name for path in (root / "step-0000000002").iterdir()):
        assert ("fsync", name) in before, f"{name} is not on the disk when the folder gets its name"
    assert before.index(("fsync", "manifest.json")) > before.index(("fsync", "index.json"))
    last_file = max(i for i, call in enumerate(before) if call[0] == "fsync" and "." in call[1][1:])
    assert ("fsync", ".aside") in before[last_file:], "the names of the files are not on the disk"
    order = [("fsync", root.name), ("reached", "committed"), ("rename", ".aside-step-0000000001-old")]
    assert [call for call in after if call in order] == order
    assert not any(kind == "rename" for kind, _ in before)


@pytest.mark.campaign(2, 11)
def test_flushed_then_renamed_then_flushed_then_announced_then_deleted(tmp_path: Path, monkeypatch) -> None:
    check(record_a_save(tmp_path, monkeypatch), tmp_path)


@pytest.mark.control(2, 11)
@pytest.mark.parametrize("guard", ["sync", "sync_folder", "delete after"])
def test_the_order_is_what_is_checked(tmp_path: Path, monkeypatch, guard: str) -> None:
    """The controls: each guard taken out."""
    save = isogloss.checkpoint.save
    if guard == "sync":
        monkeypatch.setattr(isogloss.checkpoint.storage, "sync", lambda stream: stream.flush())
    elif guard == "sync_folder":
        monkeypatch.setattr(save, "sync_folder", lambda folder: None)
    else:
        monkeypatch.setattr(save, "_commit", jobs.delete_first(save._commit))
    calls = record_a_save(tmp_path, monkeypatch)
    with pytest.raises(AssertionError):
        check(calls, tmp_path)
