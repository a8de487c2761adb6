"""Several ranks do what one process does; and each guard against a silent failure is seen to be needed.

Four processes go through everything once, over gloo. They write what they found, and each test looks at its part. All
of `equality.CASES` only where ISOGLOSS_FAULTS is set: the rest are mixtures.
"""

import json
import logging
import os
from collections import Counter
from contextlib import nullcontext
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

import equality
import pytest
import torch
import torch.distributed as dist
from equality import CASES, CONFIG, Case, Found, become, compare, make_layout, train
from rich.console import Console
from torch import nn
from torch.distributed.nn.functional import all_gather
from torch.utils._python_dispatch import TorchDispatchMode

import isogloss.build as build
import isogloss.evaluate.loss as evaluate
import isogloss.parallel.context as context
import isogloss.parallel.fsdp as fsdp
import isogloss.parallel.gradients as gradients
import isogloss.run.train
import ranks
from isogloss.build import materialise, plan_model
from isogloss.config.base import UserError
from isogloss.evaluate.loss import evaluate_batches
from isogloss.init.apply import from_all_ranks
from isogloss.init.fingerprint import fingerprint
from isogloss.init.schemes import LinguaConfig
from isogloss.init.verify import verify_weights
from isogloss.models.protocol import IGNORED
from isogloss.nn.loss import chunk_loss
from isogloss.nn.roles import Role
from isogloss.optim.groups import AdamWConfig, create_optimizer
from isogloss.optim.state import optimizer_tensors
from isogloss.parallel.context import RankBatches
from isogloss.parallel.env import process_group
from isogloss.parallel.loss import VocabularyLoss
from isogloss.parallel.mesh import Layout
from isogloss.parallel.whole import whole_tensors
from isogloss.recipe import load_recipe
from isogloss.run.train import train as train_run
from isogloss.train.display import Display
from isogloss.train.metrics import read_metrics
from isogloss.train.step import StepResult, train_step

MIXTURES = [
    name
    for name, case in CASES.items()
    if (case.model and "full" not in name) or case.parallel.get("offload") or "kept" in name
]
MIXTURES += ["copies x tensor 2x2", "context 4", "FSDP x context 2x2"]
CHOSEN = [name for name in CASES if name not in MIXTURES or "ISOGLOSS_FAULTS" in os.environ]
CPU = torch.device("cpu")
# Two draws of float8's errors, as tests/parallel/test_float8.py bounds one: of logits 0.06 of their deviation, about 1,
# over the root of 90 targets; of gradients 0.15, which adds the square of that to the square of their norm.
FIRST_LOSS_FLOAT8, FIRST_NORM_FLOAT8 = 3 * 2**0.5 * 0.06 / 90**0.5, 0.15**2
FSDP_2, CONTEXT_2, HSDP = CASES["FSDP 2"], CASES["context 2"], CASES["HSDP 2x2"]


# What the ranks do: each function is one of them all, and returns what its test looks at.


def own_counts() -> float:
    """Each rank divides by its own targets, as if all had as many."""
    layout = make_layout(FSDP_2)
    total = layout.sum_over_targets
    layout.sum_over_targets = lambda value: value if value.is_floating_point() and total(value) is None else value * 2
    return _norm_off(train(FSDP_2, layout, 1).steps[0].grad_norm)


def copies_counted_twice() -> float:
    original, gradients._copies = gradients._copies, lambda gradient: 1.0
    try:
        return _norm_off(train(HSDP, make_layout(HSDP), 1).steps[0].grad_norm)
    finally:
        gradients._copies = original


def positions_forgotten() -> float:
    """Each rank of a row takes its first piece to begin the row."""
    layout, original = make_layout(CONTEXT_2), context.positions_of
    context.positions_of = lambda rank, n, length: torch.arange(length // n) + rank * 0
    try:
        split = train(CONTEXT_2, layout, 1).steps[0].loss
    finally:
        context.positions_of = original
    return abs(split - train(Case(1), None, 1).steps[0].loss)


def _norm_off(norm: float) -> float:
    return abs(norm / train(Case(1), None, 1).steps[0].grad_norm - 1)


def gathered_gradients() -> dict[str, float]:
    """Of a gather whose incoming gradient is not contiguous: ours, and PyTorch's older one."""
    layout = make_layout(CONTEXT_2)
    assert layout.context is not None
    model = materialise(plan_model(CONFIG, LinguaConfig()), seed=0, device=CPU, layout=layout)
    ours = model.blocks()[0].mixer.gather
    rank, n = dist.get_rank(), dist.get_world_size()
    weights = torch.randn(1, 2, 4 * n, 6, generator=torch.Generator().manual_seed(0))
    x = torch.randn(1, 2, 4, 6, generator=torch.Generator().manual_seed(rank))
    expected = n * weights[:, :, 4 * rank : 4 * rank + 4]
    found = {}
    for name, gather in (("ours", lambda x: ours(x, 2)), ("older", lambda x: torch.cat(all_gather(x), 2))):
        leaf = x.clone().requires_grad_()
        whole = gather(leaf).permute(3, 2, 0, 1)
        (whole * weights.permute(3, 2, 0, 1)).sum().backward()
        assert leaf.grad is not None
        found[name] = max(from_all_ranks(float((leaf.grad - expected).abs().max())))
    # What the older one gets wrong is a gradient that is not laid out by rows.
    leaf = x[0].clone().requires_grad_()
    torch.stack(all_gather(leaf)).transpose(1, 3).reshape(-1).dot(torch.arange(n * 48.0)).backward()
    assert leaf.grad is not None
    right = n * torch.arange(n * 48.0).reshape(n, 6, 4, 2).transpose(1, 3)[rank]
    found["older, by columns"] = max(from_all_ranks(float((leaf.grad - right).abs().max())))
    return found


def vocabulary_losses() -> float:
    """The largest difference from the loss of whole logits: loss, z-loss and gradient; ranks may have no ids at all."""
    worst = 0.0
    group, rank, n = dist.group.WORLD, dist.get_rank(), dist.get_world_size()
    assert group is not None
    for n_ids, cap, z_loss in ((101, None, 0.0), (101, 2.0, 0.1), (5, 2.0, 0.1)):
        generator = torch.Generator().manual_seed(n_ids)
        logits = 3 * torch.randn(7, n_ids, generator=generator)
        targets = torch.randint(n_ids, (7,), generator=generator)
        targets[2] = IGNORED
        whole = chunk_loss(logits, targets, IGNORED, cap, z_loss)
        share = -(-n_ids // n)
        mine = slice(min(n_ids, rank * share), min(n_ids, rank * share + share))
        part = VocabularyLoss(group, n_ids)(logits[:, mine], targets, IGNORED, cap, z_loss)
        for a, b in zip(part, (whole[0], whole[1], whole[2][:, mine]), strict=True):
            worst = max(worst, float((a - b).abs().max()) if a.numel() else 0.0)
    return max(from_all_ranks(worst))


def poisoned(strategy: str) -> dict[str, Any]:
    """What all ranks say of a step that is not finite on the last rank alone, and whether its weights moved."""
    layout, found = make_layout(CASES[strategy]), {}
    planned = plan_model(CONFIG, LinguaConfig())
    model = materialise(planned, seed=0, device=CPU, layout=layout)
    optimizer = create_optimizer(model, AdamWConfig(), planned.plan)
    before, rows, last = (
        whole_tensors(model, keep=True),
        RankBatches(equality.Rows(), layout),
        dist.get_world_size() - 1,
    )

    def poison(part: int, original: Any) -> Any:
        def kernel(*arguments: Any) -> tuple[torch.Tensor, ...]:
            parts = list(original(*arguments))
            if dist.get_rank() == last:
                parts[part] = parts[part] * float("nan")
            return tuple(parts)

        return kernel

    for name, part in (("loss", 0), ("gradient", 2)):
        with patch.object(model, "loss_kernel", poison(part, model.loss_kernel)):
            result = train_step(
                model, optimizer, rows.batch(0), micro_batch_size=8, clip=1.0, precision="fp32", layout=layout
            )
        found[name] = from_all_ranks(result.nonfinite)
    after = whole_tensors(model, keep=True)
    return found | {"moved": any(not torch.equal(after[key], before[key]) for key in before)}


def poisoned_rows() -> dict[str, Any]:
    return poisoned("FSDP 2")


def poisoned_copies_of_a_loss() -> dict[str, Any]:
    return poisoned("tensor 2")


def transfers() -> dict[str, dict[str, int]]:
    """Collective calls of a step by strategy: how often gradients are reduced, and weights gathered."""
    found = {}
    for name, case in (
        ("at once", FSDP_2),
        ("in four", Case(2, micro_rows=2)),
        ("kept", Case(2, {"reshard": "never"})),
        ("together", Case(2, {"unit": 2**21})),
    ):
        layout = make_layout(case)
        with Calls() as calls:
            train(case, layout, 1)
        found[name] = {
            kind: sum(n for name, n in calls.counts.items() if kind in name) for kind in ("reduce_scatter", "allgather")
        }
    return found


def validated() -> dict[str, Any]:
    """What a checkpoint would hold after a step and a validation, and what if weights were not let go."""
    found = {}
    for name, case in (("in bf16", CASES["FSDP 4, bf16"]), ("kept", Case(2, {"reshard": "never"}))):
        layout, planned = make_layout(replace(case, n_ranks=2)), plan_model(CONFIG, LinguaConfig())
        model = materialise(planned, seed=0, device=CPU, layout=layout, precision="bf16")
        optimizer = create_optimizer(model, AdamWConfig(), planned.plan)
        rows = RankBatches(equality.Rows(), layout)
        options: Any = {"micro_batch_size": 8, "clip": 1.0, "precision": "bf16", "layout": layout}
        train_step(model, optimizer, rows.batch(0), **options)
        before = whole_tensors(model, keep=True)

        def validate() -> None:
            whole = [equality.Rows().batch(1)]
            evaluate_batches(model, whole, precision="bf16", bytes_per_token=None, layout=layout)  # noqa: B023

        validate()
        after = whole_tensors(model, keep=True)
        found[name] = {
            "the same": all(torch.equal(after[key], before[key]) for key in before),
            "weights with moments": len(optimizer_tensors(model, optimizer)) // 3,
            "weights": len(before),
        }
        with patch.object(evaluate, "let_go", lambda model: None):
            validate()
        whole = whole_tensors(model, keep=True)
        found[name]["the same without"] = all(torch.equal(whole[key], before[key]) for key in before)
        try:
            optimizer_tensors(model, optimizer)
        except AssertionError:
            found[name]["refused without"] = True
    return found


def gathered_in_bf16() -> dict[str, bool]:
    """Whether gathering in bf16 gives the steps of gathering in float32, as it is and where gains are rounded too."""

    def steps(gathered: str, rounded: frozenset[Role]) -> list[StepResult]:
        case = Case(2, precision="bf16", micro_rows=4)
        split = lambda model, layout, precision: fsdp.shard_weights(model, layout, gathered)  # noqa: E731
        with patch.object(fsdp, "ROUNDED", rounded), patch.object(build, "shard_weights", split):
            return train(case, make_layout(case), 3).steps

    exact = steps("fp32", fsdp.ROUNDED)
    return {
        "the same": steps("bf16", fsdp.ROUNDED) == exact,
        "with rounded gains": steps("bf16", frozenset(Role)) == exact,
    }


class Calls(TorchDispatchMode):
    """Counts collective calls."""

    def __init__(self) -> None:
        super().__init__()
        self.counts: Counter[str] = Counter()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func.namespace == "c10d":
            self.counts[func.name()] += 1
        return func(*args, **(kwargs or {}))


def duplicated_shards() -> dict[str, Any]:
    """What PyTorch's own initialisation does to split weights, and whether it is seen."""
    planned = plan_model(CONFIG, LinguaConfig())
    model = materialise(planned, seed=equality.SEED, device=CPU, layout=make_layout(FSDP_2))
    ours = fingerprint(model)
    weight = model.blocks()[0].ffn.up_proj.weight
    torch.manual_seed(0)
    rule = planned.plan["layers.0.ffn.up_proj.weight"].rule
    nn.init.normal_(weight.to_local(), std=rule.effective_std)
    theirs = fingerprint(model)
    return {
        "differ": [name for name in ours if ours[name] != theirs[name]],
        "found": [(finding.parameter, finding.test) for finding in verify_weights(model, planned.plan)],
    }


def in_float8() -> dict[str, Any]:
    """The first step's differences from one process, by strategy and scales; and what importing torchao has to say."""
    said: list[str] = []
    listener = logging.Handler()
    listener.emit = lambda record: said.append(record.getMessage())
    for name in ("torchao", "torch.utils._pytree"):
        logging.getLogger(name).addHandler(listener)
    found: dict[str, Any] = {}
    for name, case in (("fsdp", FSDP_2), ("tensor", CASES["tensor 2"])):
        for scaling in ("off", "tensorwise", "rowwise"):
            alone, split = (_float8_step(scaling, layout) for layout in (None, make_layout(case)))
            off = abs(split[1].loss - alone[1].loss), abs(split[1].grad_norm / alone[1].grad_norm - 1)
            found[f"{name} {scaling}"] = (split[0] == alone[0], *off)
    return found | {"said": said}


def _float8_step(scaling: Any, layout: Layout | None) -> tuple[dict[str, str], StepResult]:
    planned = plan_model(CONFIG, LinguaConfig())
    model = materialise(planned, seed=0, device=CPU, layout=layout, precision="bf16", float8=scaling)
    start, optimizer = fingerprint(model), create_optimizer(model, AdamWConfig(), planned.plan)
    rows = equality.Rows() if layout is None else RankBatches(equality.Rows(), layout)
    options: Any = {"micro_batch_size": 8, "clip": 1.0, "precision": "bf16", "layout": layout}
    return start, train_step(model, optimizer, rows.batch(0), **options)


ON_FOUR = (copies_counted_twice, vocabulary_losses)
ON_TWO = (
    own_counts,
    positions_forgotten,
    gathered_gradients,
    vocabulary_losses,
    poisoned_rows,
    poisoned_copies_of_a_loss,
    transfers,
    validated,
    gathered_in_bf16,
    duplicated_shards,
    in_float8,
)
RUN = ("train.steps=6", "optim.schedule.type=constant", "watch.validate_every=4", "checkpoint.every=4")


def whole_run(recipe: str) -> str:
    """A run as the command line begins it, and one that is refused."""
    with open(os.devnull, "w") as nowhere:  # noqa: PTH123
        train_run(load_recipe(recipe, (*RUN, "name=two")), Display(Console(file=nowhere)))
        os.environ["MASTER_PORT"] = str(int(os.environ["MASTER_PORT"]) + 1)
        refused = load_recipe(recipe, (*RUN, "name=refused", "parallel.tensor=4"))
        try:
            with patch.object(
                isogloss.run.train, "first_error", lambda ranks: nullcontext()
            ):  # it would end the other rank's process
                train_run(refused, Display(Console(file=nowhere)))
        except UserError as error:
            return str(error)
    return ""


def work(rank: int, n_ranks: int, target: str, recipe: str) -> None:
    found: dict[str, Any] = {}
    port = int(os.environ["MASTER_PORT"])
    for offset, n, functions in ((0, n_ranks, ON_FOUR), (1, 2, ON_TWO)):
        if rank >= n:
            break
        become(rank, n, port + offset)
        with process_group("cpu"):
            for name in (name for name in CHOSEN if CASES[name].n_ranks == n):
                found[name] = asdict(compare(CASES[name]))
            for function in functions:
                found[f"{function.__name__} {n}"] = function()
    if rank < 2:
        become(rank, 2, port + 2)
        found["run"] = whole_run(recipe)
    if rank == 0:
        Path(target).write_text(json.dumps(found))


@pytest.fixture(scope="module")
def folder(tmp_path_factory, tiny_factory) -> Path:
    folder = tmp_path_factory.mktemp("ranks")
    tiny_factory(folder)
    return folder


@pytest.fixture(scope="module")
def found(folder: Path) -> dict[str, Any]:
    target, recipe = str(folder / "found.json"), str(folder / "tiny.yaml")
    assert ranks.end(ranks.start(work, 4, target, recipe, launched=True), 600) == [0] * 4
    return json.loads((folder / "found.json").read_text())


@pytest.mark.campaign(7, 8)
@pytest.mark.parametrize("name", CHOSEN)
def test_ranks_do_what_one_process_does(found, name: str) -> None:
    case, got = CASES[name], Found(**found[name])
    assert got.same_start, "the initial weights are not bit for bit the same"
    assert got.same_on_all_ranks
    if case.precision == "bf16":
        assert got.first_loss <= equality.FIRST_LOSS_BF16
        assert got.last_loss <= equality.LAST_LOSS_BF16
        return
    assert got.first_loss <= equality.FIRST_LOSS
    assert got.first_norm <= equality.FIRST_NORM
    assert got.last_loss <= equality.LAST_LOSS
    assert got.weights <= equality.WEIGHTS


@pytest.mark.control(8)
def test_counts_of_targets_are_global(found) -> None:
    """The control: with each rank's own count the gradient would be another."""
    assert found["own_counts 2"] > 100 * equality.FIRST_NORM


@pytest.mark.control(8)
def test_parts_that_several_ranks_hold_count_once(found) -> None:
    assert found["copies_counted_twice 4"] > 100 * equality.FIRST_NORM


@pytest.mark.control(8)
def test_masks_follow_the_positions_of_each_rank(found) -> None:
    assert found["positions_forgotten 2"] > 100 * equality.FIRST_LOSS


@pytest.mark.campaign(8)
@pytest.mark.control(8)
def test_gradients_that_are_not_contiguous(found) -> None:
    errors = found["gathered_gradients 2"]
    assert errors["ours"] < 1e-6
    assert errors["older, by columns"] > 1, "PyTorch's older gather is right now; the comment in context.py is not"


@pytest.mark.campaign(8)
@pytest.mark.parametrize("n_ranks", [2, 4])
def test_the_loss_of_a_split_vocabulary(found, n_ranks: int) -> None:
    assert found[f"vocabulary_losses {n_ranks}"] < 1e-5


@pytest.mark.campaign(13)
@pytest.mark.parametrize("what", ["rows", "copies_of_a_loss"])
def test_what_is_not_finite_on_one_rank_is_seen_by_all(found, what: str) -> None:
    got = found[f"poisoned_{what} 2"]
    assert got["loss"] == ["the loss"] * 2
    assert len(set(got["gradient"])) == 1
    assert got["gradient"][0].startswith("the gradient of ")
    assert not got["moved"]


def test_gradients_are_reduced_once_a_step(found) -> None:
    got = found["transfers 2"]
    assert got["in four"]["reduce_scatter"] == got["at once"]["reduce_scatter"] > 0


def test_weights_that_are_kept_are_not_gathered_again(found) -> None:
    got = found["transfers 2"]
    gathers = {name: counts["allgather"] for name, counts in got.items()}
    assert gathers["kept"] < gathers["at once"] < gathers["in four"]


def test_small_blocks_are_gathered_and_reduced_together(found) -> None:
    got = found["transfers 2"]
    n_blocks = CONFIG.n_layers
    # Alone: the blocks, all but the last one twice, the embedding, which its backward pass does not need, and the rest.
    alone = {"allgather": 2 * n_blocks - 1 + 2, "reduce_scatter": n_blocks + 2}
    together = {"allgather": 2, "reduce_scatter": 2}
    for kind in alone:  # each step also gathers what the tests compare
        assert got["at once"][kind] - got["together"][kind] == alone[kind] - together[kind]


@pytest.mark.campaign(4)
@pytest.mark.control(4)
@pytest.mark.parametrize("case", ["in bf16", "kept"])
def test_a_validation_leaves_all_that_a_checkpoint_holds(found, case: str) -> None:
    got = found["validated 2"][case]
    assert got["the same"]
    assert got["weights with moments"] == got["weights"]
    assert not got["the same without"], "weights in bf16 are whole and rounded after a forward pass"
    assert got["refused without"]


@pytest.mark.campaign(8)
@pytest.mark.control(8)
def test_gathering_in_bf16_changes_no_bit(found) -> None:
    """Products round the same weights; the gains of norms, which none does, are gathered as they are."""
    assert found["gathered_in_bf16 2"] == {"the same": True, "with rounded gains": False}


@pytest.mark.control(7)
def test_duplicate_shards_are_seen(found) -> None:
    name, got = "layers.0.ffn.up_proj.weight", found["duplicated_shards 2"]
    assert got["differ"] == [name]
    assert [name, "shards"] in got["found"]


@pytest.mark.parametrize("case", ["fsdp off", "fsdp rowwise", "tensor off"])
def test_scales_of_rows_are_those_of_one_process(found, case: str) -> None:
    """A row is on one rank, whole, so in its forward pass the same bits are rounded."""
    same_start, first_loss, _ = found["in_float8 2"][case]
    assert same_start
    assert first_loss <= equality.FIRST_LOSS_BF16


@pytest.mark.parametrize("case", ["fsdp tensorwise", "tensor tensorwise", "tensor rowwise"])
def test_other_scales_are_near(found, case: str) -> None:
    """Scales are of a rank's own activations and gradients, or a rank's product is rounded before the sum over ranks.

    Each of the two is then off by what float8 makes of it (tests/parallel/test_float8.py).
    """
    same_start, first_loss, first_norm = found["in_float8 2"][case]
    assert same_start
    assert first_loss <= FIRST_LOSS_FLOAT8
    assert first_norm <= FIRST_NORM_FLOAT8


def test_importing_torchao_is_not_heard(found) -> None:
    assert found["in_float8 2"]["said"] == []


def test_a_run_on_two_ranks_is_the_run_of_one(found, folder: Path) -> None:
    """Recorded once, by one rank; and one process goes on with it."""
    recipe, quiet = str(folder / "tiny.yaml"), Display(Console(quiet=True))
    train_run(load_recipe(recipe, (*RUN, "name=one", "train.steps=9")), quiet)
    train_run(load_recipe(recipe, (*RUN, "name=two", "train.steps=9")), quiet)
    one, two = (_losses(folder / "runs" / name) for name in ("one", "two"))
    assert (6, "validation") in two
    two.pop((6, "validation"))  # the end of the two ranks' part
    assert one.keys() == two.keys()
    assert max(abs(one[key] - two[key]) for key in one) < equality.LAST_LOSS
    steps = [json.loads(line)["step"] for line in (folder / "runs/two/metrics.jsonl").read_text().splitlines()]
    assert steps == sorted(steps)
    assert (folder / "runs/two/summary.json").exists()


def _losses(run: Path) -> dict[tuple[int, str], float]:
    return {(r["step"], r["kind"]): r["loss"] for r in read_metrics(run / "metrics.jsonl") if r["kind"] != "sample"}


def test_what_cannot_be_shared_out_is_refused_before_anything_is_built(found, folder: Path) -> None:
    assert "tensor 4 = 4 ranks, but this run has 2" in found["run"]
    assert not (folder / "runs/refused").exists()
