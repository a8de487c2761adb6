"""What a first run on one's own text is like: prompts of that text, nothing left where it failed to start."""

from pathlib import Path

import pytest

from isogloss.config.base import UserError
from isogloss.data.opening import open_corpus
from isogloss.recipe import PYTHON_PROMPTS, load_recipe
from isogloss.run.estimate import estimate_recipe, estimate_rows
from isogloss.run.estimate.gpus import find_gpu
from isogloss.run.finish import last_loss
from isogloss.run.folder import RunFolder, check_changes
from isogloss.run.watch import find_prompts


def test_prompts_are_beginnings_of_ones_own_text(tiny: Path) -> None:
    recipe = load_recipe(tiny)
    corpus = open_corpus(recipe.data, recipe.tokenizer, lambda _: None)
    texts = [path.read_text() for path in (tiny.parent / "corpus").iterdir()]
    prompts = find_prompts(recipe, corpus)
    assert prompts
    assert all(prompt and any(prompt in text for text in texts) for prompt in prompts)
    assert find_prompts(recipe, corpus) == prompts
    assert find_prompts(load_recipe(tiny, ["watch.prompts=[mine]"]), corpus) == ("mine",)


def test_pythons_library_keeps_its_prompts_and_older_runs_are_not_changed_by_it() -> None:
    recipe = load_recipe("stdlib-small")
    assert recipe.with_prompts().watch.prompts == PYTHON_PROMPTS
    older = load_recipe("stdlib-small", ['watch.prompts=["def ", "class "]', "optim.schedule.warmup=60"])
    assert check_changes(older, recipe) == []


def test_a_run_that_fails_to_start_leaves_nothing(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "runs/a")
    with pytest.raises(UserError, match="no"), folder.locked():
        raise UserError("no")
    assert not folder.path.exists()
    with folder.locked():
        folder.recipe_file.touch()
    assert folder.recipe_file.exists()


def test_this_machine_can_be_estimated_for(tiny: Path) -> None:
    cpu = find_gpu("cpu")
    rows = dict(estimate_rows(estimate_recipe(load_recipe(tiny), 1), cpu, 0.4, 1e9))
    assert "CUDA" not in " ".join(rows)
    assert "0.0" not in rows["memory of a rank"]
    with pytest.raises(UserError, match="cpu for this machine"):
        find_gpu("abacus")


def test_a_tracker_switched_on_without_a_project_is_told_to_name_one(tiny: Path) -> None:
    for value in ("true", "false", ""):
        with pytest.raises(
            UserError, match=r"must be the name of a Weights & Biases project, such as trackers\.wandb=my-"
        ):
            load_recipe(tiny, [f"trackers.wandb={value}"])


def test_the_training_loss_is_that_of_the_last_line() -> None:
    lines = [{"kind": "train", "step": step, "loss": 1.0 / step, "bits_per_byte": 0.5} for step in (1, 20, 40)]
    assert last_loss(lines) == {"loss": 1 / 40, "bits_per_byte": 0.5, "steps": [21, 40]}
    assert last_loss([{"kind": "sample", "step": 3}]) is None
