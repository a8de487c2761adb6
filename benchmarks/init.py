"""Time and memory of initialising a decoder, beside PyTorch's initialisers on the same tensors, in turns.

    python benchmarks/init.py [--parameters N] [--turns N]

The bars: at most a third of ``trunc_normal_``'s time, and a shard costs its own bytes and at most 256 MB. Memory is
read from /proc, so Linux is needed. A billion parameters take 4 GB and some minutes.
"""

import argparse
import multiprocessing
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import Shard, empty
from torch.testing._internal.distributed.fake_pg import FakeStore

from isogloss.build import plan_model
from isogloss.init.apply import fill, initialise
from isogloss.init.fingerprint import fingerprint
from isogloss.init.plan import Entry
from isogloss.init.rules import Normal
from isogloss.init.schemes import LinguaConfig
from isogloss.models.decoder import Decoder, DecoderConfig
from isogloss.nn.roles import Role, Site, declared_tensors

SHARDS, ROWS = 64, 2**15


def make(n_parameters: int) -> tuple[Decoder, dict[str, Entry], int]:
    """A Llama-like decoder of width 2,048 and about that many parameters, in memory; its plan; and their number."""

    def planned(n_layers: int):
        config = {"d_model": 2048, "n_layers": n_layers, "vocab_size": 32_000, "mixer": {"head_dim": 128}}
        return plan_model(DecoderConfig.model_validate(config), LinguaConfig())

    one, two = (sum(p.numel() for p in planned(n).model.parameters()) for n in (1, 2))
    found = planned(1 + max(0, round((n_parameters - one) / (two - one))))
    found.model.to_empty(device="cpu")
    for _, tensor in declared_tensors(found.model):
        tensor.data.zero_()  # the system gives memory when it is first written to: not what is timed
    return found.model, found.plan, sum(p.numel() for p in found.model.parameters())


@torch.no_grad()
def with_torch(model: nn.Module, plan: dict[str, Entry], draw: Callable[[Tensor, Normal], object]) -> None:
    """What a program without a plan does: each matrix by PyTorch's generator, each gain by ``fill_``."""
    for site, tensor in declared_tensors(model):
        match plan[site.name].rule:
            case Normal() as rule:
                draw(tensor, rule)
            case rule:
                tensor.fill_(rule.bound)


def measured(work: Callable[[], object]) -> tuple[float, int]:
    """Seconds, and bytes of memory at its peak beyond what was held before."""
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
    before, start = _memory("VmRSS"), time.perf_counter()
    work()
    return time.perf_counter() - start, _memory("VmHWM") - before


def _memory(what: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith(what))


def measure_shard() -> tuple[int, float, int]:
    """Fill one of 64 shards of a parameter of 2^30 elements: its bytes, seconds and all memory that it takes."""
    dist.init_process_group("fake", rank=SHARDS // 2 + 5, world_size=SHARDS, store=FakeStore())
    mesh = init_device_mesh("cpu", (SHARDS,))
    entry = Entry(Site("weight", Role.FFN_UP, (ROWS, ROWS), ROWS, ROWS, None, 1), Normal(0.02, "0.02"))
    torch.empty(1).erfinv_()  # libraries that are loaded on first use are not the shard's
    held: list[Tensor] = []

    def work() -> None:
        tensor = empty(ROWS, ROWS, device_mesh=mesh, placements=[Shard(0)])
        fill(tensor, entry, seed=0)
        held.append(tensor.to_local())

    seconds, extra = measured(work)
    return held[0].nbytes, seconds, extra


def main() -> None:
    """Print the table and the shard's line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parameters", type=int, default=10**9, help="about how many; 180 million at least")
    parser.add_argument("--turns", type=int, default=3)
    arguments = parser.parse_args()
    own, seconds, extra = multiprocessing.get_context("spawn").Pool(1).apply(measure_shard)
    print(f"a shard of {own / 2**20:.0f} MiB, one of {SHARDS}: {seconds:.2f} s, {extra / 2**20:.0f} MiB with its own")
    model, plan, n = make(arguments.parameters)
    print(f"{n / 1e9:.2f} billion parameters in float32, {torch.get_num_threads()} threads, {arguments.turns} turns")
    works = {
        "isogloss": lambda: initialise(model, plan, seed=0),
        "trunc_normal_": lambda: with_torch(
            model, plan, lambda t, r: nn.init.trunc_normal_(t, std=r.std, a=-3 * r.std, b=3 * r.std)
        ),
        "normal_": lambda: with_torch(model, plan, lambda t, r: nn.init.normal_(t, std=r.std)),
        "fingerprint": lambda: fingerprint(model),
    }
    found: dict[str, list[tuple[float, int]]] = {name: [] for name in works}
    for turn in range(arguments.turns):
        names = list(works)
        for name in names[turn % len(names) :] + names[: turn % len(names)]:
            found[name].append(measured(works[name]))
    print("| | seconds | ns a value | isogloss over it, turn by turn | memory beyond the parameters |")
    print("|---|---|---|---|---|")
    for name, turns in found.items():
        ratios = [ours[0] / theirs[0] for ours, theirs in zip(found["isogloss"], turns, strict=True)]
        median = statistics.median(seconds for seconds, _ in turns)
        extra = max(extra for _, extra in turns) / 2**20
        span = f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"
        print(f"| {name} | {median:.1f} | {median / n * 1e9:.1f} | {span} | {extra:.0f} MiB |")


if __name__ == "__main__":
    main()
