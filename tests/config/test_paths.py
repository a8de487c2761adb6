"""One rule for paths: in every setting, in every argument of every verb, and in lists of inputs."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import pytest
import typer

from isogloss.cli import app
from isogloss.cli.shared import expanded
from isogloss.config.base import UserError
from isogloss.config.load import dump_config
from isogloss.config.paths import UserPath, expand
from isogloss.data.sources.files import find_files
from isogloss.recipe import Recipe, load_recipe


@pytest.fixture
def home(tmp_path: Path, monkeypatch) -> Path:
    """A home folder, and an empty folder to work in."""
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    (tmp_path / "home").mkdir()
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    return tmp_path / "home"


def test_a_leading_tilde_is_a_home_and_nothing_else_is_replaced(home: Path) -> None:
    assert expand("~") == home
    assert expand("~/a/~b") == home / "a/~b"
    assert expand("~root/x") == Path("/root/x") or expand("~root/x").is_absolute()
    assert expand("./~/a") == Path("~/a").absolute()
    for kept in ("a/~", "$HOME/a", "~old*.txt", "~old*/a", "~no-such-user-here", "", "."):
        assert expand(kept) == Path(kept)
    with pytest.raises(UserError, match=r"no user no-such-user-here, .* write \./~no-such-user-here/a"):
        expand("~no-such-user-here/a")


def test_a_name_that_begins_with_a_tilde_is_that_file_where_there_is_one(home: Path) -> None:
    Path("~root").mkdir()
    Path("~old.txt").write_text("some text")
    assert expand("~root/x") == Path("~root/x")
    assert expand("~old.txt") == Path("~old.txt")
    assert [file.path for file in find_files(["~old.txt"])] == [Path("~old.txt")]
    assert [file.path for file in find_files(["~o*.txt"])] == [Path("~old.txt")]


def test_without_a_home_it_is_said(monkeypatch) -> None:
    def unknown(path: Path) -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "expanduser", unknown)
    with pytest.raises(UserError, match="no home folder is known"):
        expand("~/runs")


def test_settings_are_expanded_once_and_kept_so(home: Path, tiny: Path) -> None:
    overrides = ["runs_dir=~/runs", "data.prepared_dir=~/p", "tokenizer={type: file, path: ~/t.json}"]
    recipe = load_recipe(str(tiny), overrides)
    data: Any = recipe.data
    tokenizer: Any = recipe.tokenizer
    assert (recipe.runs_dir, data.prepared_dir, tokenizer.path) == (home / "runs", home / "p", home / "t.json")
    here = load_recipe(str(tiny), ["runs_dir=./~/runs"])
    assert here.runs_dir == Path.cwd() / "~/runs"
    Path("kept.yaml").write_text(dump_config(here))
    assert load_recipe("kept.yaml").runs_dir == here.runs_dir, "read again"
    (home / "mine.yaml").write_text(tiny.read_text())
    assert load_recipe("~/mine.yaml").name == "tiny"


def test_no_setting_is_a_path_without_the_rule() -> None:
    def fields(model: type, seen: set[type]) -> Iterator[tuple[str, Any, list[Any]]]:
        seen.add(model)
        for name, field in getattr(model, "model_fields", {}).items():
            yield f"{model.__name__}.{name}", field.annotation, field.metadata
            for part in _parts(field.annotation):
                if hasattr(part, "model_fields") and part not in seen:
                    yield from fields(part, seen)

    def _parts(annotation: Any) -> Iterator[Any]:
        yield annotation
        for inner in (*getattr(annotation, "__args__", ()), *getattr(annotation, "__metadata__", ())):
            yield from _parts(inner)
        if origin := getattr(annotation, "__origin__", None):
            yield from _parts(origin)

    rule = get_args(UserPath)[1]
    paths = [(name, metadata) for name, annotation, metadata in fields(Recipe, set()) if annotation is Path]
    assert len(paths) >= 3
    assert [name for name, metadata in paths if rule not in metadata] == []


def test_no_argument_is_a_path_without_the_rule() -> None:
    def commands(group: typer.Typer) -> Iterator[Any]:
        yield from (command.callback for command in group.registered_commands)
        for below in group.registered_groups:
            if below.typer_instance is not None:
                yield from commands(below.typer_instance)

    found = []
    for command in commands(app):
        for name, annotation in command.__annotations__.items():
            if re.search(r"\bPath\b", str(getattr(annotation, "__origin__", ""))):
                found.append(f"{command.__name__} {name}")
                assert annotation.__metadata__[0].parser is expanded, found[-1]
    assert len(found) >= 15


def test_arguments_and_inputs_of_verbs(home: Path, call) -> None:
    (home / "texts").mkdir()
    for number in range(30):
        (home / f"texts/{number}.txt").write_text(f"{number} words and more of them\n" * 3)
    Path("~old.txt").write_text("an old one\n" * 30)
    words = ("--tokenizer", "bytes", "validation_bytes=80")
    code, output, errors = call("data", "prepare", "~/texts", "~old.txt", "--prepared-dir=~/p", *words)
    assert code == 0, errors
    assert str(home / "p") in output
    code, output, _ = call("data", "inspect", "~/p", "--json")
    assert len(json.loads(output)["inputs"]) == 31
    assert call("data", "prepare", "~/texts/1*.txt", "prepared_dir=~/q", "--validation=~/texts/2.txt", *words)[0] == 0
    assert call("tokenizer", "train", "~/bpe", "~/texts", "--vocab-size=260")[0] == 0
    assert call("tokenizer", "show", "~/bpe", "words")[0] == 0
    assert call("data", "prepare", "~/texts", "--tokenizer=~/bpe", "--prepared-dir=~/p", words[2])[0] == 0
    assert sorted(path.name for path in Path().iterdir()) == ["~old.txt"], "no folder called ~"


def test_a_format_without_standard_input_is_refused(home: Path, call) -> None:
    Path("a.txt").write_text("text\n" * 99)
    code, _, errors = call("data", "prepare", "a.txt", "--format", "jsonl")
    assert code == 2
    assert "--format is of standard input" in errors
