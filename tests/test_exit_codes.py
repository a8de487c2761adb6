"""One module has the numbers of exit codes; its table has every verb's, and the docs have its table."""

import ast
import inspect
import re
from pathlib import Path

import exit_table
import pytest
import typer

from isogloss import cli, exit_codes

ROOT = Path(__file__).parent.parent
SOURCES = sorted((ROOT / "src/isogloss").rglob("*.py"))
NAMES = {name: value for name, value in vars(exit_codes).items() if isinstance(value, int)}
ENDS = {"Exit", "SystemExit", "exit", "_exit", "leave", "_end"}


def verbs(app: typer.Typer, prefix: str = "") -> dict[str, object]:
    found = {}
    for command in app.registered_commands:
        assert command.callback is not None
        name = command.name or command.callback.__name__.replace("_", "-")
        found[f"{prefix}{name}"] = command.callback
    for group in app.registered_groups:
        assert group.typer_instance is not None
        found |= verbs(group.typer_instance, f"{prefix}{group.name} ")
    return found


VERBS = verbs(cli.app)


def numbers(tree: ast.AST) -> list[int]:
    """Lines where a process is ended with a number, or an exception is given one."""
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            given = [part for a in node.args for part in ast.walk(a)] if name in ENDS else []
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            named = any(isinstance(t, ast.Name | ast.Attribute) and _name(t) in ("exit_code", "code") for t in targets)
            given = list(ast.walk(node.value)) if named and node.value is not None else []
        else:
            given = []
        found += [part.lineno for part in given if isinstance(part, ast.Constant) and type(part.value) is int]
    return found


def _name(target: ast.Name | ast.Attribute) -> str:
    return target.id if isinstance(target, ast.Name) else target.attr


def test_the_search_for_numbers_finds_them() -> None:
    code = "sys.exit(3)\nraise typer.Exit(1)\nclass E:\n    exit_code = 70\nos._exit(128 + n)\nprint(5)"
    assert sorted(numbers(ast.parse(code))) == [1, 2, 4, 5]


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.relative_to(ROOT / "src").as_posix())
def test_no_other_module_has_the_number_of_an_exit_code(path: Path) -> None:
    if path.name != "exit_codes.py":
        assert numbers(ast.parse(path.read_text())) == []


def test_every_verb_of_the_table_is_one() -> None:
    named = {verb for row in exit_codes.EXITS for verb in row.verbs if not verb.startswith(exit_codes.ALL)}
    assert named <= VERBS.keys()


@pytest.mark.parametrize("verb", VERBS)
def test_a_verb_ends_with_the_codes_of_its_rows(verb: str) -> None:
    """Those that its own function names; a run's and a launcher's come from the room that they call."""
    source = inspect.getsource(VERBS[verb])
    shared = {exit_codes.OK, exit_codes.USAGE}
    used = {str(NAMES[name]) for name in NAMES if re.search(rf"\b{name}\b", source) and NAMES[name] not in shared}
    if "verdict.judge" in source:
        used |= {str(exit_codes.FAILED), str(exit_codes.NOT_JUDGED)}
    rows = exit_codes.exits_of(verb)
    if verb in ("train", "launch local"):
        rows -= {str(exit_codes.HUNG), str(exit_codes.REQUEUE)}
    assert used == rows


def test_the_table_stands_in_the_docs() -> None:
    assert exit_table.table() in (ROOT / "docs/launch.md").read_text()
