"""The memory that `isogloss estimate` foresees, beside what training takes: the most resident memory of real steps.

    python benchmarks/estimate.py --record

Each case is a process of its own, or two under FSDP2 over gloo, which builds the model, makes three steps, and reads
the kernel's high-water mark of its resident memory (VmHWM) in the last two, less what was resident before the model was
built. One thread, eager, on the CPU.
"""

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from records import load_record, save_record

CASES: dict[str, list[str]] = {
    "wide, float32": ["model.d_model=512", "model.n_layers=4", "train.batch_size=8"],
    "wide, bf16": ["model.d_model=512", "model.n_layers=4", "train.batch_size=8", "train.precision=bf16"],
    "deep, long rows": ["model.d_model=256", "model.n_layers=12", "data.seq_len=1024", "train.batch_size=4"],
    "large vocabulary": ["model.d_model=384", "model.n_layers=2", "model.vocab_size=50304", "train.batch_size=4"],
    "accumulated": ["model.d_model=512", "model.n_layers=6", "train.batch_size=8", "train.micro_batch_size=2"],
    "grouped, plain ffn, sandwich": [
        "model.d_model=512",
        "model.n_layers=4",
        "model.mixer.n_kv_heads=2",
        "model.ffn={type: gelu}",
        "model.norm=sandwich",
        "train.batch_size=8",
    ],
    "documents apart": ["model.d_model=256", "model.n_layers=6", "data.within_document=true", "train.batch_size=16"],
}
SHARDED: dict[str, list[str]] = {
    "2 ranks, float32": ["model.d_model=512", "model.n_layers=6", "train.batch_size=8"],
    "2 ranks, bf16, accumulated": [
        "model.d_model=512",
        "model.n_layers=6",
        "train.batch_size=16",
        "train.micro_batch_size=4",
        "train.precision=bf16",
    ],
    "2 ranks, recomputed": ["model.d_model=512", "model.n_layers=6", "train.batch_size=16", "train.recompute=full"],
    "2 ranks, blocks in one unit": [
        "model.d_model=512",
        "model.n_layers=6",
        "train.batch_size=8",
        "parallel.unit=30000000",
    ],
    "2 ranks, never resharded": [
        "model.d_model=512",
        "model.n_layers=6",
        "train.batch_size=8",
        "parallel.reshard=never",
    ],
}
SETTINGS: dict[str, Any] = {"cases": CASES | SHARDED, "schemes": {}}
COMMON = ["train.precision=fp32", "train.device=cpu", "train.compile='off'", "data.within_document=false"]


def recipe_words(case: str) -> list[str]:
    """The overrides of a case."""
    return [*COMMON, *(CASES | SHARDED)[case]]


def measure(case: str) -> dict[str, float]:
    """Bytes that real steps take, and bytes foreseen; in this process."""
    import torch

    from isogloss.build import materialise, plan_model
    from isogloss.models.protocol import Batch
    from isogloss.optim.groups import create_optimizer
    from isogloss.parallel.env import process_group
    from isogloss.parallel.mesh import Layout, find_axes
    from isogloss.recipe import load_recipe
    from isogloss.run.estimate import estimate_recipe
    from isogloss.train.step import train_step

    recipe = load_recipe("stdlib-small", recipe_words(case)).with_planned_vocabulary()
    n_ranks = 2 if case in SHARDED else 1
    foreseen = estimate_recipe(recipe, n_ranks)
    torch.set_num_threads(1)
    tiny = torch.nn.Linear(8, 8)  # the libraries' own memory comes with the first product
    tiny(torch.ones(4, 8)).sum().backward()
    train, data = recipe.train, recipe.data

    def batch(step: int) -> Batch:
        generator = torch.Generator().manual_seed(step)
        shape = (train.batch_size // n_ranks, data.seq_len + 1)
        tokens = torch.randint(recipe.model.vocab_size or 0, shape, generator=generator)
        documents = (torch.arange(data.seq_len) // 100).expand(shape[0], -1) if data.cut().within_document else None
        return Batch(tokens[:, :-1], tokens[:, 1:].contiguous(), documents)

    with process_group("cpu") as ranks:
        layout = Layout(find_axes(recipe.parallel, n_ranks), recipe.parallel, "cpu") if n_ranks > 1 else None
        before = _resident("VmRSS")
        planned = plan_model(recipe.model, recipe.init)
        model = materialise(
            planned,
            seed=0,
            device=torch.device("cpu"),
            recompute=train.recompute,
            layout=layout,
            precision=train.precision,
        )
        optimizer = create_optimizer(model, recipe.optim, planned.plan)
        for step in range(3):
            if step == 1:  # from here on all moments are there
                Path("/proc/self/clear_refs").write_text("5")
            train_step(
                model,
                optimizer,
                batch(step + 10 * ranks.rank),
                micro_batch_size=train.micro_batch_size or train.batch_size,
                clip=recipe.optim.clip,
                precision=train.precision,
                layout=layout,
            )
        return {"measured": _resident("VmHWM") - before, "foreseen": foreseen.memory.total}


def _resident(field: str) -> float:
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(field))
    return float(line.split()[1]) * 1024


def measure_apart(case: str) -> dict[str, Any]:
    """A case in processes of its own, whose allocator gives freed memory back at once; what the first of them says."""
    quiet = {"OMP_NUM_THREADS": "1", "MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "0"}
    started = []
    for rank in range(2 if case in SHARDED else 1):
        there = {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2", "MASTER_ADDR": "localhost"}
        there = there | {"MASTER_PORT": str(20_000 + os.getpid() % 10_000)} if case in SHARDED else {}
        command = [sys.executable, __file__, "--case", case]
        started.append(subprocess.Popen(command, env=os.environ | quiet | there, stdout=subprocess.PIPE, text=True))
    said = [process.communicate()[0] for process in started]
    return {"case": case, **json.loads(said[0])}


def table() -> str:
    """Foreseen and measured memory of each case, as Markdown."""
    lines = ["| case | foreseen, MiB | measured, MiB | foreseen / measured |", "|---|---|---|---|"]
    for row in load_record("estimate", SETTINGS):
        foreseen, measured = row["foreseen"] / 2**20, row["measured"] / 2**20
        lines.append(f"| {row['case']} | {foreseen:,.0f} | {measured:,.0f} | {foreseen / measured:.3f} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--case", choices=CASES | SHARDED, help="measure one here, and print JSON")
    parser.add_argument("--record", action="store_true", help="write the record of the docs' table")
    options = parser.parse_args()
    if options.case:
        print(json.dumps(measure(options.case)))
        return
    rows = [measure_apart(case) for case in CASES | SHARDED]
    for row in rows:
        print(
            f"{row['case']:<30} {row['foreseen'] / 2**20:8.0f} MiB foreseen {row['measured'] / 2**20:8.0f} measured"
            f"  {row['foreseen'] / row['measured']:.3f}"
        )
    if options.record:
        save_record("estimate", "python benchmarks/estimate.py --record", SETTINGS, rows)


if __name__ == "__main__":
    main()
