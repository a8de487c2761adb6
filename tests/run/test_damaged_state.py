"""A state that is not what a run saves makes its checkpoint a damaged one: the run goes on from the one before."""

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from isogloss.checkpoint.layout import CorruptCheckpointError
from isogloss.config.base import UserError
from isogloss.recipe import load_recipe
from isogloss.run.load import load_run, open_checkpoint
from isogloss.run.train import train
from isogloss.train.display import Display

NEWEST = "checkpoints/step-0000000006"


@pytest.fixture(scope="module")
def trained(tmp_path_factory, tiny_factory: Callable[[Path], Path]) -> Path:
    root = tmp_path_factory.mktemp("trained")
    recipe = tiny_factory(root)
    train(load_recipe(str(recipe), ("train.steps=6",)), Display(Console(quiet=True)))
    return root


def write_state(run: Path, text: str) -> Path:
    """Put a state in the newest checkpoint's place, and vouch for it in the manifest, as whoever meddles would."""
    folder = run / NEWEST
    (folder / "state.json").write_text(text)
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["files"]["state.json"] = {"size": len(text), "sha256": hashlib.sha256(text.encode()).hexdigest()}
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return folder / "state.json"


def changed(run: Path, *keys: str | int, value: Any = ...) -> str:
    state = json.loads((run / NEWEST / "state.json").read_text())
    node = state
    for key in keys[:-1]:
        node = node[key]
    if value is ...:
        del node[keys[-1]]
    else:
        node[keys[-1]] = value
    return json.dumps(state)


@pytest.mark.parametrize(
    ("keys", "value", "says"),
    [
        (("progress", "step"), -7, "progress.step"),
        (("progress", "step"), 5, "of step 5, its checkpoint of step 6"),
        (("progress", "step"), True, "progress.step"),
        (("progress", "tokens"), 10**30, "progress.tokens"),
        (("progress", "seconds"), float("nan"), "progress.seconds"),
        (("progress", "skipped"), ..., "progress.skipped"),
        (("progress", "other"), 1, "progress.other"),
        (("progress",), [], "progress"),
        (("window",), ..., "window"),
        (("window",), [{"step": 1}], "window.0.loss"),
        (("guard",), ["x"], "guard.0"),
        (("loader", "seed"), "0", "loader.seed"),
        (("loader", "mixture"), {"sources": {}, "segments": []}, "loader.mixture.segments"),
        (("initial_weights",), {"a": 1}, "initial_weights.a"),
    ],
    ids=str,
)
def test_a_state_that_no_run_saves_is_a_damaged_checkpoint(
    trained: Path, tmp_path: Path, keys: tuple[str, ...], value: Any, says: str
) -> None:
    run = tmp_path / "tiny"
    shutil.copytree(trained / "runs/tiny", run)
    path = write_state(run, changed(run, *keys, value=value))
    warnings: list[str] = []
    found = open_checkpoint(run, warnings.append)
    assert found is not None
    assert found.step == 3
    assert warnings[0].startswith(f"{path} is damaged: ")
    assert says in warnings[0]
    with pytest.raises(CorruptCheckpointError, match="is damaged"):
        load_run(path.parent)


def test_a_run_goes_on_from_the_one_before_and_writes_the_damaged_one_anew(tiny: Path) -> None:
    def run(*overrides: str) -> str:
        console = Console(record=True, width=1000, file=(tiny.parent / "log").open("w"))
        train(load_recipe(str(tiny), overrides), Display(console))
        return console.export_text()

    run("train.steps=6")
    folder = tiny.parent / "runs/tiny"
    whole = (folder / NEWEST / "model.safetensors").read_bytes()
    write_state(folder, changed(folder, "progress", "step", value=-7))
    (folder / "summary.json").unlink()
    said = run("train.steps=6")
    assert "progress.step" in said
    assert "resuming after step 3" in said
    assert (folder / NEWEST / "model.safetensors").read_bytes() == whole
    assert json.loads((folder / NEWEST / "state.json").read_text())["progress"]["step"] == 6


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("machine.json", {"threads": True}),
        ("machine.json", {"device": "toaster"}),
        ("machine.json", {"compiled": "yes"}),
        ("summary.json", {"steps": True}),
        ("summary.json", {"seconds": "1"}),
        ("summary.json", {"validation": {"loss": "low"}}),
        ("summary.json", {"tokens": -1}),
        ("summary.json", {"training": {"loss": 1.0, "bits_per_byte": None, "steps": 5}}),
    ],
    ids=str,
)
def test_other_files_of_a_run_are_taken_whole_or_not_at_all(
    trained: Path, tmp_path: Path, name: str, change: dict[str, Any]
) -> None:
    from isogloss.run.folder import RunFolder

    path = tmp_path / name
    shutil.copy(trained / "runs/tiny" / name, path)
    folder = RunFolder(tmp_path)
    read = folder.summary if name == "summary.json" else folder.saved_machine
    assert read() is not None
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    assert read() is None


def test_weights_that_are_not_finite_are_named(trained: Path, tmp_path: Path, call) -> None:
    import torch
    from safetensors.torch import load_file, save_file

    run = tmp_path / "tiny"
    shutil.copytree(trained / "runs/tiny", run)
    path = run / NEWEST / "model.safetensors"
    tensors = load_file(path)
    tensors["head.weight"][0, :2] = torch.tensor([float("nan"), float("inf")])
    save_file(tensors, path, metadata={"format": "pt", "step": "6"})
    manifest = json.loads((run / NEWEST / "manifest.json").read_text())
    facts = {"size": path.stat().st_size, "sha256": hashlib.sha256(path.read_bytes()).hexdigest()}
    manifest["files"]["model.safetensors"] = facts
    (run / NEWEST / "manifest.json").write_text(json.dumps(manifest))

    code, out, _ = call("checkpoint", "verify", run)
    assert code == 1
    assert f"NOT FINITE {run / NEWEST}: numbers that are not finite in model: head.weight (2)" in out
    text = next((trained / "corpus").iterdir())
    for words in (("eval", run, text), ("export", run, tmp_path / "new")):
        code, _, errors = call(*words)
        assert code == 2
        assert "head.weight (2)" in errors
    assert not (tmp_path / "new").exists()
    assert call("checkpoint", "verify", run / "checkpoints/step-0000000003")[0] == 0
    code, _, errors = call("train", run, "train.steps=8")
    assert code == 2
    assert f"{NEWEST} holds numbers that are not finite in head.weight (2)" in errors
    assert "move that folder away" in errors


def test_a_corpus_cannot_name_files_outside_it(trained: Path, tmp_path: Path) -> None:
    from isogloss.data.prepared import open_prepared

    (original,) = (path.parent for path in (trained / "prepared").glob("*/manifest.json"))
    folder = tmp_path / "corpus"
    shutil.copytree(original, folder)
    whole = json.loads((folder / "manifest.json").read_text())
    open_prepared(folder)
    outside = tmp_path / "secret.bin"
    outside.write_bytes((folder / "train-00000.bin").read_bytes())
    for name in ("../secret.bin", str(outside), "tokenizer/../../secret.bin", "link.bin"):
        manifest = json.loads(json.dumps(whole))
        manifest["files"][name] = manifest["files"].pop("train-00000.bin")
        manifest["train"]["shards"] = [name]
        (folder / "manifest.json").write_text(json.dumps(manifest))
        (folder / "link.bin").unlink(missing_ok=True)
        (folder / "link.bin").symlink_to(outside)
        with pytest.raises(UserError, match=r"outside its folder|is a link"):
            open_prepared(folder)
    for change in (
        {"train": whole["train"] | {"shards": ["absent.bin"]}},
        {"train": whole["train"] | {"n_tokens": whole["train"]["n_tokens"] + 1}},
        {"dtype": "<u4"},
        {"n_tokens": True},
        {"n_bad": -1},
    ):
        (folder / "manifest.json").write_text(json.dumps(whole | change))
        with pytest.raises(UserError, match=r"manifest\.json: damaged"):
            open_prepared(folder)
