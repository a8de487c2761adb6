"""``isogloss checkpoint``: what is in one, whether it is whole, its weights as plain files."""

import functools
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from isogloss.checkpoint.config import CheckpointConfig
from isogloss.checkpoint.save import save_checkpoint


@pytest.fixture
def command(call):
    """Run ``isogloss checkpoint``; gives exit code, output and errors."""

    return functools.partial(call, "checkpoint")


@pytest.fixture
def run_folder(tmp_path: Path) -> Path:
    weights = {"a": torch.arange(6.0).reshape(2, 3), "b": torch.ones(50)}
    for step in (1, 2):
        parts = {"model": weights, "optimizer": {"a/step": torch.tensor(float(step))}}
        save_checkpoint(tmp_path / "run/checkpoints", step, parts, {"progress": {"step": step}}, CheckpointConfig())
    return tmp_path / "run"


def test_inspect(command, run_folder: Path) -> None:
    for path in (run_folder, run_folder / "checkpoints", run_folder / "checkpoints/step-0000000002"):
        code, out, _ = command("inspect", path)
        assert code == 0
        assert "step 2" in out
        assert "56" in out
        assert "progress: {'step': 2}" in out
    assert "step 1" in command("inspect", run_folder / "checkpoints/step-0000000001")[1]


@pytest.mark.campaign(9)
def test_verify_names_what_is_damaged(command, run_folder: Path) -> None:
    code, out, _ = command("verify", run_folder)
    assert code == 0
    assert out.count("whole") == 2
    path = run_folder / "checkpoints/step-0000000002/model.safetensors"
    path.write_bytes(path.read_bytes()[:-1])
    code, out, _ = command("verify", run_folder)
    assert code == 1
    assert out.count("whole") == 1
    assert f"DAMAGED {path}" in out
    assert command("verify", path.parent)[0] == 1
    code, out, errors = command("inspect", run_folder)
    assert (code, "step 1" in out, str(path) in errors) == (0, True, True)


def test_consolidate(command, run_folder: Path, tmp_path: Path) -> None:
    assert command("consolidate", run_folder, tmp_path / "one")[0] == 0
    assert [path.name for path in (tmp_path / "one").iterdir()] == ["model.safetensors"]
    found = load_file(tmp_path / "one/model.safetensors")
    assert torch.equal(found["a"], torch.arange(6.0).reshape(2, 3))
    assert command("consolidate", run_folder, tmp_path / "two", "--max-shard-size", "0.1kB")[0] == 0
    names = sorted(path.name for path in (tmp_path / "two").iterdir())
    assert names == [
        "model-00001-of-00002.safetensors",
        "model-00002-of-00002.safetensors",
        "model.safetensors.index.json",
    ]


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["inspect", "nowhere"], "nowhere holds no checkpoint"),
        (["verify", "nowhere"], "nowhere holds no checkpoint"),
        (["consolidate", "{run}", "{run}"], "is there already"),
        (["consolidate", "{run}", "new", "--max-shard-size", "5 apples"], "give bytes, or such as 500MB"),
        (["inspect", "{run}/checkpoints/step-0000000007"], "cannot be read"),
    ],
)
def test_what_can_be_mended_is_said(command, run_folder: Path, words: list[str], says: str) -> None:
    code, _, errors = command(*[word.format(run=run_folder) for word in words])
    assert code == 2
    assert says in errors
    assert "Traceback" not in errors
