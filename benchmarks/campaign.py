"""The campaign: 25 kinds of fault, and for each the tests that bring it about and the controls that take a guard out.

A test says which it is of by ``@pytest.mark.campaign(9)``, a control by ``@pytest.mark.control(9)``; a test that takes
its guard out at its own end bears both. They are found by reading the tests, which takes no imports.
"""

import ast
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

TESTS = Path(__file__).parent.parent / "tests"
FAULTS = {
    1: "one process killed at random moments",
    2: "killed at each point of a save",
    3: "one of two ranks killed, again and again",
    4: "stopped at a step and gone on with, for each kind of run",
    5: "a checkpoint of one layout loaded into another",
    6: "the order of the data, on any number of ranks",
    7: "initial weights, on any number of ranks",
    8: "gradients of several ranks, and of one process",
    9: "flipped bits, truncated and missing files",
    10: "a full disk",
    11: "saving over old folders, deleting old ones",
    12: "saving beside the training",
    13: "steps that are not finite, and spikes",
    14: "poisoned records",
    15: "data files that change, vanish or are forbidden",
    16: "recipes with mistakes",
    17: "another tokenizer or vocabulary",
    18: "signals to ranks and to the launcher",
    19: "ranks that die, hang or raise; a launcher that dies",
    20: "hostile files",
    21: "two jobs in one folder; times that mislead",
    22: "generation at its limits",
    23: "a long run under many kinds of fault",
    24: "clean ends",
    25: "a run's choices taken together, any two of them, on ranks",
}


def marked() -> dict[str, dict[int, list[str]]]:
    """Mark (``campaign`` or ``control``) -> number of the fault -> tests, as ``path::name`` below ``tests/``."""
    found: dict[str, dict[int, list[str]]] = {"campaign": defaultdict(list), "control": defaultdict(list)}
    for path in sorted(TESTS.rglob("test_*.py")):
        text = path.read_text(encoding="utf-8")
        if not any(f"mark.{mark}(" in text for mark in found):
            continue
        for function in ast.walk(ast.parse(text)):
            if isinstance(function, ast.FunctionDef):
                for mark, number in _marks(function):
                    if mark in found:
                        found[mark][number].append(f"{path.relative_to(TESTS).as_posix()}::{function.name}")
    return found


def table() -> str:
    """Every fault with its tests and controls."""
    found = marked()
    lines = ["| | fault | tests | controls |", "|---|---|---|---|"]
    for number, fault in FAULTS.items():
        cells = ("<br>".join(f"`{test}`" for test in found[mark][number]) for mark in ("campaign", "control"))
        lines.append(f"| {number} | {fault} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _marks(function: ast.FunctionDef) -> Iterator[tuple[str, int]]:
    """The numbered marks among a function's decorators."""
    for decorator in function.decorator_list:
        if isinstance(decorator, ast.Call) and isinstance(decorator.func, ast.Attribute):
            for argument in decorator.args:
                if isinstance(argument, ast.Constant) and isinstance(argument.value, int):
                    yield decorator.func.attr, argument.value
