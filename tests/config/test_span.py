"""A length of training, in steps or as a share of them."""

import pytest

from isogloss.config.base import Config, UserError
from isogloss.config.load import dump_config, load_config
from isogloss.config.span import PositiveSpan, Span, steps_of


class Stage(Config):
    warmup: Span = 0
    until: PositiveSpan = 1


@pytest.mark.parametrize(("written", "read"), [("0", 0), ("60", 60), ("1e2", 100), ("0.025", 0.025), (".5", 0.5)])
def test_it_is_a_count_or_a_share(written: str, read: float, tmp_path) -> None:
    found = load_config(Stage, None, [f"warmup={written}"])
    assert (found.warmup, type(found.warmup)) == (read, type(read))
    (tmp_path / "saved.yaml").write_text(dump_config(found))
    assert load_config(Stage, tmp_path / "saved.yaml") == found


@pytest.mark.parametrize(
    ("written", "said"),
    [
        ("1.0", "1.0 may mean one step or all of them; write 1 for a step"),
        ("1.5", "must be a number of steps, or a share of all steps below 1 such as 0.1, got 1.5"),
        ("-0.1", "must be a number of steps, or a share of all steps below 1 such as 0.1, got -0.1"),
        ("-1", "must be a number of steps, or a share of all steps below 1 such as 0.1, got -1"),
        (".inf", "must be a number of steps, or a share of all steps below 1 such as 0.1, got inf"),
        ("'0.1'", "take the quotes off"),
        ("10%", "must be a whole number or a number, got '10%'"),
    ],
)
def test_anything_else_is_refused(written: str, said: str) -> None:
    for key in ("warmup", "until"):
        with pytest.raises(UserError) as caught:
            load_config(Stage, None, [f"{key}={written}"])
        assert said in str(caught.value)


def test_a_stage_lasts_at_least_a_step() -> None:
    with pytest.raises(UserError, match="must be greater than 0, got 0"):
        load_config(Stage, None, ["until=0"])


@pytest.mark.parametrize(
    ("span", "n_steps", "steps"),
    [(60, 20, 60), (0.025, 2400, 60), (0.0357, 2800, 100), (0.025, 20, 0), (0.06, 20, 1), (0.999, 3, 2), (0.5, 1, 0)],
)
def test_a_share_is_rounded_and_leaves_the_last_step(span: float, n_steps: int, steps: int) -> None:
    assert steps_of(span, n_steps) == steps
