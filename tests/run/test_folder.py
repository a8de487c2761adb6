"""Which changes of a recipe a folder's run may go on with, and which make it another run."""

import errno
import json
import os
import re
import signal
import socket
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from isogloss.config.base import UserError
from isogloss.config.describe import leaf_paths
from isogloss.recipe import Recipe, load_recipe
from isogloss.run import folder as module
from isogloss.run.folder import CHANGEABLE, RunFolder, check_changes


def pair(recipe: Path, *overrides: str) -> tuple[Recipe, Recipe]:
    """The recipe as a run keeps it, its vocabulary settled, and as asked for with overrides."""
    return load_recipe(str(recipe)).with_vocabulary(257), load_recipe(str(recipe), overrides)


def test_the_same_recipe_changes_nothing(tiny: Path) -> None:
    assert check_changes(*pair(tiny)) == []
    assert check_changes(*pair(tiny, "model.vocab_size=257")) == []


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("optim.lr=0.02", "optim.lr: 0.01 -> 0.02"),
        ("optim.schedule.warmup=3", "optim.schedule.warmup: 2 -> 3"),
        ("train.steps=20", "train.steps: 10 -> 20"),
        ("train.precision=bf16", "train.precision: fp32 -> bf16"),
        ("train.max_skipped=5", "train.max_skipped: 10 -> 5"),
        ("watch.log_every=5", "watch.log_every: 1 -> 5"),
        ("checkpoint.every=5", "checkpoint.every: 3 -> 5"),
        ("name=moved", "name: tiny -> moved"),
    ],
)
def test_what_may_change_is_said(tiny: Path, override: str, said: str) -> None:
    assert check_changes(*pair(tiny, override)) == [said]


def test_warm_ups_are_compared_in_steps(tiny: Path) -> None:
    """A recipe may count a warm-up in steps or give its share of them; an older run's has steps."""
    assert check_changes(*pair(tiny, "optim.schedule.warmup=0.2")) == []
    longer = check_changes(*pair(tiny, "optim.schedule.warmup=0.2", "train.steps=20"))
    assert longer == ["optim.schedule.warmup: 2 -> 4", "train.steps: 10 -> 20"]


def test_stages_of_a_warm_up_are_compared_in_steps(tiny: Path) -> None:
    for stage in ("batch_size_warmup=[{until: %s, batch_size: 2}]", "seq_len_warmup=[{until: %s, divisor: 2}]"):
        saved, same = pair(tiny, "train." + stage % "0.4")[1], pair(tiny, "train." + stage % "4")[1]
        assert check_changes(saved, same) == []
        with pytest.raises(UserError, match=r"warmup\.0\.until: 4 -> 8.*--fresh"):
            check_changes(saved, pair(tiny, "train." + stage % "0.4", "train.steps=20")[1])


def test_all_that_changes_is_said(tiny: Path) -> None:
    overrides = [
        "optim.lr=0.02",
        "trackers.tensorboard=true",
        "train.micro_batch_size=2",
        "data.prepared_dir=elsewhere",
    ]
    changed = check_changes(*pair(tiny, *overrides))
    assert {line.partition(":")[0] for line in changed} == {override.partition("=")[0] for override in overrides}


@pytest.mark.campaign(17)
@pytest.mark.parametrize(
    "override",
    [
        "seed=4",
        "data.seq_len=20",
        "data.train=[elsewhere]",
        "data.within_document=false",
        "tokenizer={type: bpe, vocab_size: 300}",
        "model.n_layers=3",
        "model.mixer.window=4",
        "model.vocab_size=300",
        "init.type=lingua_before",
        "train.batch_size=8",
    ],
)
def test_what_makes_another_run_is_refused(tiny: Path, override: str) -> None:
    key = override.partition("=")[0]
    with pytest.raises(UserError, match=rf"{key}.* -> .*--fresh") as caught:
        check_changes(*pair(tiny, override, "optim.lr=0.5"))
    assert "optim.lr" not in str(caught.value), "only what stands in the way is named"


def test_all_that_stands_in_the_way_is_named(tiny: Path) -> None:
    with pytest.raises(UserError, match=r"seed: 3 -> 4.*model\.n_layers: 2 -> 3"):
        check_changes(*pair(tiny, "model.n_layers=3", "seed=4"))


@pytest.mark.parametrize("prefix", CHANGEABLE)
def test_what_may_change_is_a_setting(prefix: str) -> None:
    paths = [re.sub(r"\[\w+\]", "", path) for path in leaf_paths(Recipe)]
    assert any(path == prefix or path.startswith(prefix.rstrip(".") + ".") for path in paths)


@pytest.fixture
def holder(tmp_path: Path) -> Iterator[tuple[RunFolder, int]]:
    """A folder that another process holds, and that process."""
    folder = RunFolder(tmp_path / "runs/a")
    reader, writer = os.pipe()
    if (pid := os.fork()) == 0:
        try:
            with folder.locked():
                os.write(writer, b".")
                time.sleep(60)
        finally:
            os._exit(0)
    os.close(writer)
    assert os.read(reader, 1) == b"."
    yield folder, pid
    with suppress(ProcessLookupError, ChildProcessError):
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


@pytest.mark.parametrize("clock", [0.0, 4e9])
def test_a_folder_is_held_by_whom_it_names_and_by_nobody_once_that_is_dead(holder, monkeypatch, clock: float) -> None:
    """Whatever the clock and the files' times say."""
    folder, pid = holder
    monkeypatch.setattr(time, "time", lambda: clock)
    for path in folder.path.iterdir():
        os.utime(path, (1e9, 1e9))
    with pytest.raises(UserError, match=f"in use by process {pid} on {socket.gethostname()};"), folder.locked():
        pass
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    assert (folder.path / "holder.json").exists(), "stale, and not asked"
    with folder.locked():
        assert json.loads((folder.path / "holder.json").read_text())["pid"] == os.getpid()
    assert not (folder.path / "holder.json").exists()


def test_a_folder_on_a_full_disk_is_held_by_nobody_known(tmp_path: Path, monkeypatch) -> None:
    def full(path: Path, data: bytes) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(module, "write_whole", full)
    with RunFolder(tmp_path).locked(), pytest.raises(UserError, match="in use by another process"):
        RunFolder(tmp_path).locked().__enter__()


def test_control_without_the_lock_a_folder_is_held_twice(holder, monkeypatch) -> None:
    folder, _ = holder
    monkeypatch.setattr(module.FileLock, "acquire", lambda self, timeout: None)
    with folder.locked():
        pass


@pytest.mark.parametrize("text", ["", "[]", '{"pid": 3}'])
def test_a_holder_that_says_nothing_is_another_process(holder, text: str) -> None:
    folder, _ = holder
    (folder.path / "holder.json").write_text(text)
    with pytest.raises(UserError, match="in use by another process;"), folder.locked():
        pass


def test_a_former_run_is_set_aside_whole(tmp_path: Path, tiny: Path) -> None:
    folder, said = RunFolder(tmp_path / "runs/a"), []
    folder.set_aside(said.append)
    assert said == []
    for number in (1, 2):
        folder.path.mkdir(parents=True)
        folder.save_recipe(load_recipe(str(tiny), [f"seed={number}"]))
        folder.set_aside(said.append)
        assert not folder.path.exists()
        kept = RunFolder(tmp_path / f"runs/a.{number}").saved_recipe()
        assert kept is not None
        assert kept.seed == number
    assert len(said) == 2


@pytest.mark.parametrize("text", ["", "{", "[1]", '{"device": "cpu"}'])
def test_a_damaged_machine_is_none(tmp_path: Path, text: str) -> None:
    (tmp_path / "machine.json").write_text(text)
    assert RunFolder(tmp_path).saved_machine() is None


def test_a_size_that_was_derived_may_be_written_out(tiny: Path) -> None:
    plain = ["model={type: decoder, d_model: 64, n_layers: 1}"]
    spelled = [*plain, "model.mixer={type: attention, n_heads: 1}", "model.ffn={type: swiglu, d_ff: 192}"]
    assert check_changes(load_recipe(str(tiny), plain), load_recipe(str(tiny), spelled)) == []
