"""Text of the user's is shown as it is: no markup, no emoji codes, no control characters, in any encoding."""

import errno
import io
import json
import sys
from pathlib import Path

import pytest
from rich.console import Console

from isogloss.__main__ import main as command
from isogloss.cli.bar import Bar
from isogloss.terminal import Table, open_console
from isogloss.train.display import Display
from test_streams import Terminal, stream_of, written

MARKED = "a:b:c :smile: [red]x[/red] [/INST] [bold] \\[link=x] 'quoted' 123"
OBEYED = "\x1b[31m\x07over\rwritten"
SHOWN = r"\x1b[31m\x07over\rwritten"


def console_of(kind: type[io.TextIOWrapper] = io.TextIOWrapper, **options) -> tuple[Console, io.TextIOWrapper]:
    stream = stream_of("utf-8", kind=kind)
    return open_console(file=stream, width=200, **options), stream


def test_a_console_shows_text_as_it_is() -> None:
    console, stream = console_of()
    console.print(MARKED)
    assert written(stream) == MARKED + "\n"


@pytest.mark.parametrize("text", [MARKED, OBEYED])
def test_a_table_shows_its_title_headings_and_cells_as_they_are(text: str) -> None:
    table = Table(title=f"title {text}", caption=f"caption {text}")
    table.add_column(f"heading {text}")
    table.add_row(f"cell {text}")
    for console in (console_of()[0], Console(file=stream_of("utf-8"), width=200)):  # also one that knows markup
        console.print(table)
        for place in ("title", "caption", "heading", "cell"):
            assert f"{place} {SHOWN if text == OBEYED else text}" in written(console.file)


def test_a_run_shows_text_as_it_is_on_any_console() -> None:
    console = Console(file=stream_of("utf-8"), width=200)
    display = Display(console)
    display.say(f"{MARKED} {OBEYED}")
    assert written(console.file) == f"{MARKED} {SHOWN}\n"


def test_the_live_line_shows_text_as_it_is() -> None:
    console = Console(file=stream_of("utf-8", kind=Terminal), width=200, force_terminal=True, color_system=None)
    display = Display(console)
    display.start(0, 2)
    display.step(1, f"{MARKED} \x07")
    display.stop()
    assert f"{MARKED} \\x07" in written(console.file)


def test_a_bar_shows_its_stage_as_it_is() -> None:
    console = Console(file=stream_of("utf-8", kind=Terminal), width=200, force_terminal=True, color_system=None)
    bar = Bar(console)
    bar.begin("reading [/INST] :b:", 10, 0)
    bar.end()
    assert "reading [/INST] :b:" in written(console.file)


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "cp1252"])
def test_a_table_fits_any_encoding(encoding: str) -> None:
    console = Console(file=stream_of(encoding), width=40)
    table = Table(title="→ 中")
    table.add_column("né", no_wrap=True, overflow="ellipsis")
    table.add_row("😀" * 40)
    Display(console).show(table)
    assert r"\u2192 \u4e2d" in written(console.file)


PROMPT = "né → 😀 :b: [red] [/INST]\x1b[31m\x07"


@pytest.mark.parametrize("encoding", ["ascii", "cp1252"])
def test_a_run_and_its_verbs_end_well_whatever_the_encoding_is(call, monkeypatch, tiny: Path, encoding: str) -> None:
    prompts = json.dumps([PROMPT])
    folder = tiny.parent / "runs/tiny"
    verbs = (
        ("train", tiny, "watch.sample_tokens=2", f"watch.prompts={prompts}"),
        ("generate", folder, PROMPT, "--max-tokens", "2"),
        ("init", "plan", tiny),
        ("tokenizer", "show", folder, PROMPT),
        ("data", "peek", tiny.parent / "prepared"),
        ("data", "stats", tiny.parent / "prepared"),
        ("config", "show", folder),
    )
    for words in verbs:
        stream = stream_of(encoding)
        monkeypatch.setattr(sys, "stdout", stream)
        code, _, errors = call(*words)
        assert (code, errors) == (0, ""), words
        if words[0] == "train":
            escaped = PROMPT.encode(encoding, "backslashreplace").decode(encoding)
            assert escaped.replace("\x1b", r"\x1b").replace("\x07", r"\x07") in written(stream)
        if words[0] == "config":  # what is to be read again is not damaged
            (tiny.parent / "shown.yaml").write_bytes(written(stream).encode())
    samples = [json.loads(line) for line in (folder / "metrics.jsonl").read_bytes().splitlines()]
    assert {record["prompt"] for record in samples if record["kind"] == "sample"} == {PROMPT}
    assert PROMPT in (folder / "samples.txt").read_text(encoding="utf-8")
    monkeypatch.undo()
    assert (tiny.parent / "shown.yaml").read_text(encoding="utf-8").isascii()
    assert call("config", "diff", str(folder), str(tiny.parent / "shown.yaml"))[:2] == (0, "")


def test_tokens_in_brackets_are_listed(call, monkeypatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    documents = [json.dumps({"text": "to be " * n}) + "\n" for n in range(1, 30)]
    (tmp_path / "a.jsonl").write_text("".join(documents), encoding="utf-8")
    assert call("data", "prepare", "a.jsonl", "prepared_dir=[red] :b:", "--tokenizer", "bytes")[0] == 0
    monkeypatch.setattr("isogloss.data.tokenizers.description.printable", lambda data: f"[/INST] [red] :b: {data!r}")
    code, out, errors = call("data", "stats", "[red] :b:")
    assert (code, errors) == (0, "")
    assert "[red] :b:/" in out
    assert out.count("[/INST] [red] :b: b'") == 5


def test_the_command_prepares_its_streams_before_anything_prints(monkeypatch) -> None:
    streams = {name: stream_of("ascii") for name in ("stdout", "stderr")}
    for name, stream in streams.items():
        monkeypatch.setattr(sys, name, stream)
    monkeypatch.setattr("isogloss.__main__.hear_early", lambda *_: None)
    monkeypatch.setattr("isogloss.__main__.open_what_is_closed", lambda: None)
    monkeypatch.setattr("isogloss.cli.main", lambda: [stream.write("→") for stream in streams.values()])
    command()
    assert [written(stream) for stream in streams.values()] == [r"\u2192"] * 2


def test_a_refused_word_is_quoted_without_being_obeyed(call) -> None:
    for words in (("train", f"--x{OBEYED}"), ("data", "stats", f"[/red] :b: {OBEYED}")):
        code, _, errors = call(*words)
        assert code == 2
        assert r"\x1b[31m\x07over" in errors
        assert not {"\x1b", "\x07", "\r"} & set(errors)
        assert "Traceback" not in errors


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO])
def test_output_that_cannot_be_written_is_dropped_and_no_step_is_lost(
    monkeypatch, tmp_path: Path, number, capfd
) -> None:
    class Full(io.StringIO):
        def write(self, text: str) -> int:
            raise OSError(number, "it cannot be written")

    with (tmp_path / "out").open("w") as stream:
        monkeypatch.setattr(sys, "stdout", stream)
        display = Display(Console(file=Full()))
        display.say("a line")
        display.say("another")
    assert display.lost == (number == errno.EIO)  # a closed terminal asks for the end, as a closed pipe does
    assert capfd.readouterr().err.count("the run goes on without it") == (number == errno.ENOSPC)
