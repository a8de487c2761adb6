"""The plan as a terminal shows it: names whole, and what has no room is said."""

from rich.console import Console

from isogloss.run.plan import plan_recipe
from isogloss.run.plan_table import as_table, plan_table


def shown(width: int) -> str:
    console = Console(width=width)
    with console.capture() as capture:
        console.print(as_table(plan_table(plan_recipe("stdlib-small")), width))
    return capture.get()


def test_a_wide_terminal_shows_all() -> None:
    out = shown(150)
    assert "no room" not in out
    assert all(heading in out for heading in plan_table(plan_recipe("stdlib-small"))[0])


def test_a_narrow_one_says_what_it_leaves_out() -> None:
    out = shown(95)
    assert "no room for group; fan-in; role; nominal; shape (--format shows all)" in " ".join(out.split())
    assert "│ layers.0-4.ffn.down_proj.weight │ 384^-0.5/sqrt(2*(5+1)), cut 3 │ 0.01453 │" in out
    assert "layers.0-4.ffn.down_proj.weight" in shown(40)
