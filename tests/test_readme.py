"""What the README names exists, and the examples run; its commands, and those of all pages, in test_pages."""

import re
import runpy
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import isogloss.recipe
from isogloss import cli

ROOT = Path(__file__).parent.parent
README, GUIDE = ROOT / "README.md", ROOT / "docs/guide.md"


def commands(path: Path, first: str) -> list[str]:
    """The lines of a page's shell blocks that begin with a word, without comments."""
    blocks = re.findall(r"```sh\n(.*?)```", path.read_text(), re.DOTALL)
    lines = [re.sub(r"\s+#.*", "", line) for block in blocks for line in block.splitlines()]
    return [line for line in lines if line.split()[:1] == [first]]


def test_make_targets_exist() -> None:
    for line in [*commands(README, "make"), *commands(ROOT / "CONTRIBUTING.md", "make")]:
        done = subprocess.run([*shlex.split(line), "--dry-run"], cwd=ROOT, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
    listed = subprocess.run(["make", "help"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert all(target in listed for target in ("train", "test", "check"))


def test_what_the_makefile_names_exists() -> None:
    """A dry run starts nothing: the scripts, recipes, verbs and extras of its lines are looked up here."""
    text = (ROOT / "Makefile").read_text()
    scripts = re.findall(r"\$\(BIN\)/python (?!-)(\S+)", text)
    assert scripts
    assert [script for script in scripts if not (ROOT / script).is_file()] == []
    runs = [line.split()[1:] for line in text.splitlines() if line.startswith("\t$(BIN)/isogloss ")]
    assert runs
    verbs = [command.name or getattr(command.callback, "__name__", "") for command in cli.app.registered_commands]
    assert {words[0] for words in runs} <= set(verbs)
    recipes = {word for words in runs if words[0] == "train" for word in words[1:] if "=" not in word}
    assert recipes
    assert recipes <= set(isogloss.recipe.shipped_recipes())
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert set(re.findall(r"'\.\[(\w+)\]'", text)) <= set(extras)
    phony = re.search(r"^\.PHONY: (.*)$", text, re.MULTILINE)
    assert phony is not None
    assert set(phony[1].split()) == set(re.findall(r"^([a-z-]+):", text, re.MULTILINE))


def test_ci_runs_the_readmes_test_command() -> None:
    assert "make test" in commands(README, "make")
    assert "make test\n" in (ROOT / ".ci/run").read_text()


def test_pictures_and_links_exist() -> None:
    for page in (README, ROOT / "CONTRIBUTING.md", *(ROOT / "docs").rglob("*.md")):
        for target in re.findall(r"\]\(([^)#:]+?)(?:#[^)]*)?\)", page.read_text()):
            assert (page.parent / target).exists(), f"{page.name} points to {target}"


@pytest.mark.parametrize("path", sorted((ROOT / "examples").glob("*.py")), ids=lambda path: path.stem)
def test_examples_run(path: Path, tmp_path: Path, monkeypatch, capsys) -> None:
    assert len(path.read_text().splitlines()) <= 60
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", [str(path), str(README), str(GUIDE)])
    runpy.run_path(str(path), run_name="__main__")
    assert capsys.readouterr().out
