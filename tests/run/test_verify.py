"""`isogloss init verify` and `plan` of starts that are loud, silent, degenerate, rounded or trained."""

import json
import math
import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from rich.console import Console
from safetensors.torch import load_file, save_file

from isogloss.build import build_model
from isogloss.data.batches import BatchPlan
from isogloss.data.loader import open_loader
from isogloss.data.opening import open_corpus
from isogloss.models.protocol import IGNORED
from isogloss.recipe import load_recipe, shipped_recipes
from isogloss.run.load import load_run
from isogloss.run.plan import plan_recipe
from isogloss.run.verify import verify_recipe
from isogloss.train.display import Display

Call = Callable[..., tuple[int, str, str]]
WIDE = ("model.d_model=64", "model.mixer.n_heads=4")

LOUD = {
    "tied, embedding of 1": (["model.tied_head=true", "init.embedding_std=1"], "tied to an embedding of std 0.987"),
    "tied, mup": (["model.tied_head=true", "init={type: mup}"], "tied to an embedding of std 1"),
    "tied, post": (
        ["model.tied_head=true", "init={type: megatron, embedding_std: 2}", "model.norm=post"],
        "tied to an embedding of std 2",
    ),
    "head": (["init={type: megatron, std: 0.35}", "model.mixer.qk_norm=true"], "head.weight has std 0.35"),
    "head, multiplied": (["init={type: mup, base_width: 64, output_multiplier: 30}"], "head.weight has std 0.02"),
    "attention": (
        ["init={type: lingua, base_std: 0.3, embedding_std: 1}", "model.logit_softcap=1"],
        "queries and keys",
    ),
}
loud = pytest.mark.parametrize(("words", "cause"), LOUD.values(), ids=LOUD.keys())


@loud
def test_a_loud_start_is_warned_of_with_its_cause_and_a_setting_that_mends_it(
    call: Call, tiny: Path, words: list[str], cause: str
) -> None:
    code, _, err = call("init", "plan", tiny, *WIDE, *words)
    assert code == 0
    assert cause in err
    assert "warning: " in err
    assert call("init", "plan", tiny, *WIDE, *words, "--strict")[0] == 1
    (proposed,) = re.findall(r"; set (init\.\w+=\S+) or", err)
    assert plan_recipe(str(tiny), [*WIDE, *words, proposed]).warnings == ()


def test_verify_warns_too_and_fails_only_where_it_is_asked_to(call: Call, tiny: Path) -> None:
    words = ("init", "verify", tiny, *WIDE, "model.tied_head=true", "init.embedding_std=1", "--json")
    code, out, err = call(*words)
    assert code == 0
    found = json.loads(out)
    assert found["status"] == "warn"
    assert "model.tied_head=false" in found["warnings"][0]
    assert found["warnings"][0] in err
    assert call(*words, "--strict")[0] == 1
    assert call("init", "verify", tiny, *WIDE, "--strict")[0] == 0


def test_qk_norm_with_undivided_logits_is_warned_of(tiny: Path) -> None:
    words = ["model.d_model=256", "model.mixer.n_heads=4", "model.mixer.qk_norm=true", "init={type: t5}"]
    (warning,) = plan_recipe(str(tiny), words).warnings
    assert "std 8, near one-hot: qk_norm undoes their std, and init.type=t5 multiplies them by 8" in warning


def test_a_diff_says_which_of_both_is_loud(call: Call, tiny: Path) -> None:
    _, _, err = call("init", "plan", tiny, *WIDE, "--diff", "model.tied_head=true", "--diff", "init.embedding_std=1")
    assert "warning: B: the loss starts at" in err
    assert "warning: A: " not in err


def test_where_nothing_can_learn_it_is_said(tiny: Path) -> None:
    (warning,) = plan_recipe(str(tiny), ["model.tied_head=true", "init.embedding_std=0"]).warnings
    assert "no weight can learn" in warning


@pytest.mark.parametrize("name", shipped_recipes())
def test_a_shipped_recipe_starts_as_it_should(name: str) -> None:
    assert plan_recipe(name).warnings == ()


DEGENERATE = [
    ["init={type: mup, zero_head: true}"],
    ["init={type: completep, zero_head: true}", "model.tied_head=true"],
    ["init.base_std=0"],
    ["init.base_std=0", "init.embedding_std=1", "model.norm=output"],
    ["init.embedding_std=0", "model.norm=post"],
    ["init.embedding_std=0", "model.tied_head=true", "model.mixer.qk_norm=true"],
    ["init={type: megatron, std: 1e-12}"],
    ["init={type: mup, output_multiplier: 1e-300}"],
    ["init.cut=1e-8"],
    ["init.cut=1e-8", "init.compensated=true"],
    ["model.ffn.d_ff=1", "data.seq_len=1"],
    ["model.mixer.window=1", "model.n_layers=1", "model.d_model=2", "model.mixer.n_heads=1"],
]


@pytest.mark.parametrize("words", DEGENERATE, ids=" ".join)
def test_degenerate_scales_are_planned_and_verified(call: Call, tiny: Path, words: list[str]) -> None:
    assert call("init", "plan", tiny, *words)[0] == 0
    code, out, err = call("init", "verify", tiny, *words)
    assert code == 0, out
    assert "Traceback" not in err
    # Where no gradient reaches the stream, none is predicted and none is measured.


@pytest.mark.parametrize("std", ["1e-200", "1e30"])
def test_scales_beyond_float32_are_refused_in_a_sentence(call: Call, tiny: Path, std: str) -> None:
    for verb in ("plan", "verify"):
        code, _, err = call("init", verb, tiny, f"init={{type: megatron, std: {std}}}")
        assert code == 2
        assert "embedding.weight would get the std" in err


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_weights_of_the_recipe_saved_in_sixteen_bits_are_as_planned(tiny: Path, dtype: torch.dtype) -> None:
    """Rounding moves an element at the bound beyond it, by half a unit in the last place; more is found still."""
    words = ["model.d_model=128", "model.mixer.n_heads=4", "model.vocab_size=3000"]
    recipe = load_recipe(str(tiny), words)
    quiet, path = Display(Console(quiet=True)), tiny.with_name("half.safetensors")
    model = build_model(recipe.model, recipe.init, seed=recipe.seed, device=torch.device("cpu"))
    save_file({name: p.detach().to(dtype).contiguous() for name, p in model.named_parameters()}, path)
    assert verify_recipe(recipe, quiet, path).findings == []
    weights = load_file(path)
    name = "layers.0.mixer.q_proj.weight"
    largest = weights[name].abs().max()
    weights[name][0, 0] = largest * (1 + 4 * torch.finfo(dtype).eps)
    save_file(weights, path)
    assert [(found.parameter, found.test) for found in verify_recipe(recipe, quiet, path).findings] == [
        (name, "bounds")
    ]


def test_the_loss_of_a_trained_checkpoint_is_its_cross_entropy(call: Call, tiny: Path) -> None:
    call("train", tiny, *WIDE, "train.steps=6")
    checkpoint = max((tiny.parent / "runs/tiny/checkpoints").iterdir())
    rows = json.loads(call("init", "verify", checkpoint, "--json")[1])["signals"]
    (shown,) = (row["measured"] for row in rows if row["what"] == "loss")
    run = load_run(checkpoint, "cpu", print)
    corpus = open_corpus(run.recipe.data, run.recipe.tokenizer, print)
    batch = open_loader(corpus, run.recipe.data.cut(), BatchPlan(4), run.recipe.seed, steps=1).batch(0)
    with torch.no_grad():
        logits = run.model(batch.tokens).flatten(0, 1)
    expected = torch.nn.functional.cross_entropy(logits, batch.targets.flatten(), ignore_index=IGNORED)
    assert shown == pytest.approx(float(expected), rel=1e-4)
    assert abs(shown - float((logits.logsumexp(-1) - logits.mean(-1)).mean())) > 0.1
    assert shown < math.log(logits.shape[-1])
