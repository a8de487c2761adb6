"""How fast rows are made, beside what the default recipe needs; and a seek to step 10^6 of 10^10 tokens.

python benchmarks/loader.py            rows a second of each way of packing, of a mixture, and of the seek

The corpus is of random documents in a temporary folder; the one of 10^10 tokens is a sparse file, which has no blocks
on the disk. Other programs make the seek seem slow: run it alone. A step of the default
recipe reads 8 rows of 256 tokens in about 0.12 s on two cores: pass its measured time with --step-seconds.
"""

import argparse
import tempfile
import time
from pathlib import Path
from statistics import median

import numpy as np

from isogloss.data.corpus import Packing
from isogloss.data.loader import Loader
from isogloss.data.rows.fitting import make_table
from isogloss.data.rows.mixing import MixedRows, Segment
from isogloss.data.rows.order import Shuffled
from isogloss.data.rows.packing import PackedRows
from isogloss.data.shards import TokenStream
from isogloss.recipe import load_recipe


def mapped(folder: Path, n_tokens: int, mean_length: int, *, sparse: bool) -> TokenStream:
    """A stream of documents of about ``mean_length`` tokens in a mapped file."""
    path = folder / f"{n_tokens}.bin"
    with path.open("wb") as stream:
        if sparse:
            stream.truncate(2 * n_tokens)
        else:
            stream.write(np.random.default_rng(0).integers(0, 2048, n_tokens, np.uint16).tobytes())
    lengths = np.random.default_rng(1).geometric(1 / mean_length, n_tokens // mean_length)
    starts = np.append(0, np.cumsum(lengths))
    starts_path = folder / f"{n_tokens}.starts.npy"
    np.save(starts_path, starts[starts < n_tokens])
    tokens = np.asarray(np.memmap(path, np.uint16, mode="r"))
    return TokenStream([tokens], np.asarray(np.load(starts_path, mmap_mode="r")), "benchmark")


def rows_per_second(loader: Loader, seconds: float = 3.0) -> float:
    """Whole batches made one after the other."""
    loader.batch(0)
    step, begin = 0, time.perf_counter()
    while time.perf_counter() - begin < seconds:
        step += 1
        loader.batch(step)
    return step * loader.plan.batch_size / (time.perf_counter() - begin)


def main() -> None:
    """Print a line for each way, and the seek."""
    recipe = load_recipe()
    size, seq_len = recipe.train.batch_size, recipe.data.seq_len
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--step-seconds", type=float, default=0.115)
    step_seconds = parser.parse_args().step_seconds
    need = size / step_seconds
    print(f"the default recipe reads {need:,.0f} rows of {seq_len} a second")
    with tempfile.TemporaryDirectory() as name:
        stream = mapped(Path(name), 50_000_000, 600, sparse=False)
        sources: dict[str, PackedRows] = {}
        packing: Packing
        for packing in ("concatenate", "best_fit", "document"):
            begin = time.perf_counter()
            table = None if packing == "concatenate" else make_table(stream, packing, seq_len)
            made = time.perf_counter() - begin
            sources[packing] = PackedRows(stream, seq_len, 0, True, table, packing)
            rate = rows_per_second(Loader(sources[packing], size, seed=0))
            share = size / rate / step_seconds
            print(f"{packing:<12} {rate:>10,.0f} rows/s  {rate / need:>6,.0f} times the need  {share:.2%} of a step")
            print(f"{'':<12} table in {made:.2f} s; {sources[packing].waste()}")
        segment = Segment(0, 4096, ("a", "b"), (None, None), ((0, (0.7, 0.3)),))
        mixed = {name: Shuffled(rows, 0, name) for name, rows in zip("ab", list(sources.values())[:2], strict=True)}
        rate = rows_per_second(Loader(MixedRows(mixed, {"a": 1.0, "b": 1.0}, segment), size, seed=0))
        print(f"{'mixture':<12} {rate:>10,.0f} rows/s  {rate / need:>6,.0f} times the need")
        large = mapped(Path(name), 10**10, 100_000, sparse=True)
        for what in ("concatenate", "mixture"):
            taken = []
            for step in range(10**6, 10**6 + 500, 50):  # each time another loader, and pages not read yet
                begin = time.perf_counter()
                rows = PackedRows(large, 1024, 0, True)
                both = {"a": Shuffled(rows, 0, "a"), "b": Shuffled(rows, 0, "b")}
                source = rows if what == "concatenate" else MixedRows(both, {"a": 1.0, "b": 1.0}, segment)
                Loader(source, size, seed=0).batch(step)
                taken.append(1000 * (time.perf_counter() - begin))
            print(
                f"{what:<12} opened at step 10^6 of 10^10 tokens in {median(taken):.1f} ms "
                f"({min(taken):.1f} to {max(taken):.1f})"
            )


if __name__ == "__main__":
    main()
