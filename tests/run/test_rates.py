"""A run that goes on with another schedule, or further, says what becomes of its learning rate."""

from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console

from isogloss.config.base import UserError
from isogloss.recipe import load_recipe
from isogloss.run.rates import describe_rates
from isogloss.run.train import train
from isogloss.train.display import Display
from isogloss.train.metrics import read_metrics


def described(tiny: Path, before: list[str], after: list[str], step: int) -> str:
    return "\n".join(describe_rates(load_recipe(str(tiny), before), load_recipe(str(tiny), [*before, *after]), step))


def test_more_steps_stretch_the_schedule_and_the_rates_before_and_after_are_said(tiny: Path) -> None:
    said = described(tiny, ["train.steps=20"], ["train.steps=35"], 20)
    assert (
        "the learning rate was 1.00e-03 at step 20 and is 4.44e-03 at step 21; as before it would be 1.00e-03" in said
    )
    assert "stretched from 20 to 35 steps; optim.schedule.steps=20 keeps it as it was" in said
    assert "last rate of 1.00e-03 after step 20" in said


@pytest.mark.parametrize("kind", ["cosine", "linear", "wsd"])
def test_a_schedule_that_is_kept_leaves_every_rate_as_it_was_and_the_last_one_after_it(tiny: Path, kind: str) -> None:
    before = [f"optim.schedule={{type: {kind}, warmup: 2, final: 0.25}}"]
    was = load_recipe(str(tiny), before)
    kept = load_recipe(str(tiny), [*before, "train.steps=14", "optim.schedule.steps=10"])
    rates = [kept.optim.schedule.multiplier(step, 14) for step in range(1, 15)]
    assert rates[:10] == [was.optim.schedule.multiplier(step, 10) for step in range(1, 11)]
    assert rates[10:] == [0.25] * 4
    assert "stretched" not in "".join(describe_rates(was, kept, 6))


def test_nothing_is_said_where_the_rates_stay(tiny: Path) -> None:
    constant = ["optim.schedule={type: constant, warmup: 2}"]
    assert described(tiny, constant, ["train.steps=20"], 10) == ""
    assert described(tiny, ["optim.schedule={type: inverse_sqrt, warmup: 2}"], ["train.steps=20"], 5) == ""
    assert described(tiny, [], ["watch.log_every=3"], 5) == ""


@pytest.mark.parametrize("kind", ["constant", "inverse_sqrt", "linear"])
def test_a_warm_up_that_is_a_share_is_longer_in_a_longer_run(tiny: Path, kind: str) -> None:
    share = ["train.steps=10", f"optim.schedule={{type: {kind}, warmup: 0.5}}"]
    assert "the learning rate was 8.00e-03 at step 4 and is 5.00e-03 at step 5; as before it would be 1.00e-02" in (
        described(tiny, share, ["train.steps=20"], 4)
    )


def test_a_warm_up_that_is_a_share_of_a_longer_schedule_still_ends_before_the_run(tiny: Path) -> None:
    longer = ["train.steps=10", "optim.schedule={type: linear, warmup: 0.1, steps: 200}"]
    with pytest.raises(UserError, match=r"warmup \(20\) must be below train.steps \(10\)"):
        load_recipe(str(tiny), longer)


def test_a_stretch_that_changes_later_rates_alone_is_said_too(tiny: Path) -> None:
    said = described(tiny, ["optim.schedule={type: wsd, warmup: 2}"], ["train.steps=20"], 5)
    assert "is 1.00e-02 at step 6; as before it would be 1.00e-02" in said
    assert "stretched from 10 to 20" in said


def test_a_warm_up_that_lies_in_the_past_is_said_to_change_nothing(tiny: Path) -> None:
    constant = ["optim.schedule={type: constant, warmup: 2}"]
    assert "it changes nothing" in described(tiny, constant, ["optim.schedule.warmup=4"], 5)
    assert "the learning rate was 1.00e-02 at step 3 and is" in described(
        tiny, constant, ["optim.schedule.warmup=8"], 3
    )
    assert "the learning rate was" in described(tiny, [], ["optim.schedule.warmup=4"], 5), "a cosine begins there"


def test_a_run_says_it_before_it_goes_on_and_keeps_the_rate_if_asked(tiny: Path) -> None:
    def run(*overrides: str) -> str:
        console = Console(record=True, width=300, file=StringIO())
        quick = ("watch.sample_tokens=0", "watch.validation_rows=2", "train.batch_size=1")
        train(load_recipe(str(tiny), [*quick, *overrides]), Display(console))
        return console.export_text()

    assert "learning rate was" not in run("train.steps=4")
    assert "the learning rate was 1.00e-03 at step 4 and is" in run("train.steps=6")
    run("train.steps=8", "optim.schedule.steps=6")
    rates = {r["step"]: r["lr"] for r in read_metrics(tiny.parent / "runs/tiny/metrics.jsonl") if r["kind"] == "train"}
    assert rates[6] == rates[7] == rates[8] == pytest.approx(1e-3)
