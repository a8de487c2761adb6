"""Runs on mixtures, on text read on the fly, and with warm-ups: to the end, and exactly on after a kill."""

import os
from pathlib import Path

import pytest
from rich.console import Console

import isogloss.run.steps as module
from isogloss.config.base import UserError
from isogloss.recipe import load_recipe
from isogloss.run.train import train
from isogloss.train.display import Display
from isogloss.train.metrics import read_metrics


class Killed(BaseException):
    """Stands for a process that dies."""


def run(recipe: Path, *overrides: str) -> tuple[dict, str]:
    console = Console(record=True, width=160, file=open(os.devnull, "w"))  # noqa: PTH123, SIM115
    fast = ("train.steps=6", "watch.validate_every=4", "watch.sample_every=100", "watch.sample_tokens=0")
    summary = train(load_recipe(str(recipe), (*fast, *overrides)), Display(console))
    return summary, console.export_text()


def weights_of(root: Path, name: str) -> bytes:
    newest = max((root / "runs" / name / "checkpoints").iterdir())
    return (newest / "model.safetensors").read_bytes()


def mixture(root: Path, a: float = 3.0, b: float = 1.0, more: str = "") -> str:
    text = (
        "data: {{type: files, train: ['{root}/corpus/{glob}'], validation_bytes: 200, prepared_dir: {root}/prepared}}"
    )
    one, other = (text.format(root=root, glob=glob) for glob in ("0[0-2]*.txt", "0[3-5]*.txt"))
    sources = f"{{a: {{weight: {a}, {one}}}, b: {{weight: {b}, {other}}}}}"
    return f"data={{type: mixture, seq_len: 24, sources: {sources}{more}}}"


@pytest.fixture
def killed(monkeypatch):
    """Runs that die right after their first checkpoint."""
    original = module.Saver.save

    def save_and_die(saver, step, *rest):
        original(saver, step, *rest)
        raise Killed

    def run_and_die(recipe: Path, *overrides: str) -> None:
        with monkeypatch.context() as patched:
            patched.setattr(module.Saver, "save", save_and_die)
            with pytest.raises(Killed):
                run(recipe, *overrides)

    return run_and_die


@pytest.mark.parametrize(
    "overrides",
    [
        ["train.batch_size_warmup=[{until: 2, batch_size: 2}]", "train.seq_len_warmup=[{until: 4, divisor: 3}]"],
        ["data.packing=best_fit"],
        ["mixture", "tokenizer={type: bpe, vocab_size: 270}"],
        ["data={type: on_the_fly, train: [corpus], validation_bytes: 400, seq_len: 24}"],
    ],
    ids=["warm-ups", "best_fit", "mixture", "on_the_fly"],
)
def test_killed_and_gone_on_with_is_the_same_run(tiny: Path, killed, monkeypatch, overrides: list[str]) -> None:
    monkeypatch.chdir(tiny.parent)
    overrides = [
        mixture(tiny.parent, more=", schedule: [{at: 1.0, weights: {b: 5.0}}]") if o == "mixture" else o
        for o in overrides
    ]
    whole, _ = run(tiny, "name=whole", *overrides)
    killed(tiny, "name=cut", *overrides)
    cut, text = run(tiny, "name=cut", *overrides)
    assert "resuming after step 3" in text
    assert weights_of(tiny.parent, "whole") == weights_of(tiny.parent, "cut")
    assert whole["validation"] == cut["validation"]
    assert whole["tokens"] == cut["tokens"]


def test_warm_ups_read_what_they_say(tiny: Path) -> None:
    plain, _ = run(tiny, "name=plain")
    warm, text = run(
        tiny,
        "name=warm",
        "train.batch_size_warmup=[{until: 2, batch_size: 2}]",
        "train.seq_len_warmup=[{until: 4, divisor: 3}]",
    )
    assert plain["tokens"] == 6 * 4 * 24
    assert warm["tokens"] == 2 * 2 * 24 + 4 * 4 * 24
    assert "= 480 tokens" in text
    with pytest.raises(UserError, match=r"data\.seq_len \(24\) cannot be cut into 5"):
        run(tiny, "name=odd", "train.seq_len_warmup=[{until: 4, divisor: 5}]")
    with pytest.raises(UserError, match="each stage must end after"):
        run(tiny, "name=odd", "train.seq_len_warmup=[{until: 4, divisor: 2}, {until: 3, divisor: 3}]")


def test_a_mixture_says_what_it_reads(tiny: Path) -> None:
    summary, text = run(tiny, mixture(tiny.parent))
    # 24 rows, three of four from a.
    assert summary["sources"]["a"]["share"] == pytest.approx(0.75, abs=1 / 24)
    losses = [summary["sources"][name]["loss"] for name in "ab"]
    assert summary["validation"]["loss"] == pytest.approx(0.75 * losses[0] + 0.25 * losses[1])
    assert "% of the tokens, validation loss" in text
    assert "a: concatenate: " in text
    records = read_metrics(tiny.parent / "runs/tiny/metrics.jsonl")
    shares = [record["share_a"] for record in records if record["kind"] == "train"]
    assert len(shares) == 6
    assert shares[-1] == summary["sources"]["a"]["share"]


def test_a_mixture_may_be_changed_on_the_way(tiny: Path, killed) -> None:
    killed(tiny, mixture(tiny.parent))
    killed_again = [mixture(tiny.parent, a=0.0), "checkpoint.every=1"]
    killed(tiny, *killed_again)
    summary, text = run(tiny, *killed_again)
    assert "data.sources.a.weight: 3.0 -> 0.0" not in text  # the recipe has the new weight since the second beginning
    # Twelve rows of the first mixture, nine of them from a; twelve of b alone.
    assert summary["sources"]["a"]["share"] == pytest.approx(9 / 24, abs=1.5 / 24)
    whole, text = run(tiny, "name=whole", mixture(tiny.parent, a=0.0))
    assert whole["sources"]["a"]["share"] == 0


@pytest.mark.parametrize(
    ("more", "complaint"),
    [
        ("sources: {a: {weight: 1.0, DATA}, b: {DATA}}", "b has none"),
        ("sources: {a: {weight: 1.0, DATA}}, temperature: 2.0", "leave out one or the other"),
        ("sources: {a: {DATA}}, schedule: [{at: 0.5, weights: {c: 1.0}}]", "no source c"),
        (
            "sources: {a: {DATA}}, schedule: [{at: 0.5, weights: {a: 1.0}}, {at: 0.2, weights: {a: 1.0}}]",
            "after the one",
        ),
        ("sources: {a: {max_epochs: 0.05, DATA}}", "used up"),
        ("sources: {a: {max_tokens: 100, DATA}}", "used up"),
        ("sources: {a: {data: {type: files, train: [nowhere/]}}}", r"data\.sources\.a"),
    ],
)
def test_mixtures_that_cannot_be(tiny: Path, more: str, complaint: str) -> None:
    root = tiny.parent
    text = f"data: {{type: files, train: [{root}/corpus], validation_bytes: 200, prepared_dir: {root}/prepared}}"
    with pytest.raises(UserError, match=complaint):
        run(tiny, f"data={{type: mixture, seq_len: 24, {more.replace('DATA', text)}}}")


def test_on_the_fly_needs_a_tokenizer_that_is_there(tiny: Path) -> None:
    data = f"data={{type: on_the_fly, train: [{tiny.parent}/corpus], seq_len: 24, validation_bytes: 400}}"
    with pytest.raises(UserError, match="isogloss tokenizer train makes one"):
        run(tiny, data, "tokenizer={type: bpe, vocab_size: 300}")
    with pytest.raises(UserError, match="no text is left"):
        run(tiny, data.replace("400", "1000000"))
