"""The memory that `isogloss estimate` foresees, beside what training takes: the most resident memory of real steps.

    python benchmarks/estimate.py --record

Each case is a process of its own, which builds the model, makes two steps, and reads the kernel's high-water mark of its
resident memory (VmHWM) less what was resident before the model was built. One thread, eager, on the CPU.
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
SETTINGS: dict[str, Any] = {"cases": CASES, "schemes": {}}
COMMON = ["train.precision=fp32", "train.device=cpu", "train.compile='off'", "data.within_document=false"]


def recipe_words(case: str) -> list[str]:
    """The overrides of a case."""
    return [*COMMON, *CASES[case]]


def measure(case: str) -> dict[str, float]:
    """Bytes that real steps take, and bytes foreseen; in this process."""
    import torch

    from isogloss.build import build_model
    from isogloss.models.protocol import Batch
    from isogloss.optim.groups import create_optimizer
    from isogloss.run.estimate import estimate_recipe, with_planned_vocabulary
    from isogloss.build import plan_model
    from isogloss.recipe import load_recipe
    from isogloss.train.step import train_step

    recipe = with_planned_vocabulary(load_recipe("stdlib-small", recipe_words(case)))
    foreseen = estimate_recipe(recipe, 1)
    torch.set_num_threads(1)
    tiny = torch.nn.Linear(8, 8)  # the libraries' own memory comes with the first product
    tiny(torch.ones(4, 8)).sum().backward()
    train, data = recipe.train, recipe.data

    def batch(step: int) -> Batch:
        generator = torch.Generator().manual_seed(step)
        shape = (train.batch_size, data.seq_len + 1)
        tokens = torch.randint(recipe.model.vocab_size or 0, shape, generator=generator)
        documents = (torch.arange(data.seq_len) // 100).expand(train.batch_size, -1) if data.within_document else None
        return Batch(tokens[:, :-1], tokens[:, 1:].contiguous(), documents)

    before = _resident("VmRSS")
    planned = plan_model(recipe.model, recipe.init)
    model = build_model(recipe.model, recipe.init, seed=0, device=torch.device("cpu"))
    optimizer = create_optimizer(model, recipe.optim, planned.plan)
    for step in range(3):
        if step == 1:  # from here on all moments are there
            Path("/proc/self/clear_refs").write_text("5")
        train_step(
            model,
            optimizer,
            batch(step),
            micro_batch_size=train.micro_batch_size or train.batch_size,
            clip=recipe.optim.clip,
            precision=train.precision,
        )
    return {"measured": _resident("VmHWM") - before, "foreseen": foreseen.memory.total}


def _resident(field: str) -> float:
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(field))
    return float(line.split()[1]) * 1024


def measure_apart(case: str) -> dict[str, Any]:
    """A case in a process of its own, whose allocator gives freed memory back at once."""
    environment = os.environ | {
        "OMP_NUM_THREADS": "1",
        "MALLOC_MMAP_THRESHOLD_": "65536",
        "MALLOC_TRIM_THRESHOLD_": "0",
    }
    done = subprocess.run(
        [sys.executable, __file__, "--case", case], env=environment, check=True, capture_output=True, text=True
    )
    return {"case": case, **json.loads(done.stdout)}


def table() -> str:
    """Foreseen and measured memory of each case, as Markdown."""
    lines = ["| case | foreseen, MiB | measured, MiB | foreseen / measured |", "|---|---:|---:|---:|"]
    for row in load_record("estimate", SETTINGS):
        foreseen, measured = row["foreseen"] / 2**20, row["measured"] / 2**20
        lines.append(f"| {row['case']} | {foreseen:,.0f} | {measured:,.0f} | {foreseen / measured:.3f} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--case", choices=CASES, help="measure one here, and print JSON")
    parser.add_argument("--record", action="store_true", help="write the record of the docs' table")
    options = parser.parse_args()
    if options.case:
        print(json.dumps(measure(options.case)))
        return
    rows = [measure_apart(case) for case in CASES]
    for row in rows:
        print(
            f"{row['case']:<30} {row['foreseen'] / 2**20:8.0f} MiB foreseen {row['measured'] / 2**20:8.0f} measured"
            f"  {row['foreseen'] / row['measured']:.3f}"
        )
    if options.record:
        save_record("estimate", "python benchmarks/estimate.py --record", SETTINGS, rows)


if __name__ == "__main__":
    main()
