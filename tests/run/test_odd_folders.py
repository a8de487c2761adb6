"""Run folders that were meddled with: noticed, mended, or refused in words."""

from pathlib import Path

import pytest
from rich.console import Console

from isogloss.config.base import UserError
from isogloss.data.tokenizers.loading import load_tokenizer
from isogloss.recipe import load_recipe
from isogloss.run.train import train
from isogloss.train.display import Display


def run(recipe: Path, *overrides: str, fresh: bool = False) -> dict:
    return train(load_recipe(str(recipe), overrides), Display(Console(quiet=True)), fresh=fresh)


def test_checkpoints_without_a_recipe_are_refused_and_set_aside_by_fresh(tiny: Path) -> None:
    run(tiny, "train.steps=3")
    folder = tiny.parent / "runs/tiny"
    (folder / "recipe.yaml").unlink()
    with pytest.raises(UserError, match=r"no recipe\.yaml"):
        run(tiny, "train.steps=3")
    run(tiny, "train.steps=3", fresh=True)
    assert (tiny.parent / "runs/tiny.1/checkpoints").is_dir()


@pytest.mark.parametrize(
    "damage",
    ["[]", "{}", '{"steps": "x"}', '{"steps": 3}', '{"steps": 3, "validation": null}', "\ud800", "[" * 100_000],
    ids=lambda text: text[:40].encode("unicode_escape").decode(),
)
def test_a_damaged_summary_is_written_anew(tiny: Path, damage: str) -> None:
    first = run(tiny, "train.steps=3")
    path = tiny.parent / "runs/tiny/summary.json"
    path.write_bytes(damage.encode("utf-8", "surrogatepass"))
    for name in ("machine.json", "init.json"):
        path.with_name(name).write_text("[" * 100_000)
    again = run(tiny, "train.steps=3")
    assert again["validation"] == first["validation"]


def test_damaged_metrics_do_not_stop_a_run(tiny: Path) -> None:
    run(tiny, "train.steps=3")
    (tiny.parent / "runs/tiny/metrics.jsonl").write_bytes(b"\xff\xfe\n\x00\n")
    assert run(tiny, "train.steps=4")["steps"] == 4


@pytest.mark.campaign(17)
def test_a_damaged_tokenizer_is_written_anew(tiny: Path) -> None:
    run(tiny, "train.steps=3")
    folder = tiny.parent / "runs/tiny/tokenizer"
    for file in folder.iterdir():
        file.unlink()
    run(tiny, "train.steps=4")
    assert load_tokenizer(folder).n_tokens == 257


@pytest.mark.campaign(15)
def test_prepared_text_that_was_changed_is_prepared_again(tiny: Path) -> None:
    whole = run(tiny, "name=whole")
    run(tiny, "train.steps=6")
    shard = next((tiny.parent / "prepared").glob("*/train-00000.bin"))
    shard.write_bytes(bytes(shard.stat().st_size))
    assert run(tiny, "train.steps=10")["validation"]["bytes"] == whole["validation"]["bytes"]
    assert any(shard.read_bytes())


@pytest.mark.parametrize("name", [".", "..", "-x", "a/b", "x" * 101])
def test_names_that_are_no_folder_of_their_own_are_refused(tiny: Path, name: str) -> None:
    with pytest.raises(UserError, match="name"):
        load_recipe(str(tiny), [f"name={name}"])


def test_a_file_in_the_place_of_the_checkpoints_is_refused_before_the_first_step(tiny: Path) -> None:
    place = tiny.parent / "runs/tiny/checkpoints"
    place.parent.mkdir(parents=True)
    place.write_text("mine")
    with pytest.raises(UserError, match="checkpoints is not a folder"):
        run(tiny)
    assert place.read_text() == "mine"


def test_a_link_to_nowhere_in_the_place_of_the_checkpoints_too(tiny: Path) -> None:
    place = tiny.parent / "runs/tiny/checkpoints"
    place.parent.mkdir(parents=True)
    place.symlink_to("/nonexistent/place")
    with pytest.raises(UserError, match="checkpoints is not a folder"):
        run(tiny)


def test_fresh_ranks_that_are_started_again_keep_what_they_have_done(tiny: Path, monkeypatch) -> None:
    run(tiny, "train.steps=3", fresh=True)
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "1")
    run(tiny, "train.steps=6", fresh=True)
    assert [path.name for path in (tiny.parent / "runs").iterdir()] == ["tiny"]
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "0")
    run(tiny, "train.steps=3", fresh=True)
    assert sorted(path.name for path in (tiny.parent / "runs").iterdir()) == ["tiny", "tiny.1"]
