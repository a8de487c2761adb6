"""The corpus is a function of the set of documents, the settings and the tokenizer, and of nothing else."""

import gzip
import json
import os
import random
import shutil
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from isogloss.data.prepare import FilesConfig, inputs, pipeline, prepare, spills
from isogloss.data.prepare import split as split_module
from isogloss.data.tokenizers.config import BytesConfig

FAULTS = int(os.environ.get("ISOGLOSS_FAULTS", "1"))
DOCUMENTS = st.lists(st.text("abcdé \n", min_size=1, max_size=40), min_size=20, max_size=60, unique=True)


def contents(folder: Path) -> dict[str, bytes]:
    """Everything but the manifest, which says what the files were called."""
    files = (path for path in folder.rglob("*") if path.is_file())
    named = {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}
    return {name: data for name, data in named.items() if name not in ("manifest.json", "verified.json")}


def counts(corpus) -> tuple:
    manifest = corpus.manifest
    return manifest.train, manifest.validation, manifest.dropped, manifest.baselines


def small_steps(patch: pytest.MonkeyPatch) -> None:
    """Many units, runs, pieces and shards of a little text."""
    patch.setattr(inputs, "UNIT_BYTES", 300)
    patch.setattr(spills, "RUN_BYTES", 100)
    patch.setattr(spills, "PIECE_BYTES", 64)
    patch.setattr(split_module, "SHARD_BYTES", 200)
    patch.setattr(split_module, "SCAN_DOCUMENTS", 8)


def write(folder: Path, texts: list[str], n_files: int, compressed: bool) -> Path:
    folder.mkdir()
    for number in range(n_files):
        lines = "".join(json.dumps({"text": text}) + "\n" for text in texts[number::n_files])
        if compressed and number % 2:
            (folder / f"{number}.jsonl.gz").write_bytes(gzip.compress(lines.encode()))
        else:
            (folder / f"{number}.jsonl").write_text(lines)
    return folder


@pytest.mark.campaign(6)
@settings(deadline=None, max_examples=4 * FAULTS)
@given(DOCUMENTS, st.data())
def test_files_their_order_copies_and_units_do_not_matter(tmp_path_factory, texts, data):
    root = tmp_path_factory.mktemp("corpus")
    found = []
    for name in ("first", "second"):
        order = data.draw(st.permutations(texts)) + data.draw(st.lists(st.sampled_from(texts), max_size=10))
        folder = write(root / name, order, data.draw(st.integers(1, 5)), data.draw(st.booleans()))
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(inputs, "UNIT_BYTES", data.draw(st.integers(50, 2000)))
            patch.setattr(spills, "RUN_BYTES", data.draw(st.integers(10, 1000)))
            patch.setattr(spills, "PIECE_BYTES", data.draw(st.integers(1, 1000)))
            patch.setattr(split_module, "SHARD_BYTES", 200)
            patch.setattr(split_module, "SCAN_DOCUMENTS", data.draw(st.integers(1, 100)))
            config = FilesConfig(train=(str(folder),), prepared_dir=root / f"prepared-{name}", validation_fraction=0.3)
            corpus = prepare(config, BytesConfig())
        assert corpus.manifest.n_duplicates == len(order) - len(texts)
        found.append((contents(corpus.folder), counts(corpus)))
    assert found[0] == found[1]


@pytest.mark.campaign(1)
@settings(deadline=None, max_examples=4 * FAULTS)
@given(texts=DOCUMENTS, stops=st.lists(st.integers(0, 40), min_size=1, max_size=4))
def test_wherever_it_is_stopped_it_ends_with_the_same_bytes(tmp_path_factory, texts, stops):
    root = tmp_path_factory.mktemp("corpus")
    folder = write(root / "texts", texts, 3, compressed=False)
    config = FilesConfig(train=(str(folder),), prepared_dir=root / "prepared", validation_bytes=60)
    with pytest.MonkeyPatch.context() as patch:
        small_steps(patch)
        undisturbed = prepare(config, BytesConfig())
        expected = contents(undisturbed.folder), counts(undisturbed)
        shutil.rmtree(config.prepared_dir)
        patch.setattr(pipeline, "remove", lambda folder: None)  # as when it is killed
        for stop in stops:
            with pytest.MonkeyPatch.context() as stopping:
                left = iter(range(stop))
                for name in ("scan_unit", "tokenise_range", "put_in_place"):
                    stopping.setattr(pipeline, name, stopped(getattr(pipeline, name), left))
                try:
                    prepare(config, BytesConfig())
                except KeyboardInterrupt:
                    continue
        corpus = prepare(config, BytesConfig())
    assert (contents(corpus.folder), counts(corpus)) == expected


def stopped(function, left):
    """The function, until it has been called so often."""

    def call(*arguments):
        if next(left, None) is None:
            raise KeyboardInterrupt
        return function(*arguments)

    return call


def test_workers_make_what_one_process_makes(tmp_path, monkeypatch):
    small_steps(monkeypatch)
    monkeypatch.setattr(split_module, "SHARD_BYTES", 1000)
    generator = random.Random(0)
    texts = ["".join(generator.choices("abc é\n", k=generator.randrange(1, 60))) for _ in range(200)]
    folder = write(tmp_path / "texts", texts, 4, compressed=True)
    found = []
    for workers in (0, 2):
        config = FilesConfig(train=(str(folder),), prepared_dir=tmp_path / str(workers), validation_bytes=100)
        corpus = prepare(config, BytesConfig(), workers=workers)
        found.append((contents(corpus.folder), corpus.manifest))
        assert len(corpus.manifest.train.shards) >= 4
    assert found[0] == found[1]
