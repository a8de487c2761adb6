"""Any text can be written to standard output and error, and none of it is obeyed by a terminal."""

import ast
import codecs
import io
import sys
from pathlib import Path

import pytest

import isogloss
from isogloss.streams import accept_any_text, emit, say, say_error, visible

TEXT = "né → 中 😀 \udce9"
SOURCE = Path(isogloss.__file__).parent


class Terminal(io.TextIOWrapper):
    """Says that it is one."""

    def isatty(self) -> bool:
        return True


def stream_of(encoding: str, errors: str = "strict", kind: type[io.TextIOWrapper] = io.TextIOWrapper):
    return kind(io.BytesIO(), encoding, errors, newline="")


def written(stream: io.TextIOWrapper) -> str:
    stream.flush()
    assert isinstance(stream.buffer, io.BytesIO)
    return stream.buffer.getvalue().decode(stream.encoding)


@pytest.mark.parametrize(
    ("encoding", "expected"),
    [
        ("ascii", r"n\xe9 \u2192 \u4e2d \U0001f600 \udce9"),
        ("latin-1", r"né \u2192 \u4e2d \U0001f600 \udce9"),
        ("cp1252", r"né \u2192 \u4e2d \U0001f600 \udce9"),
        ("shift_jis", r"n\xe9 → 中 \U0001f600 \udce9"),
        ("utf-8", r"né → 中 😀 \udce9"),
    ],
)
@pytest.mark.parametrize("errors", ["strict", "surrogateescape"])
def test_what_an_encoding_lacks_is_escaped(monkeypatch, encoding: str, expected: str, errors: str) -> None:
    for name, write in (("stdout", say), ("stdout", emit), ("stderr", say_error)):
        stream = stream_of(encoding, errors)
        monkeypatch.setattr(sys, name, stream)
        write(TEXT)
        assert written(stream) == expected + "\n"


def test_an_error_handler_that_the_user_chose_and_that_cannot_fail_is_kept() -> None:
    stream = stream_of("ascii", "replace")
    accept_any_text(stream, None)
    stream.write(TEXT)
    assert written(stream) == "n? ? ? ? ?"


def test_a_writer_of_the_module_codecs_is_taught_it_too() -> None:
    stream = codecs.getwriter("ascii")(io.BytesIO())
    accept_any_text(stream)
    stream.write("→")
    assert stream.stream.getvalue() == rb"\u2192"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("\x1b[31mred\x1b[0m", r"\x1b[31mred\x1b[0m"),
        ("\x1b]0;title\x07", r"\x1b]0;title\x07"),
        ("over\rwritten", r"over\rwritten"),
        ("back\x08\x7f", r"back\x08\x7f"),
        ("\x9b2J\x00", r"\x9b2J\x00"),
        ("a\r\nb\tc\n", "a\r\nb\tc\n"),
        ("né 中 😀 [red] :b:", "né 中 😀 [red] :b:"),
    ],
)
def test_control_characters_are_shown(text: str, expected: str) -> None:
    assert visible(text) == expected


def test_data_is_written_as_it_is_but_to_a_terminal(monkeypatch) -> None:
    for kind, expected in ((io.TextIOWrapper, "\x1b[31m"), (Terminal, r"\x1b[31m")):
        stream = stream_of("utf-8", kind=kind)
        monkeypatch.setattr(sys, "stdout", stream)
        emit("\x1b[31m", end="")
        assert written(stream) == expected


# What prints, and the one module that may use it.
ONLY_IN = {
    "print": "streams.py",
    "sys.stdout.write": "streams.py",
    "sys.stderr.write": "streams.py",
    "typer.echo": "streams.py",
    "rich.print": "terminal.py",
    "rich.console.Console": "terminal.py",
    "rich.table.Table": "terminal.py",
    "rich.progress.Progress": "terminal.py",
    "rich.progress.TextColumn": "terminal.py",
    "rich.text.Text": "terminal.py",
    "rich.markup": "terminal.py",
    "tqdm": "terminal.py",
}


def printers(source: str) -> set[str]:
    """Of ``ONLY_IN``, what a module uses; a name that only annotates counts as no use."""
    tree, names = ast.parse(source), {"print": "print"}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {
                (alias.asname or alias.name).partition(".")[0]: alias.name.partition(".")[0] for alias in node.names
            }
        elif isinstance(node, ast.ImportFrom):
            names |= {alias.asname or alias.name: f"{node.module}.{alias.name}" for alias in node.names}

    def full(node: ast.AST) -> str:
        if isinstance(node, ast.Attribute):
            return f"{full(node.value)}.{node.attr}"
        return names.get(node.id, node.id) if isinstance(node, ast.Name) else ""

    used = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            used |= {full(node.func), *map(full, node.args)}
        elif isinstance(node, ast.ClassDef):
            used |= set(map(full, node.bases))
    return used & set(ONLY_IN)


def test_nothing_prints_outside_of_the_two_modules_that_know_how() -> None:
    found = {
        (path.relative_to(SOURCE).as_posix(), name)
        for path in SOURCE.rglob("*.py")
        for name in printers(path.read_text(encoding="utf-8"))
    }
    assert ("terminal.py", "rich.console.Console") in found
    assert {(path, name) for path, name in found if path != ONLY_IN[name]} == set()


@pytest.mark.parametrize(
    "source",
    [
        "from rich.console import Console as C\nC()",
        "import rich\nrich.print('x')",
        "import rich.console\nrich.console.Console()",
        "fetch(print)",
        "import sys\nsys.stdout.write('x')",
        "from rich.table import Table\nclass Mine(Table): ...",
    ],
)
def test_the_search_sees_what_prints(source: str) -> None:
    assert printers(source)


def test_text_files_are_read_and_written_with_their_encoding() -> None:
    """Else the locale's counts: ASCII under ``LANG=C``."""
    found = set()
    for path in SOURCE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and not any(key.arg == "encoding" for key in node.keywords):
                name = node.func.attr if isinstance(node.func, ast.Attribute) else ""
                text = any(ast.unparse(key) == "text=True" for key in node.keywords)  # of a program that is run
                if text or name in ("read_text", "write_text"):
                    found.add(f"{path.relative_to(SOURCE)}:{node.lineno}")
    assert found == set()
