"""Room on the disk for the next checkpoints: asked for before the first step, and never a reason to die in vain."""

import errno
import os
import shutil
import subprocess
import sys
from collections import namedtuple
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from rich.console import Console

from isogloss.build import plan_model
from isogloss.checkpoint import room
from isogloss.checkpoint.config import CheckpointConfig
from isogloss.checkpoint.room import check_room, free_bytes, short_of_room
from isogloss.checkpoint.save import SaveFailedError, save_checkpoint
from isogloss.config.base import UserError
from isogloss.data.tokenizers.bytes import BytesTokenizer
from isogloss.parallel.env import ALONE
from isogloss.recipe import load_recipe
from isogloss.run.folder import RunFolder
from isogloss.run.opening import _find_room
from isogloss.run.state import checkpoint_bytes
from isogloss.train.display import Display
from isogloss.train.size import RunSize

Usage = namedtuple("Usage", "total used free")


@pytest.fixture
def disk(monkeypatch):
    """``disk(free)``: the system says so; ``disk(free, total=...)``."""

    def say(free: int, total: int = 10**9) -> None:
        monkeypatch.setattr(room.shutil, "disk_usage", lambda path: Usage(total, total - free, free))

    return say


def warnings_of(root: Path, steps: int = 1000, **config: int) -> list[str]:
    said = list[str]()
    check_room(root, 100, steps, CheckpointConfig(**{"every": 10, **config}), said.append)
    return said


def test_a_disk_too_small_for_one_is_refused_with_its_bytes(tmp_path: Path, disk) -> None:
    disk(99)
    with pytest.raises(UserError, match=r"runs/a has 99 bytes free, and a checkpoint needs 100: .*set runs_dir"):
        warnings_of(tmp_path / "runs/a")
    disk(100)
    assert len(warnings_of(tmp_path / "runs/a")) == 1


@pytest.mark.parametrize(
    ("wanted", "there", "steps", "config"),
    [
        (3, 0, 1000, {}),
        (2, 1, 1000, {}),
        (1, 3, 1000, {}),
        (1, 0, 7, {}),  # the last step alone
        (6, 0, 1000, {"keep_last": 5}),
        (12, 0, 1000, {"keep_every": 100}),  # 100, ..., 900; 980, 990, 1000
        (8, 0, 1000, {"keep_every": 15, "every": 50}),
    ],
)
def test_all_that_are_to_be_there_are_counted(
    tmp_path: Path, disk, wanted: int, there: int, steps: int, config: dict[str, int]
) -> None:
    for step in range(there):
        (tmp_path / f"step-{step + 1:010d}").mkdir()
    disk(100 * wanted)
    assert warnings_of(tmp_path, steps, **config) == []
    disk(100 * wanted - 1)
    if wanted > 1:
        (said,) = warnings_of(tmp_path, steps, **config)
        assert f"the {wanted} checkpoints that are still to be there at once need {100 * wanted:,}" in said
    else:
        with pytest.raises(UserError):
            warnings_of(tmp_path, steps, **config)


def test_what_a_killed_process_left_counts_as_free(tmp_path: Path, disk) -> None:
    disk(30)
    (tmp_path / ".aside-step-1").mkdir()
    (tmp_path / ".aside-step-1/model.safetensors").write_bytes(bytes(80))
    assert len(warnings_of(tmp_path)) == 1


def test_a_disk_that_says_nothing_is_believed_to_have_room(tmp_path: Path, disk, monkeypatch) -> None:
    disk(0, total=0)
    assert warnings_of(tmp_path) == []
    disk(0)
    assert warnings_of(tmp_path) == [], "it says that nothing is free, and can be written"
    assert short_of_room(tmp_path, 100) is None
    assert list(tmp_path.iterdir()) == []

    def full(handle: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(room.os, "fsync", full)
    with pytest.raises(UserError, match="has 0 bytes free"):
        warnings_of(tmp_path)


def test_a_disk_that_is_read_only_is_not_said_to_be_full(tmp_path: Path, disk, monkeypatch) -> None:
    def refuse(*rest: object, **more: object) -> None:
        raise OSError(errno.EROFS, "Read-only file system")

    disk(0)
    for call in ("open", "unlink"):
        monkeypatch.setattr(Path, call, refuse)
    assert room.free_bytes(tmp_path) is None


def test_a_disk_that_compresses_is_not_refused(tmp_path: Path, disk, monkeypatch) -> None:
    disk(60)
    monkeypatch.setattr(room, "_compresses", lambda root: True)
    assert "unless they are compressed" in warnings_of(tmp_path)[0]


def test_a_save_that_may_not_fit_is_tried(tmp_path: Path, disk) -> None:
    disk(5)
    assert (
        short_of_room(tmp_path, 6)
        == f"{tmp_path} has 5 bytes free, and the checkpoint that is to be written now needs 6"
    )
    assert short_of_room(tmp_path, 5) is None
    save_checkpoint(tmp_path, 1, {"model": {"w": torch.zeros(99)}}, {}, CheckpointConfig())
    assert (tmp_path / "step-0000000001").is_dir()


def test_the_size_is_that_of_a_checkpoint(tmp_path: Path) -> None:
    optim = load_recipe("stdlib-small").optim
    for moments, dtype in (("fp32", torch.float32), ("bf16", torch.bfloat16)):
        root = tmp_path / moments
        parts = {"model": {"w": torch.zeros(50_000)}, "optimizer": {n: torch.zeros(50_000).to(dtype) for n in "mv"}}
        folder = save_checkpoint(root, 1, parts, {}, CheckpointConfig())
        expected = sum(checkpoint_bytes(50_000, optim.model_copy(update={"moments": moments})))
        found = sum(path.stat().st_size for path in folder.iterdir())
        assert expected <= found < 1.02 * expected


def test_a_run_without_room_ends_before_its_first_step(tiny: Path, call, disk) -> None:
    disk(2000)
    code, _, error = call("train", tiny)
    assert code == 2
    recipe = load_recipe(str(tiny)).with_vocabulary(BytesTokenizer.n_tokens)
    n_weights = sum(weight.numel() for weight in plan_model(recipe.model, recipe.init).model.parameters())
    size = 12 * n_weights  # and two moments, in float32
    assert f"checkpoints has 2,000 bytes free, and a checkpoint needs {size:,}" in error
    assert not (tiny.parent / "runs/tiny/metrics.jsonl").exists()


def test_a_run_that_has_only_to_be_finished_needs_none(tiny: Path, disk) -> None:
    disk(2000)
    recipe, display = load_recipe(str(tiny)), Display(Console(quiet=True))
    folder = RunFolder(recipe.folder)
    folder.checkpoints.mkdir(parents=True)
    with pytest.raises(UserError, match="bytes free"):
        _find_room(recipe, folder, RunSize({"head": 1000}, 1.0), ALONE, display)
    (folder.checkpoints / f"step-{recipe.train.steps:010}").mkdir()
    _find_room(recipe, folder, RunSize({"head": 1000}, 1.0), ALONE, display)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 1 MiB, where the user may make one."""
    place = tmp_path / "small"
    place.mkdir()
    mount = shutil.which("mount")
    made = mount and sys.platform == "linux" and os.geteuid() == 0
    if (
        not made
        or subprocess.run([mount, "-t", "tmpfs", "-o", "size=1m", "tmpfs", place], capture_output=True).returncode
    ):
        pytest.skip("no disk can be mounted here")
    yield place
    subprocess.run(["umount", place], check=True)


def test_a_real_small_disk(small_disk: Path, tiny: Path, call) -> None:
    assert free_bytes(small_disk / "not/there/yet") == 2**20
    big = ["model.d_model=128", "model.ffn.d_ff=384", "optim.schedule.warmup=1", "train.steps=2"]
    code, _, error = call("train", tiny, f"runs_dir={small_disk}", *big)
    assert code == 2
    assert "bytes free, and a checkpoint needs" in error
    # Nearly full: it is warned of, tried, and what was there before stays.
    root, parts = small_disk / "checkpoints", {"model": {"w": torch.zeros(25_000)}}
    save_checkpoint(root, 1, parts, {}, CheckpointConfig())
    (small_disk / "filler").write_bytes(bytes(free_bytes(small_disk) - 20_000))
    assert short_of_room(small_disk, 100_000)
    before = {path: path.read_bytes() for path in root.glob("*/*")}
    with pytest.raises(SaveFailedError, match=r"the disk is full, [\d,]+ bytes are free, a checkpoint needs 100,000"):
        save_checkpoint(root, 2, parts, {}, CheckpointConfig())
    assert {path: path.read_bytes() for path in root.glob("*/*")} == before
    (small_disk / "filler").unlink()
    save_checkpoint(root, 2, parts, {}, CheckpointConfig())
