"""A run's folder as argument is the run in it: copied, moved, linked, named from elsewhere, finished and changed."""

import json
import os
import shutil
from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console

from isogloss.config.base import UserError
from isogloss.recipe import load_recipe
from isogloss.run.folder import RunFolder
from isogloss.run.place import PLACE, settle_place
from isogloss.run.train import train
from isogloss.train.display import Display
from isogloss.train.trackers import WANDB_ID

QUICK = ("train.steps=3", "checkpoint.every=1", "watch.sample_tokens=0", "watch.validation_rows=2")


def run(recipe: Path | str, *overrides: str, fresh: bool = False) -> tuple[dict, str]:
    console = Console(record=True, width=400, file=StringIO())
    return train(load_recipe(str(recipe), overrides), Display(console), fresh=fresh), console.export_text()


def steps(folder: Path) -> list[str]:
    return sorted(path.name for path in (folder / "checkpoints").iterdir() if path.is_dir())


@pytest.fixture
def finished(tiny: Path) -> Path:
    """The folder of a run of three steps, reported to Weights & Biases as ``abc``."""
    run(tiny, *QUICK)
    (tiny.parent / "runs/tiny" / WANDB_ID).write_text("abc")
    return tiny.parent / "runs/tiny"


def test_a_copied_run_trains_in_its_own_folder_and_is_another_run_of_the_tracker(finished: Path) -> None:
    copy, before = finished.parent / "copy", {}
    shutil.copytree(finished, copy)
    before = {path: path.read_bytes() for path in finished.rglob("*") if path.is_file()}
    summary, said = run(f"{copy}/", "train.steps=5")
    assert (summary["steps"], summary["name"]) == (5, "copy")
    assert f"is a copy of the run in {finished}" in said
    assert not (copy / WANDB_ID).exists(), "a new id"
    assert {path: path.read_bytes() for path in finished.rglob("*") if path.is_file()} == before
    assert json.loads((copy / PLACE).read_text())["id"] != json.loads((finished / PLACE).read_text())["id"]
    _, said = run(copy, "train.steps=6")
    assert "copy of" not in said, "said once"


def test_a_renamed_run_goes_on_in_its_folder_as_the_same_run_of_the_tracker(finished: Path) -> None:
    renamed = finished.rename(finished.with_name("renamed"))
    identity = json.loads((renamed / PLACE).read_text())["id"]
    summary, said = run(renamed, "train.steps=5")
    assert (summary["steps"], summary["name"]) == (5, "renamed")
    assert f"the run was moved from {finished} to {renamed}" in said
    assert (renamed / WANDB_ID).read_text() == "abc"
    assert json.loads((renamed / PLACE).read_text()) == {"id": identity, "folder": str(renamed)}
    assert not finished.exists()


def test_a_run_moved_while_another_took_its_place_keeps_its_id(finished: Path, tiny: Path) -> None:
    moved = finished.rename(finished.with_name("moved"))
    run(tiny, *QUICK, "seed=9")
    _, said = run(moved, "train.steps=4")
    assert "was moved" in said
    assert (moved / WANDB_ID).read_text() == "abc"


@pytest.mark.parametrize("copied", [True, False])
def test_a_run_of_a_version_that_kept_no_place_is_told_by_its_recipe_and_its_first_weights(
    finished: Path, copied: bool
) -> None:
    (finished / PLACE).unlink()
    other = finished.with_name("other")
    shutil.copytree(finished, other)
    if not copied:
        shutil.rmtree(finished)
    settle_place(RunFolder(other), lambda text: None)
    assert (other / WANDB_ID).exists() == (not copied)


def test_the_folder_may_be_named_in_any_way(finished: Path, monkeypatch) -> None:
    moved = finished.parent.parent / "elsewhere/here"
    moved.parent.mkdir()
    finished.rename(moved)
    monkeypatch.chdir(moved)
    (moved.parent / "link").symlink_to(moved)
    for given in (".", "../here", "../here/", "checkpoints/..", moved.parent / "link", "recipe.yaml", "../link"):
        recipe = load_recipe(str(given))
        assert recipe.name == "here"
        assert recipe.folder.resolve() == moved.resolve()
    assert run(".", "train.steps=4")[0]["steps"] == 4
    assert steps(moved)[-1].endswith("4")
    assert sorted(path.name for path in moved.parent.iterdir()) == ["here", "link"]


def test_a_name_given_beside_the_folder_begins_another_run_beside_it(finished: Path) -> None:
    renamed = finished.rename(finished.with_name("renamed"))
    summary, _ = run(renamed, "name=next", "seed=4")
    assert summary["name"] == "next"
    assert (finished.parent / "next/summary.json").exists()
    assert not (finished.parent / "next" / WANDB_ID).exists()


def test_a_copy_begun_anew_leaves_the_original(finished: Path) -> None:
    copy = finished.with_name("copy")
    shutil.copytree(finished, copy)
    _, said = run(copy, fresh=True)
    assert "kept in" in said
    assert steps(finished) == steps(copy) == steps(finished.with_name("copy.1"))


def test_a_folder_with_nothing_but_a_recipe_is_no_run(tiny: Path) -> None:
    folder = tiny.parent / "plans"
    folder.mkdir()
    shutil.copy(tiny, folder / "recipe.yaml")
    assert load_recipe(str(folder)).folder == tiny.parent / "runs/tiny"


def test_a_checkpoint_as_argument_is_told_from_its_run(finished: Path) -> None:
    newest = finished / "checkpoints" / steps(finished)[-1]
    with pytest.raises(UserError, match=f"is a checkpoint of {finished}; give {finished}"):
        load_recipe(str(newest))


def test_a_run_under_a_shipped_recipes_name_is_ambiguous(finished: Path, monkeypatch) -> None:
    finished.rename(finished.with_name("stdlib-small"))
    monkeypatch.chdir(finished.parent)
    with pytest.raises(UserError, match=r"write \./stdlib-small for the run"):
        load_recipe("stdlib-small")
    assert load_recipe("./stdlib-small").name == "stdlib-small"


def test_a_folder_whose_name_no_run_may_have_is_said(finished: Path) -> None:
    odd = finished.rename(finished.with_name("two words"))
    with pytest.raises(UserError, match=r"(?s)name.*two words|two words.*name"):
        load_recipe(str(odd))


def test_a_finished_run_with_other_settings_is_refused(finished: Path, tiny: Path) -> None:
    for override, key in (
        ("optim.lr=1e-3", "optim.lr: 0.01 -> 0.001"),
        ("optim.schedule.type=linear", "optim.schedule.type: cosine -> linear"),
        ("optim.beta2=0.9", "optim.beta2: "),
        ("train.precision=bf16", "train.precision: fp32 -> bf16"),
        ("train.max_skipped=3", "train.max_skipped: 10 -> 3"),
        ("train.spike.window=3", "train.spike"),
    ):
        for given, words in ((tiny, QUICK), (finished, ())):
            with pytest.raises(UserError, match=rf"finished its 3 steps.*{key}.*name=.*--fresh.*train\.steps"):
                run(given, *words, override)
    with pytest.raises(UserError, match=r"train\.steps: 3 -> 2"):
        run(finished, "train.steps=2", "optim.schedule.warmup=1")


def test_all_settings_that_differ_are_named_and_the_exit_code_is_2(finished: Path, tiny: Path, call) -> None:
    code, _, errors = call("train", tiny, *QUICK, "optim.lr=1e-3", "optim.clip=0.5", "watch.log_every=7")
    assert code == 2
    assert "optim.lr: 0.01 -> 0.001; optim.clip" in errors
    assert "watch.log_every" not in errors


def test_settings_without_a_result_are_said_to_be_unused(finished: Path, tiny: Path) -> None:
    summary, said = run(tiny, *QUICK, "watch.log_every=7", "checkpoint.keep_last=9")
    assert summary["steps"] == 3
    assert "not used, for the run has finished: watch.log_every: 1 -> 7" in said
    assert "checkpoint.keep_last" in said


def test_a_run_that_has_only_to_be_finished_is_held_to_the_same_rule(finished: Path, tiny: Path) -> None:
    (finished / "summary.json").unlink()
    with pytest.raises(UserError, match=r"finished its 3 steps.*optim\.lr"):
        run(tiny, *QUICK, "optim.lr=1e-3")
    assert not (finished / "summary.json").exists()
    assert run(tiny, *QUICK)[0]["steps"] == 3


def test_a_relative_path_from_elsewhere_is_the_same_copy(finished: Path, tmp_path: Path, monkeypatch) -> None:
    copy = finished.with_name("copy")
    shutil.copytree(finished, copy)
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path / "empty")
    settle_place(RunFolder(Path(os.path.relpath(copy))), lambda text: None)
    assert not (copy / WANDB_ID).exists()
