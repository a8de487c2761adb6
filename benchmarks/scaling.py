"""Tokens a second of two ranks with one thread each, beside one process with two threads: the same steps in turns.

    python benchmarks/scaling.py [--turns 4] [--steps 12] [--record]

Both sides train the shapes of the shipped recipes on random tokens: the ranks as FSDP2, copies, context or tensor.
Each side is a launch of its own that stays; a turn is so many steps of one side while the other waits, and
the sides take turns so that a busy machine is busy for both.
"""

import argparse
import os
import statistics
import subprocess
import sys
import time
from typing import Any

import torch
from records import load_record, save_record

from isogloss.build import materialise, plan_model
from isogloss.init.schemes import LinguaConfig
from isogloss.models.protocol import Batch
from isogloss.optim.groups import AdamWConfig, create_optimizer, set_learning_rate
from isogloss.parallel.context import RankBatches
from isogloss.parallel.env import process_group
from isogloss.parallel.mesh import Layout, ParallelConfig, find_axes
from isogloss.recipe import load_recipe
from isogloss.train.machine import find_machine
from isogloss.train.step import train_step

STRATEGIES: dict[str, dict[str, Any]] = {
    "FSDP2": {},
    "FSDP2, weights kept gathered": {"reshard": "never"},
    "copies": {"replicate": 2},
    "context": {"context": 2},
    "tensor": {"tensor": 2},
}
BAR = 0.9


class RandomRows:
    """Rows of random tokens."""

    def __init__(self, n_rows: int, seq_len: int, n_ids: int) -> None:
        self._shape, self._n_ids = (n_rows, seq_len + 1), n_ids

    def batch(self, step: int, rank: int = 0, world_size: int = 1) -> Batch:
        """One of ``world_size`` equal shares."""
        tokens = torch.randint(self._n_ids, self._shape, generator=torch.Generator().manual_seed(step))
        tokens = tokens.chunk(world_size)[rank]
        return Batch(tokens[:, :-1].contiguous(), tokens[:, 1:].contiguous())


def side(recipe_name: str, strategy: str, threads: int, overrides: list[str]) -> None:
    """One side, as a process or as ranks: for each number read, take so many steps; rank 0 answers with the seconds."""
    torch.set_num_threads(threads)
    recipe = load_recipe(recipe_name, overrides).with_vocabulary(2048)
    with process_group("cpu") as ranks:
        many = ranks.world_size > 1
        config = ParallelConfig(**STRATEGIES[strategy]) if many else ParallelConfig()
        layout = Layout(find_axes(config, ranks.world_size), config, "cpu") if many else None
        machine = find_machine(recipe.train, 0.0)
        planned = plan_model(recipe.model, LinguaConfig())
        model = materialise(
            planned,
            seed=0,
            device=torch.device("cpu"),
            compiled=machine.compiled,
            layout=layout,
            precision=machine.precision,
        )
        optimizer = create_optimizer(model, AdamWConfig(), planned.plan)
        set_learning_rate(optimizer, 1e-4)
        rows = RandomRows(recipe.train.batch_size, recipe.data.seq_len, 2048)
        batches = rows if layout is None else RankBatches(rows, layout)
        step = 0
        while (n_steps := _order(ranks.first, many)) > 0:
            start = time.perf_counter()
            for _ in range(n_steps):
                train_step(
                    model,
                    optimizer,
                    batches.batch(step),
                    micro_batch_size=recipe.train.batch_size,
                    clip=1.0,
                    precision=machine.precision,
                    layout=layout,
                )
                step += 1
            if ranks.first:
                print(f"took {time.perf_counter() - start}", flush=True)


def _order(first: bool, many: bool) -> int:
    """How many steps to take next; rank 0 reads it and tells the others."""
    steps = torch.tensor(int(sys.stdin.readline() or 0) if first else 0)
    if many:
        torch.distributed.broadcast(steps, 0)
    return int(steps)


class Side:
    """A side's processes, waiting for orders."""

    def __init__(self, recipe: str, strategy: str, n_ranks: int, overrides: list[str], port: int) -> None:
        threads = 2 // n_ranks
        command = [sys.executable, __file__, "--side", recipe, strategy, str(threads), *overrides]
        self._processes = []
        for rank in range(n_ranks):
            names = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": n_ranks, "MASTER_PORT": port}
            environment = os.environ | {"MASTER_ADDR": "127.0.0.1", "OMP_NUM_THREADS": str(threads)}
            environment |= {name: str(value) for name, value in names.items()}
            self._processes.append(
                subprocess.Popen(command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
            )

    def take(self, n_steps: int) -> float:
        """Seconds of so many steps."""
        first = self._processes[0]
        assert first.stdin is not None
        assert first.stdout is not None
        first.stdin.write(f"{n_steps}\n")
        first.stdin.flush()
        if n_steps == 0:
            for process in self._processes:
                process.wait(60)
            return 0.0
        for line in first.stdout:
            if line.startswith("took "):
                return float(line.removeprefix("took "))
        raise RuntimeError("a side has ended; its error stands above")


SETTINGS = {
    "schemes": {"lingua": {"type": "lingua"}},
    "strategies": STRATEGIES,
    "recipes": ["stdlib-small", "stdlib-hour"],
}


def table() -> str:
    """Ratios for the docs."""
    lines = [
        "| recipe's shape | strategy | 2 ranks x 1 thread over 1 x 2 | turn by turn |",
        "| --- | --- | --- | --- |",
    ]
    for row in load_record("scaling", SETTINGS):
        spread = f"{min(row['ratios']):.2f} to {max(row['ratios']):.2f}"
        ratio = statistics.median(row["ratios"])
        lines.append(f"| `{row['recipe']}` | {row['strategy']} | {ratio:.2f} | {spread} |")
    return "\n".join(lines)


def measure(recipe: str, strategy: str, turns: int, steps: int, overrides: list[str]) -> list[float]:
    """Ratios of tokens a second, ranks over one process, turn by turn."""
    port = 29_600 + os.getpid() % 300
    ranks, alone = (Side(recipe, strategy, n, overrides, port) for n in (2, 1))
    for each in (ranks, alone):
        each.take(3)  # compiling, caches
    ratios = []
    for turn in range(turns):
        order = (ranks, alone) if turn % 2 else (alone, ranks)
        seconds = {each: each.take(steps) for each in order}
        ratios.append(seconds[alone] / seconds[ranks])
    for each in (ranks, alone):
        each.take(0)
    return ratios


def main() -> None:
    """Print the ratios, and keep them if asked."""
    if sys.argv[1:2] == ["--side"]:
        recipe, strategy, threads, *overrides = sys.argv[2:]
        side(recipe, strategy, int(threads), overrides)
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--turns", type=int, default=4)
    parser.add_argument("--steps", type=int, default=12, help="of a turn")
    parser.add_argument("--recipe", action="append", help="whose shape; both shipped ones if not given")
    parser.add_argument("--strategy", action="append", choices=STRATEGIES, help="all if not given")
    parser.add_argument("--record", action="store_true", help="keep them for the docs' table")
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="of the recipe, such as train.compile=off")
    given = parser.parse_args()
    rows = []
    for recipe in given.recipe or SETTINGS["recipes"]:
        for strategy in given.strategy or STRATEGIES:
            ratios = measure(recipe, strategy, given.turns, given.steps, given.overrides)
            median = statistics.median(ratios)
            verdict = "" if median >= BAR else f"  below {BAR}"
            print(f"{recipe:<14} {strategy:<30} {median:.3f}  {[round(r, 3) for r in ratios]}{verdict}", flush=True)
            rows.append({"recipe": recipe, "strategy": strategy, "ratios": ratios})
    if given.record:
        save_record("scaling", "python benchmarks/scaling.py --record", SETTINGS, rows)


if __name__ == "__main__":
    main()
