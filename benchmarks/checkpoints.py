"""What saving costs: training without, with saving in between, and with saving beside it, interleaved in one run.

    python benchmarks/checkpoints.py [--d-model N] [--layers N] [--every N] [--rounds N] [--compile]

Each turn is a save and then ``--every`` steps, and ends when the checkpoint is committed. The three kinds take turns;
the cost is what a turn takes beyond the turn without a save of the same round, as a share of that one. Weights and both
moments are saved, 12 bytes a parameter, to ``--folder``, whose disk matters.
"""

import argparse
import shutil
import statistics
import tempfile
import time
from pathlib import Path

import torch

from isogloss.build import materialise, plan_model
from isogloss.checkpoint.asynchronous import Saver
from isogloss.checkpoint.config import CheckpointConfig
from isogloss.init.schemes import LinguaConfig
from isogloss.mixers.attention import AttentionConfig
from isogloss.models.decoder import DecoderConfig
from isogloss.models.protocol import Batch
from isogloss.models.weights import model_tensors
from isogloss.nn.feed_forward import SwiGLUConfig
from isogloss.optim.groups import AdamWConfig, create_optimizer
from isogloss.optim.state import optimizer_tensors
from isogloss.train.machine import processor_name
from isogloss.train.step import train_step

CPU = torch.device("cpu")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--d-model", type=int, default=384)
    parser.add_argument("--layers", type=int, default=6)
    parser.add_argument("--vocab", type=int, default=4096)
    parser.add_argument("--seq-len", type=int, default=256)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--every", type=int, default=20, help="steps between saves")
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--folder", type=Path, help="where to save; the system's temporary folder if not given")
    options = parser.parse_args()
    config = DecoderConfig(
        d_model=options.d_model,
        n_layers=options.layers,
        mixer=AttentionConfig(n_heads=options.d_model // 64),
        ffn=SwiGLUConfig(),
        vocab_size=options.vocab,
    )
    planned = plan_model(config, LinguaConfig())
    model = materialise(planned, seed=0, device=CPU, compiled=options.compile)
    optimizer = create_optimizer(model, AdamWConfig(), planned.plan)
    rows = torch.randint(
        options.vocab, (options.batch, options.seq_len + 1), generator=torch.Generator().manual_seed(0)
    )
    batch = Batch(rows[:, :-1].contiguous(), rows[:, 1:].contiguous(), None)

    def steps(n: int) -> None:
        for _ in range(n):
            train_step(model, optimizer, batch, micro_batch_size=options.batch, clip=1.0, precision="bf16")

    steps(3)
    parts = {"model": model_tensors(model), "optimizer": optimizer_tensors(model, optimizer)}
    size = sum(tensor.nbytes for tensors in parts.values() for tensor in tensors.values())
    root = Path(tempfile.mkdtemp(prefix="checkpoints-", dir=options.folder))
    savers: dict[str, Saver | None] = {
        "no save": None,
        "between steps": Saver(root / "between", CheckpointConfig(asynchronous=False)),
        "beside steps": Saver(root / "beside", CheckpointConfig(asynchronous=True)),
    }
    turns: dict[str, list[float]] = {name: [] for name in savers}
    stops: dict[str, list[float]] = {name: [] for name in savers}
    try:
        for number in range(options.rounds + 1):
            for name, saver in savers.items():
                start = time.perf_counter()
                if saver is not None:
                    saver.save(number, parts, {})
                stopped = time.perf_counter() - start
                steps(options.every)
                if saver is not None:
                    saver.finish()
                if number > 0:  # the first round allots memory
                    turns[name].append(time.perf_counter() - start)
                    stops[name].append(stopped)
    finally:
        shutil.rmtree(root)
    n_parameters = sum(tensor.numel() for tensor in parts["model"].values())
    print(
        f"{processor_name()}, {torch.get_num_threads()} threads; {n_parameters / 1e6:.1f}M parameters, "
        f"checkpoints of {size / 2**20:.0f} MiB, one every {options.every} steps"
    )
    print(f"{'':14} {'ms/step':>8} {'steps stop for, ms':>19} {'cost':>7}   turn by turn")
    for name, seconds in turns.items():
        costs = sorted(100 * (mine / none - 1) for mine, none in zip(seconds, turns["no save"], strict=True))
        print(
            f"{name:14} {1000 * statistics.median(seconds) / options.every:8.1f} "
            f"{1000 * statistics.median(stops[name]):19.0f} {statistics.median(costs):6.1f}%"
            f"   {costs[0]:.1f} to {costs[-1]:.1f}%"
        )


if __name__ == "__main__":
    main()
