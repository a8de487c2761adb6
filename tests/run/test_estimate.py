"""What a run is estimated to take, beside real steps whose storages are counted."""

import math

import pytest
import torch

from isogloss.build import build_model, plan_model
from isogloss.config.base import UserError
from isogloss.models.protocol import Batch
from isogloss.optim.groups import create_optimizer
from isogloss.recipe import Recipe, load_recipe
from isogloss.run.estimate import estimate_recipe, estimate_rows
from isogloss.run.estimate.activations import LiveBytes
from isogloss.run.estimate.gpus import GPUS, find_gpu
from isogloss.train.step import train_step

COMMON = ["train.precision=fp32", "train.device=cpu", "train.compile='off'", "data.within_document=false"]
LARGE = [
    "model.d_model=4096",
    "model.n_layers=32",
    "model.ffn.d_ff=14336",
    "model.mixer={n_heads: 32, n_kv_heads: 8}",
    "model.vocab_size=128256",
    "data.seq_len=8192",
    "data.within_document=false",
    "train.batch_size=512",
    "train.micro_batch_size=1",
    "train.precision=bf16",
]


def small(*overrides: str) -> Recipe:
    return load_recipe("stdlib-small", [*COMMON, *overrides]).with_planned_vocabulary()


def counted(recipe: Recipe) -> float:
    """The most bytes of storages that lived during a real second step."""
    live = LiveBytes()
    train, data = recipe.train, recipe.data
    with live:
        planned = plan_model(recipe.model, recipe.init)
        live.now = live.most = 0.0  # what the meta device has is no memory
        model = build_model(recipe.model, recipe.init, seed=0, device=torch.device("cpu"))
        optimizer = create_optimizer(model, recipe.optim, planned.plan)
        assert recipe.model.vocab_size is not None
        tokens = torch.randint(recipe.model.vocab_size, (train.batch_size, data.seq_len + 1))
        batch = Batch(tokens[:, :-1], tokens[:, 1:].contiguous())
        for _ in range(2):
            live.most = 0.0
            micro = train.micro_batch_size or train.batch_size
            train_step(model, optimizer, batch, micro_batch_size=micro, clip=1.0, precision=train.precision)
    return live.most


@pytest.mark.parametrize(
    "overrides",
    [
        ["train.batch_size=2", "train.micro_batch_size=1", "train.precision=bf16"],
        ["train.batch_size=2", "model.n_layers=2", "model.vocab_size=20000", "model.tied_head=true"],
        ["train.batch_size=2", "model.norm=sandwich", "model.ffn={type: relu2}", "model.mixer.n_kv_heads=1"],
    ],
)
def test_memory_is_that_of_real_steps(overrides: list[str]) -> None:
    recipe = small(*overrides)
    assert estimate_recipe(recipe, 1).memory.total == pytest.approx(counted(recipe), rel=0.1)


def test_an_8b_model_on_64_gpus() -> None:
    recipe = load_recipe("stdlib-small", LARGE)
    found = estimate_recipe(recipe, 64)
    assert found.n_parameters == 8_030_261_248  # that of Llama 3 8B
    assert found.axes.shard == 64
    weights = 4 * found.n_parameters / 64
    assert found.memory.parts["weights"] == weights
    assert found.memory.parts["optimizer"] == 2 * weights
    assert found.model_bytes == 4 * found.n_parameters
    tokens = 512 * 8192
    by_hand = 6 * (found.n_parameters - 128256 * 4096) + 12 * 32 * 4096 * 8192
    assert found.flops / found.steps / tokens == pytest.approx(by_hand, rel=1e-3)
    assert found.step_seconds(find_gpu("H100"), 0.4) == pytest.approx(by_hand * tokens / (64 * 989e12 * 0.4), rel=1e-3)
    # Gathered for each of 8 micro-batches in bf16, all blocks but the last one twice; reduced once in float32.
    block = (found.n_parameters - 2 * 128256 * 4096 - 4096) / 32
    others = 4 * (found.n_parameters - 32 * block)
    expected = (8 * 2 * (2 * 32 - 1) * block + 8 * others + 4 * found.n_parameters) * 63 / 64
    assert found.traffic == {"shard": pytest.approx(expected)}


def test_units_of_several_blocks_are_gathered_together() -> None:
    """By 10^9 weights 32 blocks are six units, the largest of six, and the embedding is with the rest."""
    large = [*LARGE, "train.recompute=full"]
    alone = estimate_recipe(load_recipe("stdlib-small", large), 64)
    found = estimate_recipe(load_recipe("stdlib-small", [*large, f"parallel.unit={10**9}"]), 64)
    embedding = 128256 * 4096
    matrices = (found.n_parameters - 2 * embedding - 4096) / 32 - 2 * 4096
    assert found.memory.moment == alone.memory.moment == "the last block's backward pass"
    more = found.memory.parts["communication"] - alone.memory.parts["communication"]
    # Of five blocks more: weights thrice and gradients once in bf16, and these again in float32 as they are reduced.
    assert more == pytest.approx(5 * (3 * 2 + 2 + 4) * matrices + 4 * embedding)
    kept = alone.traffic["shard"] - found.traffic["shard"]
    assert kept == pytest.approx(8 * 2 * 5 * matrices * 63 / 64), "for each of 8 micro-batches, those of the last unit"


def test_projections_in_float8_take_half_the_time() -> None:
    plain = estimate_recipe(load_recipe("stdlib-small", LARGE), 64)
    found = estimate_recipe(load_recipe("stdlib-small", [*LARGE, "train.float8=rowwise"]), 64)
    in_blocks = plain.n_parameters - 2 * 128256 * 4096 - 65 * 4096  # all but the embedding, the head and the norms
    assert found.float8_flops == pytest.approx(6 * in_blocks * found.tokens)
    h100, share = GPUS["h100"], 0.4
    saved = plain.step_seconds(h100, share) - found.step_seconds(h100, share)
    assert saved == pytest.approx(0.5 * found.float8_flops / found.steps / (64 * h100.peak * share))
    assert "a step at 40% of 989 (float8 1,978) Tflop/s" in dict(estimate_rows(found, h100, share, 50e9))
    for name, offered in (("a100", "not in float8"), ("l40s", "in float8 with tensorwise scales only")):
        with pytest.raises(UserError, match=f"this kind of GPU multiplies {offered};"):
            found.step_seconds(GPUS[name], share)
    with pytest.raises(UserError, match="up_proj maps 4096 numbers to 14330"):
        estimate_recipe(load_recipe("stdlib-small", [*LARGE, "train.float8=rowwise", "model.ffn.d_ff=14330"]), 64)


def test_each_means_saves_what_it_should() -> None:
    def total(*overrides: str, n_ranks: int = 64) -> float:
        return estimate_recipe(load_recipe("stdlib-small", [*LARGE, *overrides]), n_ranks).memory.total

    plain = total()
    assert total("train.recompute=full") < total("train.recompute=selective") < plain
    assert total("parallel.tensor=8") < plain
    assert total("parallel.context=8") < plain
    assert total("parallel.reshard=never") > plain
    assert total("parallel.replicate=8") > plain
    assert total("train.micro_batch_size=2") > plain
    assert not estimate_recipe(load_recipe("stdlib-small", LARGE), 64).fits(GPUS["4090"])


def test_what_cannot_be_shared_out_is_refused() -> None:
    with pytest.raises(UserError, match="ranks"):
        estimate_recipe(load_recipe("stdlib-small", [*LARGE, "parallel.tensor=7"]), 64)
    with pytest.raises(UserError, match=r"--gpu h1000: .*did you mean h100"):
        find_gpu("h1000")


def test_what_a_person_reads() -> None:
    found = estimate_recipe(load_recipe("stdlib-small", [*LARGE, "train.recompute=full"]), 64)
    rows = dict(estimate_rows(found, GPUS["h100"], 0.4, 50e9))
    assert rows["ranks"] == "shard 64"
    assert rows["fits into 80 GB"].startswith("yes")
    assert rows["a checkpoint's model"] == "32.1 GB"
    parts = sum(float(text.split()[0]) for name, text in rows.items() if name.strip() in found.memory.parts)
    assert math.isclose(parts, found.memory.total / 2**30, abs_tol=0.05)


def test_warm_ups_read_less() -> None:
    settings = ["train.steps=10", "optim.schedule.warmup=2", "train.batch_size=8"]
    whole = estimate_recipe(small(*settings), 1)
    warmed = estimate_recipe(small(*settings, "train.batch_size_warmup=[{until: 4, batch_size: 2}]"), 1)
    assert warmed.tokens / whole.tokens == warmed.flops / whole.flops == (4 * 2 + 6 * 8) / 80
    with pytest.raises(UserError, match="2 while warming up, from step 1 on"):
        estimate_recipe(small(*settings, "train.batch_size_warmup=[{until: 4, batch_size: 2}]"), 4)


STAGES = "train.batch_size=8", "train.batch_size_warmup=[{until: 3, batch_size: 6}]"


def test_every_stage_of_a_warm_up_must_be_shared_out(tiny, call) -> None:
    """By whatever looks at the recipe for so many ranks, before anything is started."""
    for words in (["estimate", tiny, "--gpus", "4"], *(["launch", to, tiny, "--dry-run"] for to in ("local", "slurm"))):
        ranks = {"local": ["--ranks", "4"], "slurm": ["--gpus-per-node", "4"]}.get(str(words[1]), [])
        code, _, error = call(*words, *ranks, *STAGES)
        assert code == 2, words
        assert "train.batch_size (6 while warming up, from step 1 on) is not a multiple of the 4 ranks" in error
        assert call(*words, *ranks, STAGES[0])[0] == 0, "the control: without the stage"


def test_a_stage_that_only_a_rewind_comes_to_is_one_too(tiny) -> None:
    longer = ["train.batch_size=6", "train.batch_size_warmup=[{until: 15, batch_size: 8}]"]
    assert load_recipe(str(tiny), longer).axes(4).shard == 4, "ten steps never leave the stage"
    with pytest.raises(UserError, match=r"train\.batch_size \(6\)"):
        load_recipe(str(tiny), [*longer, "train.spike={}"]).axes(4)


def test_the_shorter_rows_of_a_stage_must_be_shared_out_too(tiny) -> None:
    shared = "parallel.context=2"
    assert load_recipe(str(tiny), [shared]).axes(2).context == 2
    with pytest.raises(UserError, match=r"seq_len \(6 while warming up, from step 1 on\)"):
        load_recipe(str(tiny), [shared, "train.seq_len_warmup=[{until: 4, divisor: 4}]"]).axes(2)
