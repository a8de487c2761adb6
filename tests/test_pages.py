"""Every command of every page runs as it is written; a new one that nothing here knows fails.

What is substituted, for size and time alone: models of width 32 and two steps where a command trains or measures
(`SMALL`); texts of a few kilobytes in the place of Python's library; launches and torchrun are resolved and not started
(``--dry-run``); studies are opened and their trials not carried out; audits and downloads are resolved and not carried
out (tests/audit, tests/data/named do); of ``make``, ``pip``, pytest and benchmarks what they name must exist.
"""

import gzip
import json
import re
import shlex
import shutil
import sys
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.main import get_command

import isogloss.recipe
from isogloss import cli

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
HISTORY = ROOT / "docs/log.md"  # what was done once
STEPS = "train.steps=2 train.batch_size=2 train.device=cpu train.precision=fp32 train.compile=off watch.sample_tokens=2"
MODEL = "model.d_model=32 model.n_layers=1 model.mixer.n_heads=2 model.ffn.d_ff=64"
SMALL = [*shlex.split(STEPS), *shlex.split(MODEL)]
TEXT = ["tokenizer={type: bytes}", "data.seq_len=32"]
STUDIES = {
    "coordinate": "isogloss.study.coordinates.check_coordinates",
    "lr-sweep": "isogloss.study.sweep.sweep_rates",
    "compare": "isogloss.study.compare.compare_schemes",
}
CODES = {"isogloss init plan stdlib-small model.tied_head=true init.embedding_std=1 --strict": 1}  # as its page says
PLACEHOLDER = re.compile(r"\b[A-Z]{4,}\b|\w\|\w|\.\.\.|…")


def commands(page: Path) -> list[str]:
    """The lines of a page's shell blocks, and its commands within sentences."""
    text = page.read_text()
    lines = [line for block in re.findall(r"```sh\n(.*?)```", text, re.DOTALL) for line in block.splitlines()]
    prose = re.sub(r"```.*?```", "", text, flags=re.DOTALL)
    inline = re.findall(r"`((?:isogloss|torchrun|make|pip|python|zcat|ISOGLOSS_\w+=\d+) [^`]+)`", prose)
    found = [
        re.sub(r"(^|\s+)#.*", "", line).strip() for line in [*lines, *(re.sub(r"\s+", " ", one) for one in inline)]
    ]
    return [line for line in found if line]


def quoted(page: Path) -> dict[str, str]:
    """What a page quotes of standard error in comments below a command, by command."""
    found = re.findall(r"^(isogloss .*)\n((?:# .*\n)*# isogloss: (?:.*\n)(?:# .*\n)*)", page.read_text(), re.MULTILINE)
    return {line: " ".join(text.removeprefix("# ") for text in comment.splitlines()) for line, comment in found}


ALL = {page: commands(page) for page in PAGES if page != HISTORY}
QUOTED = {line: text for page in ALL for line, text in quoted(page).items()}


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Iterator[Path]:
    """A folder with texts/, what pages name, a trained runs/stdlib-small, and shipped recipes of the same text."""
    folder = tmp_path_factory.mktemp("pages")
    shutil.copy(ROOT / "README.md", folder)
    (folder / "texts").mkdir()
    for number in range(20):
        (folder / f"texts/{number}.txt").write_text(f"# text {number}\n" + "def f(x):\n    return x\n" * 20)
    with gzip.open(folder / "x.jsonl.gz", "wt") as file:
        file.writelines(json.dumps({"text": f"text {n} " * 30}) + "\n" for n in range(20))
    (folder / "config.json").write_text('{"model_type": "gpt2"}')
    shutil.copytree(folder / "texts", folder / "corpora/shakespeare")
    (folder / "my").mkdir()
    (folder / "my/package.py").write_text("def create_model(d_model=8): ...\n")
    (folder / "recipes").mkdir()
    for name, path in isogloss.recipe.shipped_recipes().items():
        text = re.sub(r"type: python_stdlib", "type: files\n  train: [texts]", path.read_text())
        (folder / f"recipes/{name}.yaml").write_text(text)
    recipes = {path.stem: path for path in sorted((folder / "recipes").glob("*.yaml"))}
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr(isogloss.recipe, "shipped_recipes", lambda: recipes)
        patch.syspath_prepend(str(folder))
        patch.setenv("ISOGLOSS_PAGES", "1")
        yield folder


def resolved_only(*_args, **_settings) -> None:
    """In the place of what takes long: all that is asked for has been read and found."""
    raise typer.Exit


@pytest.fixture(scope="module")
def isogloss_line(folder: Path) -> Callable[[str], str]:
    """Run an ``isogloss`` line in the folder; gives its output."""
    from isogloss.audit import audit
    from isogloss.data.named import fetch

    def run(line: str) -> str:
        if line.startswith("zcat "):
            source, line = (part.strip() for part in line.split("|", 1))
            (folder / "stdin").write_bytes(gzip.decompress((folder / source.split()[1]).read_bytes()))
        words, target = shlex.split(line), None
        if ">" in words:
            words, target = words[: words.index(">")], folder / words[words.index(">") + 1]
        words = [word.replace("step-0000002400", "step-0000000002") for word in words] + substituted(words)
        with (
            pytest.MonkeyPatch.context() as patch,
            (folder / "out").open("w+") as out,
            (folder / "err").open("w+") as err,
        ):
            for name in STUDIES.values():
                patch.setattr(name, resolved_only)
            patch.setattr(audit, "audit", resolved_only)
            patch.setattr(fetch, "fetch", resolved_only)
            patch.setattr(sys, "argv", words)
            patch.setattr(sys, "stdout", out)
            patch.setattr(sys, "stderr", err)
            if (folder / "stdin").exists():
                patch.setattr(sys, "stdin", (folder / "stdin").open())
            code: object = None
            try:
                cli.main()
            except SystemExit as ended:
                code = ended.code
            finally:
                (folder / "stdin").unlink(missing_ok=True)
            out.flush()
            err.flush()
        output, errors = ((folder / name).read_text() for name in ("out", "err"))
        assert (code or 0) == CODES.get(line, 0), f"{line}: {code}: {output[-1000:]}{errors[-2000:]}"
        assert not (quoted := QUOTED.get(line)) or quoted in errors, f"{line}: the page quotes {quoted!r}, not {errors}"
        if target is not None:
            target.write_text(output)
        return output

    run("isogloss train")
    run("isogloss config show stdlib-small name=my > my.yaml")
    return run


def substituted(words: list[str]) -> list[str]:
    """What is added to a command, for size and time."""
    generated = any("tiny" in word for word in words)
    small = [*SMALL, *(["data.validation_rows=4"] if generated else TEXT)]
    if words[1] == "train":
        return small
    if words[1] == "launch" and "--dry-run" not in words:
        return ["--dry-run"]
    if words[1:3] == ["init", "verify"] and not words[3].startswith("runs/") and "--weights" not in words:
        return small
    return []


def check_verb(line: str) -> None:
    """A command with placeholders, or without arguments: its verb and options exist."""
    command: Any = get_command(cli.app)
    options: set[str] = set()
    for word in shlex.split(line)[1:]:
        if hasattr(command, "commands"):
            assert word in command.commands, f"{line}: no verb {word}"
            command = command.commands[word]
            options = {option for parameter in command.params for option in parameter.opts}
        elif word.startswith("--"):
            assert word.partition("=")[0] in options, f"{line}: no option {word}"


def check_what_it_names(line: str) -> None:
    """Of what is not ours, or takes long: what it names exists."""
    words = shlex.split(line)
    while "=" in words[0]:
        words = words[1:]
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    match words:
        case ["make", *targets]:
            known = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
            assert {target for target in targets if "=" not in target} <= set(known), line
        case ["pip", "install", *what]:
            for extra in re.findall(r"isogloss\[(\w+)\]", " ".join(what)):
                assert extra in extras, line
            assert re.fullmatch(r"-e \.|transformers|isogloss\[\w+\]", " ".join(what)), line
        case ["python", "-m", "pytest", *what]:
            assert all((ROOT / word).exists() for word in what if "/" in word), line
        case ["python", "-m", "pip", "download", *_] | [".venv/bin/pre-commit", "install"]:
            pass
        case ["python", script, *flags]:
            text = (ROOT / script).read_text()
            assert all(flag in text for flag in flags if flag.startswith("--")), line
        case _:
            pytest.fail(f"a command that no test knows how to run: {line}")


@pytest.mark.parametrize("page", ALL, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_command_of_a_page_runs(page: Path, isogloss_line: Callable[[str], str]) -> None:
    for line in ALL[page]:
        words = line.split()
        if torchrun := re.fullmatch(r"torchrun --nproc-per-node (\d+) -m isogloss train (.*)", line):
            isogloss_line(f"isogloss launch local {torchrun[2]} --ranks {torchrun[1]} --dry-run")
        elif words[0] == "zcat":
            isogloss_line(line)
        elif words[0] != "isogloss":
            check_what_it_names(line)
        elif PLACEHOLDER.search(line) or not is_whole(words):
            check_verb(line)
        elif line == "isogloss init verify stdlib-small --weights mine.safetensors":
            check_verb(line)  # of weights made elsewhere: tests/run/test_verify.py has some
        else:
            isogloss_line(line)


def is_whole(words: list[str]) -> bool:
    """Whether so few words are a command to run, and not the name of a verb in a sentence."""
    return len(words) > 3 or words[1] in ("train", "recipes", "estimate") or words[2:] in (["fetch"], ["schema"])


def test_a_command_that_is_not_known_fails() -> None:
    for line in ("isogloss trian", "isogloss train --no-such", "isogloss init nothing RECIPE"):
        with pytest.raises(AssertionError):
            check_verb(line)
    for line in ("make nothing", "python benchmarks/train.py --no-such-flag", "pip install 'isogloss[nothing]'"):
        with pytest.raises(AssertionError):
            check_what_it_names(line)
    with pytest.raises(pytest.fail.Exception, match="no test knows how to run: rm"):
        check_what_it_names("rm -rf runs")


def test_every_page_is_read() -> None:
    assert sum(map(len, ALL.values())) >= 80
    assert QUOTED.keys() == CODES.keys() <= {line for lines in ALL.values() for line in lines}
    assert {page.name for page, lines in ALL.items() if lines} >= {"README.md", "guide.md", "launch.md", "parallel.md"}


@pytest.mark.parametrize("page", [p for p in ALL if "```python" in p.read_text()], ids=lambda page: page.name)
def test_the_python_of_a_page_runs(page: Path, isogloss_line: Callable[[str], str]) -> None:
    for block in re.findall(r"```python\n(.*?)```", page.read_text(), re.DOTALL):
        exec(compile(block, str(page), "exec"), {})
