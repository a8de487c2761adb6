"""How fast text becomes token ids: this library, tiktoken itself and Hugging Face tokenizers, with one vocabulary.

The corpus is the source of Python's own standard library (8 MB), and the vocabulary is trained on it. The ways take
turns within each round, so that a slow moment of the machine falls on all; medians over the rounds are reported, and
our ids are compared with those of Hugging Face.

Run as: python benchmarks/tokenizer_speed.py [--vocab-size 16384] [--rounds 5]
(Not named after the standard library's ``tokenize``, which a script of that name would hide from its neighbours.)
"""

import argparse
import os
import statistics
import sysconfig
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import tiktoken
from tokenizers import Tokenizer

from isogloss.data.tokenizers.bpe_training import train_bpe
from isogloss.data.tokenizers.loading import load_tokenizer
from isogloss.data.tokenizers.patterns import ISOGLOSS


def read_corpus(n_bytes: int) -> list[str]:
    texts = []
    for path in sorted(Path(sysconfig.get_paths()["stdlib"]).rglob("*.py")):
        if "site-packages" in path.parts:
            continue
        try:
            texts.append(path.read_text(encoding="utf-8"))
        except UnicodeDecodeError:  # the library's tests hold files in other encodings
            continue
        n_bytes -= path.stat().st_size
        if n_bytes <= 0:
            break
    return texts


def seconds(call: Callable[[], object]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--vocab-size", type=int, default=16384)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()

    n_threads = os.cpu_count() or 1
    texts = read_corpus(8_000_000)
    megabytes = sum(len(text.encode()) for text in texts) / 1e6
    start = time.perf_counter()
    trained = train_bpe(texts, options.vocab_size)
    training = time.perf_counter() - start
    print(f"{len(texts)} files, {megabytes:.1f} MB; {trained.n_tokens} tokens trained in {training:.1f} s")

    with tempfile.TemporaryDirectory() as folder:
        trained.save(Path(folder))
        loading = [seconds(lambda: load_tokenizer(Path(folder))) for _ in range(options.rounds)]
        hugging_face = Tokenizer.from_file(str(Path(folder) / "tokenizer.json"))
    print(f"loaded in {statistics.median(loading):.2f} s, equality with tiktoken checked: {trained.backend}")

    special = {trained.end_of_text}
    ranks = {trained.token_bytes(token): token for token in range(trained.n_tokens) if token not in special}
    native = tiktoken.Encoding(
        "native", pat_str=ISOGLOSS, mergeable_ranks=ranks, special_tokens={"<|endoftext|>": trained.end_of_text}
    )
    ways: dict[str, Callable[[], list]] = {
        "isogloss encode_batch": lambda: trained.encode_batch(texts),
        "tiktoken encode_ordinary_batch": lambda: native.encode_ordinary_batch(texts, num_threads=n_threads),
        "tokenizers encode_batch": lambda: hugging_face.encode_batch(texts, add_special_tokens=False),
        "tokenizers encode_batch_fast": lambda: hugging_face.encode_batch_fast(texts, add_special_tokens=False),
        "isogloss encode, one core": lambda: [trained.encode(text) for text in texts],
        "tiktoken encode_ordinary, one core": lambda: [native.encode_ordinary(text) for text in texts],
    }
    hugging_face.encode_special_tokens = True
    ours, theirs = trained.encode_batch(texts), hugging_face.encode_batch(texts, add_special_tokens=False)
    assert all(np.array_equal(ids, encoding.ids) for ids, encoding in zip(ours, theirs, strict=True))

    times: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(options.rounds):
        for name, way in ways.items():
            times[name].append(seconds(way))
    base = statistics.median(times["isogloss encode_batch"])
    print(f"\n{n_threads} cores, medians of {options.rounds} rounds     MB/s   time over ours")
    for name, measured in times.items():
        print(f"{name:36} {megabytes / statistics.median(measured):7.1f} {statistics.median(measured) / base:8.2f}")


if __name__ == "__main__":
    main()
