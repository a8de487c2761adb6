"""What a person sees: plain lines where output is not a terminal, a live line in one."""

import re
from io import StringIO

import pytest
from rich.console import Console

from isogloss.train.display import Display, banner, results_table
from isogloss.train.machine import Machine
from isogloss.train.size import RunSize


def display_of(*, terminal: bool) -> tuple[Display, StringIO]:
    file = StringIO()
    return Display(Console(file=file, force_terminal=terminal, width=100, color_system=None)), file


def show(display: Display) -> None:
    display.start(5, 20)
    display.wait("compiling")
    display.step(6, "loss 2.500")
    display.say("resuming")
    display.step(7, "loss 2.400")
    display.stop()


def test_plain_lines_elsewhere() -> None:
    display, file = display_of(terminal=False)
    show(display)
    assert file.getvalue() == "compiling\nstep      6  loss 2.500\nresuming\nstep      7  loss 2.400\n"


def test_a_live_line_in_a_terminal() -> None:
    display, file = display_of(terminal=True)
    show(display)
    output = file.getvalue()
    assert "step 5/20" in output
    assert "compiling" in output
    assert re.search(r"step 7/20.*loss 2\.400", output)
    assert "resuming\n" in output
    assert output.rindex("step 7/20") > output.index("resuming")
    assert output.count("\x1b[?25l") == output.count("\x1b[?25h") == 1  # the cursor is hidden, and shown again
    assert output.endswith("\x1b[2K")  # and the line taken away


def test_a_terminal_keeps_some_of_the_steps() -> None:
    display, file = display_of(terminal=True)
    display.start(0, 1000)
    for step in range(1, 1001):
        display.step(step, "loss 2.500")
    display.stop()
    kept = re.findall(r"step {3,}(\d+)  loss", file.getvalue())
    assert kept[:3] == ["1", "51", "101"]
    assert 15 <= len(kept) <= 25


def test_after_the_live_line_come_plain_ones() -> None:
    display, file = display_of(terminal=True)
    show(display)
    length = len(file.getvalue())
    display.step(8, "loss 2.300")
    assert file.getvalue()[length:] == "step      8  loss 2.300\n"


def test_stopping_without_a_live_line_does_nothing() -> None:
    display, file = display_of(terminal=True)
    display.stop()
    assert file.getvalue() == ""


@pytest.mark.parametrize("text", ["[bold]not markup[/bold] [red]", "x" * 300, "a\n    b"])
def test_what_is_said_is_printed_as_it_is(text: str) -> None:
    """Samples and paths may hold anything, and a line is not broken where the terminal ends."""
    display, file = display_of(terminal=False)
    display.say(text)
    assert file.getvalue() == text + "\n"


def test_the_table_has_every_row_under_its_title() -> None:
    display, file = display_of(terminal=False)
    display.console.print(results_table([("loss", "1.5"), ("steps", "10")], title="results of x"))
    lines = file.getvalue().splitlines()
    assert lines[0].strip() == "results of x"
    assert [re.findall(r"[\w.]+", line) for line in lines if re.search(r"\w", line)][1:] == [
        ["loss", "1.5"],
        ["steps", "10"],
    ]


def test_the_banner_says_on_how_many_ranks() -> None:
    size = RunSize({"head": 8}, 1e12)
    numbers = {
        "peak": 1e12,
        "memory": 1e9,
        "steps": 2,
        "tokens_per_step": 4,
        "tokens": 8,
        "corpus_tokens": None,
        "log_every": 1,
    }
    many = Machine("cpu", "a processor", "fp32", False, 1, "2.13", ranks=4)
    assert "on a processor (cpu, 4 ranks of 1 thread): " in banner("a", "runs/a", size, many, **numbers)
    alone = Machine("cpu", "a processor", "fp32", False, 2, "2.13")
    assert "on a processor (cpu, 2 threads): " in banner("a", "runs/a", size, alone, **numbers)


def test_the_first_line_of_the_banner_has_what_the_machine_decided() -> None:
    numbers = {
        "peak": 1e11,
        "memory": 2**30,
        "steps": 10,
        "tokens_per_step": 96,
        "tokens": 960,
        "corpus_tokens": 960,
        "log_every": 1,
    }
    for precision, compiled, said in (("bf16", False, "a in bf16, eager: "), ("fp32", True, "a in fp32, compiled: ")):
        machine = Machine("cpu", "a processor", precision, compiled, 2, "2.13")
        first = banner("a", "runs/a", RunSize({"head": 10}, 1e9), machine, **numbers).splitlines()[0]
        assert first.startswith(said)
