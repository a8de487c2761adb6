"""The plan as a terminal shows it: names whole, and what has no room is said; a difference shows all that differs."""

from dataclasses import replace
from typing import Any

import pytest
from rich.console import Console

from isogloss.run.plan import plan_recipe
from isogloss.run.plan_table import as_table, diff_rows, plan_table


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


def changed(*changes: str) -> dict[str, tuple[Any, Any, float | None]]:
    rows = diff_rows(plan_recipe("markov-tiny"), plan_recipe("markov-tiny", changes))
    return {row["what"]: (row["a"], row["b"], row["ratio"]) for row in rows if not row["what"].startswith("predicted")}


GATE, Q = "layers.0.ffn.gate_proj.weight", "layers.0.mixer.q_proj.weight"


def test_nothing_differs_from_itself() -> None:
    assert changed() == {}
    assert changed("init.cut=3.0", "name=other", "train.steps=900") == {}


def test_compensation_shows_with_its_bound() -> None:
    found = changed("init.compensated=true")
    assert found["setting: init.compensated"] == ("false", "true", None)
    assert found[Q] == ("64^-0.5, cut 3", "64^-0.5, cut 3 compensated: within 0.3801", pytest.approx(1.01355, abs=1e-4))
    rules = {row[0]: row[4] for row in plan_table(plan_recipe("markov-tiny", ["init.compensated=true"]))}
    assert rules[Q] == "64^-0.5, cut 3 compensated: within 0.3801"


def test_shapes_show() -> None:
    found = changed("model.ffn.d_ff=128")
    assert found["setting: model.ffn.d_ff"] == ("null", "128", None)
    assert found[GATE] == ("64^-0.5, cut 3; 192x64", "64^-0.5, cut 3; 128x64", 1.0)
    assert found["layers.0.ffn.down_proj.weight"][1] == "128^-0.5/sqrt(2*(1+1)), cut 3; 64x128"


def test_forward_multipliers_and_factors_of_the_optimizer_show() -> None:
    found = changed("init.type=completep")
    assert found["multiplier: branch"] == (1.0, 4.0, 4.0)
    assert found["multiplier: logits"] == (1.0, 4.0, 4.0)
    assert found[Q][:2] == ("64^-0.5, cut 3; 1, 1, 1", "0.02/sqrt(0.25); 4, 0.25, 16")
    assert found["norm.weight"][:2] == ("constant 1; 1, 0, 1", "constant 1; 1, 0, 4")


def test_parameters_that_come_and_go_show() -> None:
    found = changed("model.tied_head=true", "model.mixer.qk_norm=false")
    assert found["setting: model.tied_head"] == ("false", "true", None)
    assert found["head.weight"][:2] == ("64^-0.5, cut 3", "absent")
    assert found["layers.0.mixer.q_norm.weight"][:2] == ("constant 1", "absent")


@pytest.mark.parametrize(
    ("change", "row"),
    [
        ("model.mixer.head_dim=32", "setting: model.mixer.head_dim"),
        ("model.mixer.softcap=20.0", "setting: model.mixer.softcap"),
        ("model.norm=sandwich", "setting: model.norm"),
        ("optim.weight_decay=0.2", "setting: optim.weight_decay"),
        ("optim.lr=0.02", "setting: optim.lr"),
        ("seed=3", "setting: seed"),
    ],
)
def test_what_no_rule_says_shows_as_a_setting(change: str, row: str) -> None:
    assert row in changed(change)


def test_rules_of_one_name_that_differ_in_their_bound_differ() -> None:
    plan = plan_recipe("markov-tiny")
    rows = [row | ({"bound": 0.5} if row["name"] == Q else {}) for row in plan.rows]
    (found,) = [row for row in diff_rows(plan, replace(plan, rows=rows)) if row["what"] == Q]
    assert (found["a"], found["b"]) == tuple(
        f"64^-0.5, cut 3; std 0.123322, bound {bound}" for bound in ("0.375", "0.5")
    )
