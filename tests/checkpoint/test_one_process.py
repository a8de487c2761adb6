"""Checkpoints: whole or absent, verified, and the newest whole one found."""

import errno
import json
import os
import random
import shutil
import signal
import threading
from pathlib import Path

import pytest
import torch

import checkpoint_jobs as jobs
import isogloss.checkpoint.layout as layout
import isogloss.checkpoint.load as load
import isogloss.checkpoint.save as save_module
from isogloss.checkpoint.asynchronous import Saver
from isogloss.checkpoint.config import CheckpointConfig
from isogloss.checkpoint.layout import CorruptCheckpointError
from isogloss.checkpoint.load import load_checkpoint, newest_checkpoint
from isogloss.checkpoint.save import save_checkpoint
from isogloss.config.base import UserError

FILES = ["model.safetensors", "optimizer.safetensors", "index.json", "state.json", "manifest.json"]
KEEP = CheckpointConfig(keep_last=2, keep_every=10)
many = pytest.mark.skipif("ISOGLOSS_FAULTS" not in os.environ, reason="a longer campaign: make faults")


def save(root: Path, step: int, config: CheckpointConfig = KEEP) -> Path:
    tensors = {"model": {"w": torch.full((4, 5), float(step))}, "optimizer": {"w/step": torch.tensor(float(step))}}
    return save_checkpoint(root, step, tensors, {"progress": {"step": step}}, config)


def newest(root: Path) -> tuple[int | None, list[str]]:
    warnings: list[str] = []
    found = newest_checkpoint(root, warnings.append)
    return (None if found is None else found.step), warnings


def steps_in(root: Path) -> list[int]:
    return sorted(int(path.name.removeprefix("step-")) for path in root.iterdir())


def flip_a_bit(folder: Path) -> None:
    """Flip a bit of the weights."""
    path = folder / "model.safetensors"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(bytes(data))


def test_round_trip(tmp_path: Path) -> None:
    save(tmp_path, 7)
    found = newest_checkpoint(tmp_path, pytest.fail)
    assert found is not None
    assert found.step == 7
    assert found.state == {"progress": {"step": 7}}
    assert torch.equal(found.tensors("model")["w"], torch.full((4, 5), 7.0))


def test_no_checkpoint_yet(tmp_path: Path) -> None:
    assert newest(tmp_path) == (None, [])
    assert newest(tmp_path / "absent") == (None, [])


@pytest.mark.campaign(9)
@pytest.mark.parametrize(
    ("content", "what"),
    [
        (b"", "its 0 bytes are empty"),
        (b"\n \n", "its 3 bytes are empty"),
        (b'{"format": 2,\n "step": ', "its 23 bytes are no JSON from line 2, column 10 on"),
        (b"\x00" * 9, "its 9 bytes are no JSON from line 1, column 1 on"),
        (b'{"format": "\xff"}', "no text at byte 12 of 15"),
        pytest.param(b'{"a":' * 200_000, "it is nested without end", id="deep"),
        pytest.param(b'{"format": ' + b"2" * 5000 + b"}", "Exceeds the limit", id="digits"),
        (b"[1]", "it holds no names"),
        (b"{}", "it does not say which format of checkpoints it is of"),
        (b'{"format": 2, "step": 2, "files": {"a": 3}}', "files.a: "),
    ],
)
@pytest.mark.parametrize("others", [(), (1,)])
def test_a_damaged_list_is_named_with_what_is_wrong_and_what_is_done(
    tmp_path: Path, content: bytes, what: str, others: tuple[int, ...]
) -> None:
    for step in (*others, 2):
        save(tmp_path, step)
    path = tmp_path / "step-0000000002/manifest.json"
    path.write_bytes(content)
    if others:
        step, (warning,) = newest(tmp_path)
        assert step == 1
        assert warning.startswith(f"{path} is damaged: {what}")
        assert warning.endswith(f"; step 1 is taken instead, from {tmp_path / 'step-0000000001'}")
        return
    warnings: list[str] = []
    with pytest.raises(CorruptCheckpointError, match=r"none of the 1 checkpoints in .* is whole; start afresh"):
        newest_checkpoint(tmp_path, warnings.append)
    assert len(warnings) == 1
    assert warnings[0].startswith(f"{path} is damaged: {what}")


def test_a_damaged_one_is_named_though_looking_for_another_is_interrupted(tmp_path: Path, monkeypatch) -> None:
    for step in (1, 2):
        save(tmp_path, step)
    (tmp_path / "step-0000000002/manifest.json").write_bytes(b"")

    def interrupted(path: Path, data: bytes, step: int) -> None:
        if step == 1:
            raise KeyboardInterrupt
        layout.parse_manifest(path, data, step)

    monkeypatch.setattr(load, "parse_manifest", interrupted)
    warnings: list[str] = []
    with pytest.raises(KeyboardInterrupt):
        newest_checkpoint(tmp_path, warnings.append)
    assert warnings == [f"{tmp_path / 'step-0000000002/manifest.json'} is damaged: its 0 bytes are empty"]


@pytest.mark.campaign(11)
def test_retention(tmp_path: Path) -> None:
    for step in range(1, 25):
        save(tmp_path, step)
    assert steps_in(tmp_path) == [10, 20, 23, 24]


@pytest.mark.campaign(21)
@pytest.mark.parametrize("times", [(2e9, 1e9, 0), (1e9, 1e9, 1e9)], ids=["the clock went back", "all equal"])
def test_order_is_by_step_not_by_time(tmp_path: Path, times: tuple[float, ...]) -> None:
    for step, moment in enumerate(times, 8):
        save(tmp_path, step)
        for path in (*tmp_path.rglob("*"), tmp_path):
            os.utime(path, (moment, moment))
    assert newest(tmp_path)[0] == 10
    save(tmp_path, 11)
    assert steps_in(tmp_path) == [10, 11], "the oldest steps go"


@pytest.mark.control(21)
def test_by_time_it_would_be_another(tmp_path: Path, monkeypatch) -> None:
    for step in (1, 2):
        save(tmp_path, step)
    os.utime(tmp_path / "step-0000000001", (2e9, 2e9))
    monkeypatch.setattr(
        load, "checkpoint_folders", lambda root: {int(path.stat().st_mtime): path for path in root.iterdir()}
    )
    assert newest(tmp_path)[0] == 1


@pytest.mark.campaign(9)
@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("damage", ["flip", "truncate", "delete", "empty"])
def test_damage_is_found_and_the_former_checkpoint_taken(tmp_path: Path, name: str, damage: str) -> None:
    save(tmp_path, 1)
    target = save(tmp_path, 2) / name
    data = bytearray(target.read_bytes())
    if damage == "flip":
        data[len(data) // 2] ^= 1
    if damage == "delete":
        target.unlink()
    else:
        target.write_bytes({"flip": bytes(data), "truncate": bytes(data[:-3]), "empty": b""}[damage])
    step, warnings = newest(tmp_path)
    assert step == 1
    assert len(warnings) == 1
    assert "step-0000000002" in warnings[0]


def test_any_flipped_bit_is_found(tmp_path: Path) -> None:
    folder = save(tmp_path, 1)
    files = sorted(folder.iterdir())
    generator = random.Random(0)
    for _ in range(200):
        target = generator.choice(files)
        data = target.read_bytes()
        flipped = bytearray(data)
        flipped[generator.randrange(len(data))] ^= 1 << generator.randrange(8)
        target.write_bytes(bytes(flipped))
        # White space in the manifest says nothing; everything else must be noticed.
        if target.name != "manifest.json" or _meaning(flipped) != json.loads(data):
            with pytest.raises(CorruptCheckpointError):
                load_checkpoint(folder)
        target.write_bytes(data)
    load_checkpoint(folder)


def _meaning(data: bytes | bytearray) -> object:
    try:
        return json.loads(bytes(data))
    except ValueError:
        return None


def test_a_manifest_cannot_name_files_elsewhere(tmp_path: Path) -> None:
    folder = save(tmp_path, 1)
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["files"]["../../etc/passwd"] = {"size": 1, "sha256": ""}
    (folder / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(CorruptCheckpointError, match="outside"):
        load_checkpoint(folder)


def test_when_none_is_whole_it_says_so(tmp_path: Path) -> None:
    (save(tmp_path, 1) / "state.json").unlink()
    with pytest.raises(CorruptCheckpointError, match="none of the 1"):
        newest(tmp_path)


@pytest.mark.campaign(11)
@pytest.mark.parametrize("keep_last", [1, 2])
def test_a_step_saved_after_falling_back_from_a_damaged_one_is_the_newest(tmp_path: Path, keep_last: int) -> None:
    """The run fell back from step 20 to 10, went on with fewer steps between checkpoints, and saved 15."""
    for step in (10, 20):
        save(tmp_path, step, CheckpointConfig(keep_last=2))
    flip_a_bit(tmp_path / "step-0000000020")
    step, warnings = newest(tmp_path)
    assert step == 10
    assert len(warnings) == 1
    save(tmp_path, 15, CheckpointConfig(keep_last=keep_last))
    assert newest(tmp_path) == (15, [])
    assert steps_in(tmp_path) == [10, 15][-keep_last:]


@pytest.mark.campaign(11)
def test_a_damaged_step_is_replaced_when_it_is_saved_again(tmp_path: Path) -> None:
    for step in (10, 20):
        save(tmp_path, step)
    flip_a_bit(tmp_path / "step-0000000020")
    save(tmp_path, 20)
    assert newest(tmp_path) == (20, [])
    assert steps_in(tmp_path) == [10, 20]


@pytest.mark.campaign(11)
def test_a_whole_step_is_left_alone_when_it_is_saved_again(tmp_path: Path) -> None:
    folder = save(tmp_path, 1)
    before = {path.name: (path.stat().st_ino, path.read_bytes()) for path in folder.iterdir()}
    again = save_checkpoint(tmp_path, 1, {"model": {"w": torch.ones(2)}}, {"progress": {"step": 99}}, KEEP)
    assert again == folder
    assert {path.name: (path.stat().st_ino, path.read_bytes()) for path in folder.iterdir()} == before
    assert [path.name for path in tmp_path.iterdir()] == [folder.name]


@pytest.mark.campaign(10)
def test_a_full_disk_leaves_the_former_checkpoint(tmp_path: Path, monkeypatch) -> None:
    save(tmp_path, 1)

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(UserError, match="disk is full"):
        save(tmp_path, 2)
    monkeypatch.undo()
    assert [p.name for p in tmp_path.iterdir()] == ["step-0000000001"]
    assert newest(tmp_path) == (1, [])


@pytest.mark.control(10)
def test_without_taking_it_back_a_save_that_failed_would_leave_the_disk_full(tmp_path: Path, monkeypatch) -> None:
    save(tmp_path, 1)
    with monkeypatch.context() as patch:
        patch.setattr(save_module.shutil, "rmtree", lambda path, ignore_errors: None)
        patch.setattr(os, "fsync", lambda descriptor: (_ for _ in ()).throw(OSError(errno.ENOSPC, "No space left")))
        with pytest.raises(UserError, match="disk is full"):
            save(tmp_path, 2)
    assert len(list(tmp_path.iterdir())) == 2


def save_and_die(root: Path, fatal: int, config: CheckpointConfig = KEEP) -> int:
    """Save step 3 in a child that dies before its ``fatal``-th fsync, rename, mkdir or rmtree; return its exit code."""
    child = os.fork()
    if child:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    signal.alarm(120)  # a child that hangs, as one that is forked beside other threads may, ends with -SIGALRM
    count = 0

    def counted(function):
        def call(*args, **kwargs):
            nonlocal count
            count += 1
            if count == fatal:
                os._exit(9)
            return function(*args, **kwargs)

        return call

    try:
        os.fsync = counted(os.fsync)
        shutil.rmtree = counted(shutil.rmtree)
        Path.rename = counted(Path.rename)
        Path.mkdir = counted(Path.mkdir)
        save(root, 3, config)
        os._exit(0)
    finally:
        os._exit(1)


@pytest.mark.campaign(2, 11)
@pytest.mark.parametrize("keep_last", [pytest.param(1, marks=many), 2])
def test_killed_before_every_call_that_orders_a_save(tmp_path: Path, keep_last: int) -> None:
    """A process that dies before any fsync, rename, mkdir or rmtree of a save leaves the former checkpoint or the new
    one, and the next save a clean folder. Between two of these only bytes of a file under another name change."""
    config, outcomes = CheckpointConfig(keep_last=keep_last), set()
    for fatal in range(1, 40):
        root = tmp_path / str(fatal)
        for step in (1, 2):
            save(root, step, config)
        code = save_and_die(root, fatal, config)
        step, warnings = newest(root)
        assert step in (2, 3)
        assert warnings == []
        outcomes.add(step)
        save(root, 4, config)
        assert newest(root) == (4, [])
        assert not [p for p in root.iterdir() if not p.name.startswith("step-")]
        if code == 0:
            break
        assert code == 9
    else:
        pytest.fail("the save never finished")
    assert outcomes == {2, 3}


@pytest.mark.control(11)
def test_deleted_before_the_new_one_is_there_none_would_be_left(tmp_path: Path, monkeypatch) -> None:
    """Killed at the same calls, but with the order of the last two stages turned round."""
    monkeypatch.setattr(save_module, "_commit", jobs.delete_first(save_module._commit))
    for fatal in range(5, 40):
        root = tmp_path / str(fatal)
        save(root, 2, CheckpointConfig(keep_last=1))
        code = save_and_die(root, fatal, CheckpointConfig(keep_last=1))
        if code == 9 and newest(root)[0] is None:
            return
    pytest.fail("there was always one")


@pytest.mark.parametrize("asynchronous", [False, True])
def test_a_saver_saves_what_is_there_now(tmp_path: Path, asynchronous: bool) -> None:
    """Its plan is used again while shapes are the same, not the tensors."""
    shapes = {1: (2, 3), 2: (2, 3), 3: (5,), 4: (2, 3)}
    with Saver(tmp_path, CheckpointConfig(keep_last=9, asynchronous=asynchronous)) as saver:
        for step, shape in shapes.items():
            saver.save(step, {"model": {"w": torch.full(shape, float(step))}}, {"step": step})
            saver.poll()
    for step, shape in shapes.items():
        found = load_checkpoint(tmp_path / f"step-{step:010d}")
        assert torch.equal(found.tensors("model")["w"], torch.full(shape, float(step)))


@pytest.mark.campaign(12)
def test_a_failure_in_the_background_is_raised_at_the_end_at_the_latest(tmp_path: Path) -> None:
    def full(point: str) -> None:
        if point == "file written":
            raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(UserError, match="disk is full"), Saver(tmp_path, KEEP, full) as saver:
        saver.save(1, {"model": {"w": torch.zeros(3)}}, {})
    assert list(tmp_path.iterdir()) == []


def test_an_interrupted_program_does_not_wait_for_the_background(tmp_path: Path) -> None:
    released, saver = threading.Event(), None

    def hang(point: str) -> None:
        if point == "file written":
            released.wait(600)

    def interrupted() -> None:
        nonlocal saver
        with Saver(tmp_path, KEEP, hang) as saver:
            saver.save(1, {"model": {"w": torch.zeros(3)}}, {})
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert newest(tmp_path) == (None, [])  # it is still being written
    released.set()
    assert saver is not None
    saver.finish()  # not into another test, which may look at what is written
    assert newest(tmp_path) == (1, [])
