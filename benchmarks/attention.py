"""Attention kernels for training on this CPU: sdpa and the compiled plain kernel, forward and backward, by row length.

    python benchmarks/attention.py [--rounds N]

The same number of tokens at each length, causal with a dense document mask and without, bfloat16; the two take turns,
medians are shown. This is where ``PLAIN_IS_FASTER_UP_TO`` in mixers/attention.py comes from.
"""

import argparse
import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor

from isogloss.nn.attention import Backend, attend, create_mask

N_TOKENS, N_HEADS, HEAD_DIM = 4096, 6, 64


def measured(backend: Backend, seq_len: int, packed: bool) -> Callable[[], float]:
    """A function that runs one forward and backward pass and gives its seconds."""
    generator = torch.Generator().manual_seed(0)
    shape = (N_TOKENS // seq_len, N_HEADS, seq_len, HEAD_DIM)
    q, k, v = (torch.randn(shape, generator=generator).to(torch.bfloat16).requires_grad_() for _ in range(3))
    positions = torch.arange(seq_len)
    documents = (positions // (seq_len // 3)).expand(shape[0], seq_len) if packed else None
    mask = create_mask(backend, positions, positions, None, documents)

    def forward(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return attend(q, k, v, mask, backend=backend, scale=HEAD_DIM**-0.5, cap=None)

    kernel = torch.compile(forward) if backend == "plain" else forward

    def run() -> float:
        start = time.perf_counter()
        kernel(q, k, v).sum().backward()
        return time.perf_counter() - start

    return run


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    rounds = parser.parse_args().rounds
    print(f"{N_TOKENS} tokens, {N_HEADS} heads of {HEAD_DIM}, {torch.get_num_threads()} threads; milliseconds")
    print(f"{'row':>6} {'documents':>10} {'sdpa':>8} {'plain':>8} {'sdpa/plain':>11}")
    for seq_len in (128, 256, 512, 1024, 2048):
        for packed in (False, True):
            runs = {name: measured(name, seq_len, packed) for name in ("sdpa", "plain")}
            for run in runs.values():
                run()
            seconds = {name: [] for name in runs}
            for _ in range(rounds):
                for name, run in runs.items():
                    seconds[name].append(run())
            sdpa, plain = (1000 * statistics.median(seconds[name]) for name in ("sdpa", "plain"))
            print(
                f"{seq_len:6} {'yes' if packed else 'no':>10} {sdpa:8.1f} {plain:8.1f} {sdpa / plain:11.2f}", flush=True
            )


if __name__ == "__main__":
    main()
