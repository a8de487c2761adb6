"""The commands of the README and the guide run as they are written, and the examples too."""

import re
import runpy
import shlex
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import isogloss.recipe
from isogloss import cli

ROOT = Path(__file__).parent.parent
README, GUIDE = ROOT / "README.md", ROOT / "docs/guide.md"
# Every training command is run as written, on a model that trains in a second.
SMALL = (
    "model.d_model=32 model.n_layers=1 model.mixer.n_heads=2 model.ffn.d_ff=64 tokenizer={type:\\ bytes} "
    "data.seq_len=64 "
    "train.steps=2 optim.schedule.warmup=1 train.batch_size=2 train.device=cpu train.precision=fp32 train.compile=off "
    "watch.sample_tokens=4"
)


def commands(path: Path, first: str) -> list[str]:
    """The lines of a page's shell blocks that begin with a word, without comments."""
    blocks = re.findall(r"```sh\n(.*?)```", path.read_text(), re.DOTALL)
    lines = [re.sub(r"\s+#.*", "", line) for block in blocks for line in block.splitlines()]
    return [line for line in lines if line.split()[:1] == [first]]


@pytest.fixture
def shell(tmp_path: Path, monkeypatch, capfd):
    """Run an ``isogloss`` line in an empty folder that has texts/ and the README."""
    monkeypatch.chdir(tmp_path)
    shutil.copy(README, tmp_path)
    (tmp_path / "texts").mkdir()
    for number in range(20):
        (tmp_path / f"texts/{number}.txt").write_text(f"# text {number}\n" + "def f(x):\n    return x\n" * 20)
    folder = tmp_path / "recipes"
    folder.mkdir()
    for name, path in isogloss.recipe.shipped_recipes().items():  # the same recipes, on a corpus of a few kilobytes
        text = re.sub(r"type: python_stdlib", "type: files\n  train: [texts]", path.read_text())
        (folder / f"{name}.yaml").write_text(text)
    monkeypatch.setattr(
        isogloss.recipe, "shipped_recipes", lambda: {path.stem: path for path in sorted(folder.glob("*.yaml"))}
    )

    def run(line: str) -> None:
        words = shlex.split(line)
        target = None
        if ">" in words:
            target = tmp_path / words[words.index(">") + 1]
            words = words[: words.index(">")]
        if words[1] == "train":
            words += shlex.split(SMALL)
        if words[1:3] in (["init", "coordinate"], ["init", "lr-sweep"]):
            words += [*shlex.split(SMALL), "--sizes=16,32", "--seeds=1", "--jobs=1"]
        if words[1:3] == ["init", "lr-sweep"]:
            words += ["--rates=1e-3,2e-3,4e-3"]
        if words[1:3] == ["init", "compare"]:
            words += [*(f"--set={change}" for change in shlex.split(SMALL)), "--rates=1e-3", "--seeds=2", "--jobs=1"]
        monkeypatch.setattr(sys, "argv", words)
        capfd.readouterr()
        code = None
        try:
            cli.main()
        except SystemExit as exit_:
            code = exit_.code
        output = capfd.readouterr()
        # At these sizes a coordinate check may well find a promise broken, and say so by its code.
        assert not code or (code == 1 and words[2] == "coordinate"), f"{line}: {output.err}"
        if target is not None:
            target.write_text(output.out)

    return run


@pytest.mark.parametrize("page", [README, GUIDE], ids=lambda path: path.name)
def test_commands_run(page: Path, shell, tmp_path: Path) -> None:
    lines = commands(page, "isogloss")
    assert len(lines) >= 6
    if page == GUIDE:
        shell("isogloss train")
        shell("isogloss config show stdlib-small > my.yaml")
    for line in lines:
        shell(line)


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
