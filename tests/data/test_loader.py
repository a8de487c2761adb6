import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from isogloss.config.base import UserError
from isogloss.data.loader import Loader, sequential_batches
from isogloss.data.rows.packing import PackedRows
from isogloss.data.shards import TokenStream
from isogloss.models.protocol import IGNORED, Batch

PAD = 9999


def make_stream(n_tokens: int, fingerprint: str = "x") -> TokenStream:
    return TokenStream([np.arange(n_tokens, dtype=np.uint16)], np.arange(0, n_tokens, 7), fingerprint)


def make_rows(n_tokens: int, seq_len: int = 4, fingerprint: str = "x", with_documents: bool = True) -> PackedRows:
    return PackedRows(make_stream(n_tokens, fingerprint), seq_len, PAD, with_documents)


def make_loader(n_tokens=100, seq_len=4, batch_size=6, seed=0, fingerprint="x") -> Loader:
    return Loader(make_rows(n_tokens, seq_len, fingerprint), batch_size, seed)


def join(batches) -> Batch:
    return Batch(
        *(torch.cat([getattr(batch, name) for batch in batches]) for name in ("tokens", "targets", "documents"))
    )


def equal(one: Batch, other: Batch) -> bool:
    return all(torch.equal(getattr(one, name), getattr(other, name)) for name in ("tokens", "targets", "documents"))


SHAPES = {"n_tokens": st.integers(2, 120), "seq_len": st.integers(1, 9), "batch_size": st.sampled_from([1, 2, 6, 12])}


@pytest.mark.campaign(6)
@settings(max_examples=50, deadline=None)
@given(st.integers(0, 40), st.integers(0, 9), *SHAPES.values())
def test_any_world_size_sees_the_same_global_batch(step, seed, n_tokens, seq_len, batch_size):
    loader = make_loader(n_tokens, seq_len, batch_size, seed)
    whole = loader.batch(step)
    for world_size in (n for n in (2, 3, 4, 6, 12) if batch_size % n == 0):
        shares = [loader.batch(step, rank, world_size) for rank in range(world_size)]
        assert {len(share.tokens) for share in shares} == {batch_size // world_size}
        assert equal(join(shares), whole)


@pytest.mark.campaign(6)
@settings(max_examples=50, deadline=None)
@given(st.integers(0, 9), *SHAPES.values())
def test_each_epoch_sees_each_row_once_across_batches(seed, n_tokens, seq_len, batch_size):
    loader = make_loader(n_tokens, seq_len, batch_size, seed)
    n_epochs = 3
    n_steps = -(-n_epochs * loader.source.n_rows // batch_size)
    first_tokens = torch.cat([loader.batch(step).tokens[:, 0] for step in range(n_steps)])
    for epoch in range(n_epochs):
        rows = first_tokens[epoch * loader.source.n_rows : (epoch + 1) * loader.source.n_rows]
        assert sorted((rows // seq_len).tolist()) == list(range(loader.source.n_rows))
    targets = torch.cat([loader.batch(step).targets for step in range(n_steps)])[: loader.source.n_rows]
    assert sorted(targets[targets != IGNORED].tolist()) == list(range(1, n_tokens))


def test_seeking_equals_iterating():
    iterated = [make_loader().batch(step) for step in range(20)]
    loader = make_loader()
    assert all(equal(loader.batch(step), iterated[step]) for step in reversed(range(20)))


def test_epochs_and_seeds_differ_in_order():
    orders = [make_loader(401, 4, 100, seed).batch(step).tokens[:, 0].tolist() for seed in (0, 1) for step in (0, 1)]
    assert len({tuple(order) for order in orders}) == 4


def test_a_batch_is_64_bit_and_numbers_documents_on_demand():
    batch = make_loader().batch(0)
    assert {batch.tokens.dtype, batch.targets.dtype, batch.documents.dtype} == {torch.int64}
    assert Loader(make_rows(100, with_documents=False), 6, 0).batch(0).documents is None


def test_what_cannot_work_is_refused():
    with pytest.raises(UserError, match="batch_size 6 cannot be shared by 4 processes"):
        make_loader().batch(0, rank=0, world_size=4)
    with pytest.raises(UserError, match="too few"):
        make_loader(n_tokens=1)
    with pytest.raises(UserError, match="batch_size 6 cannot"):
        list(sequential_batches(make_rows(50), 6, world_size=5))


def test_a_changed_corpus_or_setting_is_noticed():
    loader = make_loader()
    loader.check(loader.state())
    loader.check(make_loader().state())
    for change in ({"fingerprint": "y"}, {"seq_len": 5}, {"batch_size": 7}, {"seed": 1}):
        name = "corpus" if "fingerprint" in change else next(iter(change))
        with pytest.raises(UserError, match=f"{name} was"):
            loader.check(make_loader(**change).state())


@settings(max_examples=50, deadline=None)
@given(st.sampled_from([1, 2, 3, 6]), st.integers(1, 120), st.integers(1, 9), st.none() | st.integers(1, 20))
def test_sequential_batches_cover_every_target_once_and_in_order(world_size, n_tokens, seq_len, first):
    rows = make_rows(n_tokens, seq_len)
    ranks = [list(sequential_batches(rows, 6, rank, world_size, first)) for rank in range(world_size)]
    assert len({len(batches) for batches in ranks}) == 1
    if world_size > 1:
        assert {len(batch.tokens) for batches in ranks for batch in batches} <= {6 // world_size}
    in_order = list(itertools.chain.from_iterable(zip(*ranks, strict=True)))
    targets = torch.cat([batch.targets.ravel() for batch in in_order]) if in_order else torch.empty(0)
    n_targets = n_tokens - 1 if first is None else min(n_tokens - 1, first * seq_len)
    assert targets[targets != IGNORED].tolist() == list(range(1, n_targets + 1))
    if world_size == 1:
        assert all((batch.targets != IGNORED).any(dim=1).all() for batch in in_order)
