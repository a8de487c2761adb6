"""Preparing a corpus against a plain loop over the same tokenizer, and how memory grows with the input.

The input is real text, the sources of the standard library and of the installed packages, cut anew in each pass so that
no two documents are equal, in JSON lines. The plain loop is what one would write without a library: read the lines,
``tokenizer.encode`` each text, append the ids to a file; one process, no shuffle, no deduplication, no split. Ours is
``isogloss data prepare`` with its defaults, all of it: hashing the input, both passes, checksums. They take turns; the
peak is the sum over all processes of what is resident (RSS, shared pages counted in each), sampled every 50 ms.

Run as: python benchmarks/prepare.py [--gigabytes 1 2] [--rounds 3] [--workers N] [--folder DIR]
"""

import argparse
import json
import random
import resource
import shutil
import statistics
import subprocess
import sys
import sysconfig
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from isogloss.data.prepared import open_prepared
from isogloss.data.tokenizers.bpe_training import train_bpe

FILE_BYTES = 256 << 20
TRAINING_BYTES = 20 << 20

PLAIN = """
import json, sys
from pathlib import Path
import numpy as np
from isogloss.data.tokenizers.loading import load_tokenizer

tokenizer = load_tokenizer(Path(sys.argv[1]))
opening = np.array([tokenizer.end_of_text], dtype=np.uint16)
n_tokens = 0
with open(sys.argv[3], "wb") as output:
    for path in sorted(Path(sys.argv[2]).glob("*.jsonl")):
        with path.open(encoding="utf-8") as lines:
            for line in lines:
                ids = tokenizer.encode(json.loads(line)["text"]).astype(np.uint16)
                output.write(opening.tobytes())
                output.write(ids.tobytes())
                n_tokens += 1 + len(ids)
print(n_tokens)
"""


def source_texts() -> list[str]:
    """All Python sources that are installed."""
    texts = []
    for root in {sysconfig.get_paths()["stdlib"], sysconfig.get_paths()["purelib"]}:
        for path in sorted(Path(root).rglob("*.py")):
            try:
                texts.append(path.read_text(encoding="utf-8"))
            except (UnicodeDecodeError, OSError):  # tests of other encodings
                continue
    return texts


def documents(texts: Sequence[str]) -> Iterator[str]:
    """Pieces of 1 to 16 thousand characters, cut elsewhere in each pass."""
    generator = random.Random(0)
    while True:
        for text in texts:
            at = generator.randrange(1000)
            while at < len(text):
                length = generator.randrange(1000, 16000)
                yield text[at : at + length]
                at += length


def write_input(folder: Path, n_bytes: int, texts: Sequence[str]) -> int:
    """JSON lines of so many bytes; how many documents they are."""
    folder.mkdir()
    pieces = documents(texts)
    n_documents = number = 0
    while n_bytes > 0:
        left = min(FILE_BYTES, n_bytes)
        n_bytes -= left
        with (folder / f"{number:04d}.jsonl").open("w", encoding="utf-8") as file:
            while left > 0:
                line = json.dumps({"id": n_documents, "text": next(pieces)}, ensure_ascii=False) + "\n"
                file.write(line)
                left -= len(line.encode())
                n_documents += 1
        number += 1
    return n_documents


class Memory:
    """Samples what a process and its descendants hold, until told to stop."""

    def __init__(self, process: int):
        self.peak = self.n_processes = 0
        self._process, self._stopped = process, threading.Event()
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()

    def stop(self) -> None:
        """Stop watching."""
        self._stopped.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._stopped.wait(0.05):
            sizes = [_resident(process) for process in _tree(self._process)]
            if sum(sizes) > self.peak:
                self.peak, self.n_processes = sum(sizes), len(sizes)


def _tree(process: int) -> Iterator[int]:
    yield process
    try:
        children = Path(f"/proc/{process}/task/{process}/children").read_text().split()
    except OSError:
        return
    for child in children:
        yield from _tree(int(child))


def _resident(process: int) -> int:
    try:
        pages = int(Path(f"/proc/{process}/statm").read_text().split()[1])
    except OSError:
        return 0
    return pages * 4096


@dataclass(frozen=True)
class Cost:
    """Of a command: seconds by the clock, seconds of all cores, most bytes held, and what it printed."""

    seconds: float
    core_seconds: float
    peak: int
    output: str

    def __str__(self) -> str:
        return f"{self.seconds:6.1f} s, {self.core_seconds:6.1f} core s, {self.peak / 1e6:5.0f} MB"


def measure(command: Sequence[str]) -> Cost:
    start, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    memory = Memory(process.pid)
    output, _ = process.communicate()
    seconds = time.perf_counter() - start
    memory.stop()
    if process.returncode:
        sys.exit(f"{command[0]} failed")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    core_seconds = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return Cost(seconds, core_seconds, memory.peak, output)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gigabytes", type=float, nargs="+", default=[1.0, 2.0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--vocab-size", type=int, default=16384)
    parser.add_argument("--workers", type=int)
    parser.add_argument("--folder", type=Path, help="where the input and the results go; needs five times the input")
    options = parser.parse_args()

    texts = source_texts()
    print(f"{len(texts):,} source files, {sum(map(len, texts)) / 1e6:,.0f} MB", flush=True)
    with tempfile.TemporaryDirectory(dir=options.folder) as name:
        root = Path(name)
        sample, size = [], 0
        for text in random.Random(0).sample(texts, len(texts)):
            sample.append(text)
            size += len(text)
            if size > TRAINING_BYTES:
                break
        train_bpe(sample, options.vocab_size).save(root / "tokenizer")
        ours = [sys.executable, "-m", "isogloss", "data", "prepare", str(root / "input")]
        ours += ["--tokenizer", str(root / "tokenizer"), "--prepared-dir", str(root / "prepared")]
        ours += [] if options.workers is None else ["--workers", str(options.workers)]
        plain = [sys.executable, "-c", PLAIN, str(root / "tokenizer"), str(root / "input"), str(root / "plain.bin")]
        for gigabytes in options.gigabytes:
            n_documents = write_input(root / "input", round(gigabytes * 1e9), texts)
            print(f"\n{gigabytes:g} GB, {n_documents:,} documents")
            ratios, peaks = [], []
            for _ in range(options.rounds):
                loop, whole = measure(plain), measure(ours)
                (manifest_file,) = (root / "prepared").glob("*/manifest.json")
                manifest = open_prepared(manifest_file.parent).manifest
                n_tokens = manifest.train.n_tokens + manifest.validation.n_tokens
                rates = int(loop.output) / loop.seconds, n_tokens / whole.seconds
                ratios.append(rates[1] / rates[0])
                peaks.append(whole.peak)
                print(f"  plain {rates[0] / 1e6:6.2f} M tokens/s ({loop})", flush=True)
                print(f"  ours  {rates[1] / 1e6:6.2f} M tokens/s ({whole}), ratio {ratios[-1]:.2f}", flush=True)
                shutil.rmtree(root / "prepared")
            print(f"  median ratio {statistics.median(ratios):.2f}, peak of all processes {max(peaks) / 1e6:,.0f} MB")
            shutil.rmtree(root / "input")


if __name__ == "__main__":
    main()
