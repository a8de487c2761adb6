"""The same steps on one process and on several: how far losses, gradient norms and weights are apart.

    python benchmarks/equality.py --record

Four processes over gloo go through all strategies, on a decoder with grouped and normed heads, an uneven vocabulary, a
z-loss, documents, and targets of which most rows miss some. Every rank also computes the reference, alone. The record
is what docs/parallel.md shows; tests/parallel holds the same figures to the tolerances below.
"""

import argparse
import json
import os
import socket
import tempfile
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
import torch.multiprocessing as mp
from records import load_record, save_record

from isogloss.build import materialise, plan_model
from isogloss.init.apply import from_all_ranks
from isogloss.init.fingerprint import fingerprint
from isogloss.init.schemes import LinguaConfig
from isogloss.mixers.attention import AttentionConfig
from isogloss.models.decoder import Decoder, DecoderConfig
from isogloss.models.protocol import IGNORED, Batch
from isogloss.nn.feed_forward import SwiGLUConfig
from isogloss.optim.groups import AdamWConfig, create_optimizer, set_learning_rate
from isogloss.parallel.context import RankBatches
from isogloss.parallel.env import process_group
from isogloss.parallel.mesh import Layout, ParallelConfig, find_axes
from isogloss.parallel.whole import whole_tensors
from isogloss.train.step import StepResult, train_step

CONFIG = DecoderConfig(
    d_model=32,
    n_layers=2,
    mixer=AttentionConfig(n_heads=4, n_kv_heads=2, qk_norm=True),
    ffn=SwiGLUConfig(d_ff=48),
    vocab_size=101,
    z_loss=1e-3,
)
PAIR = 12_900
"""Weights of a unit that spreads five such blocks over three units, which each block has not alone."""
ROWS, SEQ_LEN, STEPS, SEED = 8, 16, 4, 1
OPTIM = AdamWConfig(lr=1e-3)
CLIP = 0.5

# Of a loss in nats a target, and of weights in learning rates: Adam makes a step of about that size from any gradient,
# however small, so where a gradient is rounding error alone the weights part by some of it.
FIRST_LOSS, FIRST_NORM, LAST_LOSS, WEIGHTS = 1e-6, 1e-6, 2e-6, 0.05
FIRST_LOSS_BF16, LAST_LOSS_BF16 = 2e-3, 5e-3


@dataclass(frozen=True)
class Case:
    """A strategy, on so many ranks; ``micro_rows`` of the batch of all ranks go at a time.

    Each block is a unit of FSDP2 if nothing else is said.
    """

    n_ranks: int
    parallel: dict[str, Any] = field(default_factory=dict)
    precision: str = "fp32"
    recompute: str = "none"
    micro_rows: int = ROWS
    model: dict[str, Any] = field(default_factory=dict)
    moments: str = "fp32"


CASES = {
    "FSDP 2": Case(2),
    "FSDP 4": Case(4),
    "copies (DDP) 2": Case(2, {"replicate": 2}),
    "HSDP 2x2": Case(4, {"replicate": 2}),
    "tensor 2": Case(2, {"tensor": 2}),
    "context 2": Case(2, {"context": 2}),
    "FSDP x tensor 2x2": Case(4, {"tensor": 2}),
    "FSDP x context 2x2": Case(4, {"context": 2, "shard": 2}),
    "context x tensor 2x2": Case(4, {"context": 2, "tensor": 2}),
    "copies x tensor 2x2": Case(4, {"replicate": 2, "tensor": 2}),
    "context 4": Case(4, {"context": 4}),
    "FSDP 4, two micro-batches": Case(4, micro_rows=4),
    "FSDP x tensor 2x2, four micro-batches": Case(4, {"tensor": 2}, micro_rows=2),
    "FSDP 4, weights kept gathered": Case(4, {"reshard": "never"}),
    "FSDP 4, all blocks one unit": Case(4, {"unit": 2**21}),
    "FSDP 4, blocks by twos": Case(4, {"unit": PAIR}, model={"n_layers": 5}),
    "FSDP 4, blocks by twos, recompute full": Case(4, {"unit": PAIR}, recompute="full", model={"n_layers": 5}),
    "FSDP x tensor 2x2, blocks by twos, four micro-batches": Case(
        4, {"unit": PAIR // 2, "tensor": 2}, recompute="selective", micro_rows=2, model={"n_layers": 5}
    ),
    "FSDP 4, offloaded": Case(4, {"offload": True}),
    "FSDP 4, recompute full": Case(4, recompute="full"),
    "FSDP x tensor 2x2, recompute selective": Case(4, {"tensor": 2}, recompute="selective"),
    "context 4, recompute selective": Case(4, {"context": 4}, recompute="selective"),
    "FSDP x tensor 2x2, tied head": Case(4, {"tensor": 2}, model={"tied_head": True}),
    "FSDP x tensor 2x2, norms around branches": Case(4, {"tensor": 2}, model={"norm": "sandwich"}),
    "context x tensor 2x2, soft caps": Case(
        4,
        {"context": 2, "tensor": 2},
        model={"logit_softcap": 5.0, "mixer": CONFIG.mixer.model_copy(update={"softcap": 5.0, "window": 5})},
    ),
    "FSDP 4, bf16": Case(4, precision="bf16"),
    "FSDP 4, bf16, norms after additions": Case(4, precision="bf16", model={"norm": "post"}),
    "FSDP 4, bf16, reduced in bf16": Case(4, {"reduce": "bf16"}, precision="bf16"),
    "FSDP x tensor 2x2, bf16": Case(4, {"tensor": 2}, precision="bf16"),
    "FSDP 4, moments in bf16": Case(4, moments="bf16"),
}


@dataclass(frozen=True)
class Found:
    """Differences from one process: losses in nats a target, the norm's relative, the weights' in learning rates."""

    same_start: bool
    same_on_all_ranks: bool
    first_loss: float
    first_norm: float
    last_loss: float
    weights: float


class Rows:
    """Random tokens by step: documents of uneven length, and targets missing in some rows, unequally."""

    def batch(self, step: int, rank: int = 0, world_size: int = 1) -> Batch:
        """One of ``world_size`` equal shares."""
        generator = torch.Generator().manual_seed(step)
        tokens = torch.randint(CONFIG.vocab_size or 0, (ROWS, SEQ_LEN + 1), generator=generator)
        targets = tokens[:, 1:].clone()
        targets[:3, 5:], targets[4, :7] = IGNORED, IGNORED
        documents = (torch.rand(ROWS, SEQ_LEN, generator=generator) < 0.2).long().cumsum(1)
        documents -= documents[:, :1].clone()
        mine = slice(rank * ROWS // world_size, (rank + 1) * ROWS // world_size)
        return Batch(tokens[mine, :-1].contiguous(), targets[mine], documents[mine])


@dataclass(frozen=True)
class Trained:
    """What some steps gave: of the initial weights, of each step, and the weights, whole."""

    start: dict[str, str]
    steps: list[StepResult]
    model: Decoder


def train(case: Case, layout: Layout | None, n_steps: int = STEPS, device: str = "cpu") -> Trained:
    """Take the steps, on the ranks of a layout or alone."""
    config = CONFIG.model_copy(update=case.model)
    planned = plan_model(config, LinguaConfig())
    model = materialise(
        planned,
        seed=SEED,
        device=torch.device(device),
        recompute=case.recompute if layout else "none",  # pyright: ignore[reportArgumentType]
        layout=layout,
        precision=case.precision,
    )
    start = fingerprint(model)
    optim = OPTIM.model_copy(update={"moments": case.moments})
    optimizer = create_optimizer(model, optim, planned.plan)
    set_learning_rate(optimizer, optim.lr)
    rows = Rows() if layout is None else RankBatches(Rows(), layout)
    micro = case.micro_rows // (layout.axes.data if layout else 1)
    steps = [
        train_step(
            model,
            optimizer,
            rows.batch(step),
            micro_batch_size=micro,
            clip=CLIP,
            precision=case.precision,
            layout=layout,
        )
        for step in range(n_steps)
    ]
    return Trained(start, steps, model)


def compare(case: Case, device: str = "cpu") -> Found:
    """A case beside one process; called by all its ranks."""
    layout = make_layout(case, device)
    split = train(case, layout, device=device)
    alone_start, alone, weights = _alone(case, device)
    mine = whole_tensors(split.model, keep=True)
    first, last = (abs(split.steps[i].loss - alone[i].loss) for i in (0, -1))
    return Found(
        same_start=split.start == alone_start,
        same_on_all_ranks=all(steps == split.steps for steps in from_all_ranks(split.steps))
        and [step.n_targets for step in split.steps] == [step.n_targets for step in alone],
        first_loss=first,
        first_norm=abs(split.steps[0].grad_norm / alone[0].grad_norm - 1),
        last_loss=last,
        weights=max(float((mine[name] - weights[name]).abs().max()) for name in weights) / OPTIM.lr,
    )


def make_layout(case: Case, device: str = "cpu") -> Layout:
    """The layout of a case on the ranks there are."""
    config = ParallelConfig.model_validate({"unit": 1} | case.parallel)
    return Layout(find_axes(config, case.n_ranks), config, device)


Alone = tuple[dict[str, str], list[StepResult], dict[str, torch.Tensor]]
_KNOWN: dict[str, Alone] = {}


def _alone(case: Case, device: str) -> Alone:
    """What one process gives: its start, steps and weights."""
    key = f"{device} {replace(case, n_ranks=1, parallel={}, recompute='none')!r}"
    if key not in _KNOWN:
        trained = train(case, None, device=device)
        _KNOWN[key] = trained.start, trained.steps, whole_tensors(trained.model, keep=True)
    return _KNOWN[key]


def spawn(worker: Any, n_ranks: int, *arguments: Any) -> None:
    """Run ``worker(rank, port, *arguments)`` in so many processes."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    context = mp.spawn(  # pyright: ignore[reportPrivateImportUsage]
        worker, (port, *arguments), nprocs=n_ranks, join=False
    )
    assert context is not None
    while not context.join():
        pass


def become(rank: int, n_ranks: int, port: int) -> None:
    """Take the variables that a launcher would have set."""
    names = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": n_ranks, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    os.environ.update({name: str(value) for name, value in names.items()})


def run_cases(rank: int, port: int, names: list[str], target: str) -> None:
    """A rank of all cases: those on four ranks, then those on two; rank 0 writes what it found as JSON."""
    torch.set_num_threads(1)
    found = {}
    for offset, n_ranks in enumerate((4, 2)):
        chosen = [name for name in names if CASES[name].n_ranks == n_ranks]
        if rank < n_ranks and chosen:
            become(rank, n_ranks, port + offset)
            with process_group("cpu"):
                for name in chosen:
                    found[name] = asdict(compare(CASES[name]))
    if rank == 0:
        Path(target).write_text(json.dumps(found))
    os._exit(0)  # gloo's threads may abort an ordinary exit


def find(names: list[str] | None = None) -> dict[str, Found]:
    """What each case gives, on processes of its own."""
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder) / "found.json"
        spawn(run_cases, 4, list(CASES) if names is None else names, str(target))
        return {name: Found(**values) for name, values in json.loads(target.read_text()).items()}


SETTINGS = {
    "schemes": {"lingua": {"type": "lingua"}},
    "cases": {name: repr(case) for name, case in CASES.items()},
    "model": CONFIG.model_dump(mode="json"),
    "steps": STEPS,
}


def table() -> str:
    """The differences, for the docs."""
    rows = load_record("equality", SETTINGS)
    heading = ["strategy", "ranks", "first loss", "first gradient norm", f"loss after {STEPS} steps", "weights"]
    lines = ["| " + " | ".join(heading) + " |", "|" + " --- |" * len(heading)]
    for row in rows:
        cells = [f"{row[key]:.0e}" for key in ("first_loss", "first_norm", "last_loss")]
        cells = [row["name"], str(CASES[row["name"]].n_ranks), *cells, f"{row['weights']:.3f}"]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> None:
    """Print what was found, and keep it if asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--record", action="store_true", help="keep it for the docs' table")
    record = parser.parse_args().record
    found = find()
    for name, values in found.items():
        print(f"{name:<42}", values)
    if record:
        rows = [{"name": name, **asdict(found[name])} for name in CASES]
        save_record("equality", "python benchmarks/equality.py --record", SETTINGS, rows)


if __name__ == "__main__":
    main()
