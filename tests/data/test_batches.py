"""The same global batches, in the same order, however they are shared, cut, made ahead, killed and gone on with."""

import itertools
import os
import queue
import threading
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from isogloss.config.base import UserError
from isogloss.data.batches import BatchPlan, BatchStage, LengthStage
from isogloss.data.loader import Loader, sequential_batches
from isogloss.data.prefetch import Prefetcher
from isogloss.data.prepare import FilesConfig, prepare
from isogloss.data.rows.fitting import make_table
from isogloss.data.rows.mixing import MixedRows, Segment
from isogloss.data.rows.order import Shuffled
from isogloss.data.rows.packing import PackedRows
from isogloss.data.shards import TokenStream
from isogloss.data.tokenizers.config import BytesConfig
from isogloss.models.protocol import IGNORED, Batch

PAD = 60_000
T = 12
MAX_EXAMPLES = 8 * int(os.environ.get("ISOGLOSS_FAULTS", "1"))


def join(batches: list[Batch]) -> Batch:
    return Batch(*(torch.cat([getattr(b, name) for b in batches]) for name in ("tokens", "targets", "documents")))


def equal(one: Batch, other: Batch) -> bool:
    return all(torch.equal(getattr(one, name), getattr(other, name)) for name in ("tokens", "targets", "documents"))


@st.composite
def loaders(draw):
    """What makes a loader, anew each time it is called (another process's, or one after a kill), and a world's size."""
    world_size = draw(st.integers(1, 8))
    size = st.sampled_from([world_size, 2 * world_size, 5 * world_size])
    lengths = draw(st.lists(st.integers(1, 40), min_size=2, max_size=30))
    way = draw(st.sampled_from(["concatenate", "best_fit", "document"]))
    seed = draw(st.integers(0, 5))
    sizes = sorted(draw(st.dictionaries(st.integers(1, 12), size, max_size=2)).items())
    cuts = sorted(draw(st.dictionaries(st.integers(1, 12), st.sampled_from([2, 3, 4]), max_size=2)).items())
    last_size = draw(size)
    is_mixed = draw(st.booleans())

    def packed(name: str = "x") -> PackedRows:
        starts = np.cumsum([0, *lengths[:-1]])
        stream = TokenStream([np.arange(sum(lengths), dtype=np.uint16)], starts, name)
        table = None if way == "concatenate" else make_table(stream, way, T)
        return PackedRows(stream, T, PAD, True, table, way)

    def make() -> Loader:
        stages = tuple(BatchStage(until=until, batch_size=n) for until, n in sizes)
        plan = BatchPlan(last_size, stages, tuple(LengthStage(until=until, divisor=n) for until, n in cuts))
        if not is_mixed:
            return Loader(packed(), plan, seed)
        sources = {name: Shuffled(packed(name), seed, name) for name in ("a", "b")}
        segment = Segment(0, 16, ("a", "b"), (None, None), ((0, (1.0, 2.0)), (200, (3.0, 1.0))))
        return Loader(MixedRows(sources, {"a": 1.0, "b": 1.0}, segment), plan, seed)

    return make, world_size


@dataclass
class Share:
    loader: Loader
    rank: int
    world_size: int

    def batch(self, step: int) -> Batch:
        return self.loader.batch(step, self.rank, self.world_size)


@pytest.mark.campaign(6)
@settings(deadline=None, max_examples=MAX_EXAMPLES)
@given(loaders(), st.sampled_from([1, 2, 3]), st.integers(1, 4), st.integers(0, 13))
def test_any_way_of_reading_gives_the_same_global_batches(made, micro, depth, kill_at):
    make, world_size = made
    n_steps = 14
    whole = [make().batch(step) for step in range(n_steps)]
    seen: list[list[Batch]] = [[] for _ in range(n_steps)]
    for rank in range(world_size):
        loader = make()
        begin = 0
        for end in (kill_at, n_steps):  # killed before step `kill_at`, some batches made ahead in vain
            with Prefetcher(Share(loader, rank, world_size), depth, last_step=n_steps) as ahead:
                for step in range(begin, end):
                    seen[step].append(ahead.batch(step))
            saved, loader, begin = loader.state(), make(), end
            loader.resume(saved, end)
    for step in range(n_steps):
        shared = join(seen[step])
        assert equal(shared, whole[step])
        parts = whole[step].split(micro * make().plan.divisor(step))
        assert equal(join(parts), whole[step])
    # Nothing but the cut of rows and their grouping differs from plain batches.
    plain = Loader(make().source, BatchPlan(24), make().seed)
    n_rows = make().plan.rows_before(n_steps)
    flat = torch.cat([batch.tokens.flatten() for batch in whole])
    reference = torch.cat([plain.batch(step).tokens.flatten() for step in range(-(-n_rows // 24))])
    assert torch.equal(flat, reference[: len(flat)])
    assert len(flat) == n_rows * T


@pytest.mark.control(6)
def test_with_a_place_of_its_own_for_each_rank_other_ranks_would_read_other_batches():
    """What keeps the order is that a rank's place follows from the step: here each counts its own files and rows."""

    def of_rank(rank: int, n_ranks: int) -> Loader:
        tokens = np.arange(rank * 240 // n_ranks, (rank + 1) * 240 // n_ranks, dtype=np.uint16)
        return Loader(PackedRows(TokenStream([tokens], np.array([0]), "x"), T, PAD, True), BatchPlan(4 // n_ranks), 0)

    def rows_read(n_ranks: int) -> list[list[int]]:
        batches = [[of_rank(rank, n_ranks).batch(step) for rank in range(n_ranks)] for step in range(3)]
        return [sorted(join(shares).tokens[:, 0].tolist()) for shares in batches]

    assert rows_read(1) == [sorted(of_rank(0, 1).batch(step).tokens[:, 0].tolist()) for step in range(3)]
    assert rows_read(2) != rows_read(1)


@settings(deadline=None)
@given(
    st.lists(st.tuples(st.integers(1, 50), st.integers(1, 9)), max_size=4, unique_by=lambda pair: pair[0]),
    st.integers(1, 9),
    st.integers(0, 70),
)
def test_rows_before_a_step_are_the_sum_of_the_sizes(stages, last, step):
    plan = BatchPlan(last, tuple(BatchStage(until=until, batch_size=size) for until, size in sorted(stages)))
    assert plan.rows_before(step) == sum(plan.size(s) for s in range(step))
    assert sum(n * size for n, size, _ in plan.pieces(0, step)) == plan.rows_before(step)


def test_documents_are_numbered_anew_in_shorter_rows():
    stream = TokenStream([np.arange(25, dtype=np.uint16)], np.array([0, 4, 7]), "x")
    plan = BatchPlan(1, lengths=(LengthStage(until=1, divisor=3),))
    loader = Loader(PackedRows(stream, T, PAD, True), plan, 0)
    batch = loader.batch(0)
    assert batch.documents is not None
    assert batch.documents.shape == (3, 4)
    starts = [0, 4, 7, 25]
    for tokens, documents in zip(batch.tokens.tolist(), batch.documents.tolist(), strict=True):
        number = [sum(start <= token for start in starts) for token in tokens]
        assert documents == [n - number[0] for n in number]
    assert loader.batch(1).tokens.shape == (1, T)
    with pytest.raises(UserError, match="cannot be cut into 5"):
        Loader(PackedRows(stream, T, PAD, True), BatchPlan(1, lengths=(LengthStage(until=1, divisor=5),)), 0)


@pytest.mark.campaign(6)
@pytest.mark.parametrize("n_files", [1, 7, 64])
def test_files_on_any_number_of_ranks_give_every_token_of_every_epoch_once(tmp_path: Path, n_files: int):
    """What Meta Lingua drops: 32 chunks on 1 process, and stops on: 32 chunks on 48."""
    folder = tmp_path / "texts"
    folder.mkdir()
    generator = np.random.default_rng(n_files)
    for number in range(n_files):
        words = generator.integers(0, 99, 4 + 120 // n_files)
        (folder / f"{number}.txt").write_text(f"file {number}: " + " ".join(map(str, words)))
    config = FilesConfig(train=(str(folder),), validation_bytes=20, prepared_dir=tmp_path / "prepared")
    corpus = prepare(config, BytesConfig())
    stream = corpus.split("train")
    for packing in ("concatenate", "best_fit", "document"):
        rows = corpus.rows("train", 16, True, packing)
        for world_size in (1, 48):
            loader = Loader(rows, world_size, seed=1)
            n_epochs = 2
            n_steps = -(-n_epochs * rows.n_rows // world_size)
            shares = [[loader.batch(step, rank, world_size) for rank in range(world_size)] for step in range(n_steps)]
            batches = list(itertools.chain.from_iterable(shares))
            assert isinstance(loader.order, Shuffled)
            numbers = loader.order.numbers(np.arange(n_epochs * rows.n_rows))
            for epoch in range(n_epochs):
                chosen = slice(epoch * rows.n_rows, (epoch + 1) * rows.n_rows)
                assert sorted(numbers[chosen].tolist()) == list(range(rows.n_rows))
                targets = join(batches[chosen]).targets
                expected = np.sort(stream.gather(np.arange(1, len(stream))))
                np.testing.assert_array_equal(np.sort(targets[targets != IGNORED].numpy()), expected)
    ranks = [list(sequential_batches(corpus.rows("validation", 16), 48, rank, 48)) for rank in range(48)]
    targets = torch.cat([batch.targets.flatten() for batches in ranks for batch in batches])
    assert (targets != IGNORED).sum() == len(corpus.split("validation")) - 1


class Faulty(Loader):
    """A loader that fails at step 3 and counts."""

    def __init__(self) -> None:
        self.made: list[int] = []

    def batch(self, step: int, rank: int = 0, world_size: int = 1) -> Batch:
        self.made.append(step)
        if step == 3:
            raise UserError("the disk is gone")
        tokens = torch.full((1, 1), step)
        return Batch(tokens, tokens)


class Steps:
    """Has just these batches."""

    def __init__(self, made: list[Batch]):
        self.made = made

    def batch(self, step: int) -> Batch:
        return self.made[step]


def test_an_error_made_ahead_is_raised_at_its_step():
    loader = Faulty()
    with Prefetcher(loader, depth=3) as ahead:
        assert [int(ahead.batch(step).tokens) for step in range(3)] == [0, 1, 2]
        with pytest.raises(UserError, match="the disk is gone"):
            ahead.batch(3)
        assert int(ahead.batch(5).tokens) == 5  # goes on from anywhere
    assert not [thread for thread in threading.enumerate() if thread.name == "prefetch"]


def test_no_more_is_made_ahead_than_asked_for():
    loader = Faulty()
    with Prefetcher(loader, depth=1, last_step=2) as ahead:
        ahead.batch(0)
        for _ in range(100):
            if len(loader.made) == 2:
                break
            time.sleep(0.01)
        ahead.batch(1)
        time.sleep(0.05)
        assert loader.made == [0, 1]
        assert int(ahead.batch(2).tokens) == 2  # nobody makes it ahead, and nobody waits for it in vain
        assert loader.made == [0, 1, 2]
    ahead.close()


@pytest.mark.parametrize("later", [2, 4], ids=["the end stays", "the end is put off"])
def test_batches_beyond_the_last_step_are_made_when_asked_for(later: int):
    made = [Batch(torch.full((1, 1), step), torch.full((1, 1), step)) for step in range(6)]
    with Prefetcher(Steps(made), depth=2, last_step=2) as ahead:
        found: queue.Queue[int] = queue.Queue()

        def ask() -> None:
            found.put(int(ahead.batch(0).tokens))
            ahead.last_step = later  # after a spike of the loss, the run goes on with batches further on
            for step in range(1, 6):
                found.put(int(ahead.batch(step).tokens))

        threading.Thread(target=ask, daemon=True).start()
        assert [found.get(timeout=300) for _ in range(6)] == list(range(6))


def test_a_plan_counts_in_steps() -> None:
    with pytest.raises(UserError, match=r"until 0\.1: a BatchPlan counts in steps; TrainConfig\.plan\(\)"):
        BatchPlan(4, (BatchStage(until=0.1, batch_size=2),))
