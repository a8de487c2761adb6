from collections import Counter

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from isogloss.data.rows.packing import count_rows, pack_rows
from isogloss.data.shards import TokenStream
from isogloss.models.ignored import IGNORED

PAD = 999
STREAMS = st.lists(st.integers(1, 9), min_size=1, max_size=12)


def make_stream(lengths) -> TokenStream:
    """Documents of given lengths; each token's id is its position, so that tokens can be told apart."""
    n_tokens, starts = sum(lengths), np.cumsum([0, *lengths[:-1]])
    cut = max(1, (n_tokens + 1) // 2)
    ids = np.arange(n_tokens, dtype=np.uint16)
    return TokenStream([ids[:cut], ids[cut:]] if n_tokens > cut else [ids], starts, "x")


@settings(deadline=None)
@given(STREAMS, st.integers(1, 20))
def test_every_token_but_the_first_is_a_target_once(lengths, seq_len):
    stream = make_stream(lengths)
    n_rows = count_rows(len(stream), seq_len)
    packed = pack_rows(stream, np.arange(n_rows), seq_len, PAD, with_documents=False)
    assert packed.documents is None
    assert packed.tokens.shape == packed.targets.shape == (n_rows, seq_len)
    counted = packed.targets != IGNORED
    assert Counter(packed.targets[counted].tolist()) == Counter(range(1, len(stream)))
    np.testing.assert_array_equal(packed.targets[counted], packed.tokens[counted] + 1)
    assert counted.any(axis=1).all()
    inputs = packed.tokens.ravel()
    np.testing.assert_array_equal(inputs[: len(stream)], np.arange(len(stream))[: len(inputs)])
    assert (inputs[len(stream) :] == PAD).all()


@settings(deadline=None)
@given(STREAMS, st.integers(1, 20), st.data())
def test_documents_are_numbered_within_the_row(lengths, seq_len, data):
    stream = make_stream(lengths)
    n_rows = count_rows(len(stream), seq_len)
    rows = np.array(data.draw(st.lists(st.integers(0, n_rows + 2), min_size=1, max_size=5)))
    packed = pack_rows(stream, rows, seq_len, PAD, with_documents=True)
    of_token = [*np.repeat(np.arange(len(lengths)), lengths), *[len(lengths)] * (4 * seq_len + 1)]
    for row, documents, tokens, targets in zip(rows, packed.documents, packed.tokens, packed.targets, strict=True):
        expected = np.array(of_token[row * seq_len : (row + 1) * seq_len])
        np.testing.assert_array_equal(documents, expected - expected[0])
        if row >= n_rows and row * seq_len >= len(stream):
            assert (tokens == PAD).all()
        if row >= n_rows:
            assert (targets == IGNORED).all()


@settings(deadline=None)
@given(STREAMS, st.integers(1, 20))
def test_rows_can_be_cut_in_any_order(lengths, seq_len):
    stream = make_stream(lengths)
    n_rows = count_rows(len(stream), seq_len)
    forwards = pack_rows(stream, np.arange(n_rows), seq_len, PAD, with_documents=True)
    backwards = pack_rows(stream, np.arange(n_rows)[::-1], seq_len, PAD, with_documents=True)
    for one, other in zip(forwards, backwards, strict=True):
        np.testing.assert_array_equal(one, other[::-1])


@settings(deadline=None)
@given(STREAMS, st.integers(1, 20), st.integers(2, 5), st.booleans())
def test_lookahead_gives_the_tokens_that_follow(lengths, seq_len, lookahead, with_documents):
    stream = make_stream(lengths)
    rows = np.arange(count_rows(len(stream), seq_len))
    one = pack_rows(stream, rows, seq_len, PAD, with_documents)
    several = pack_rows(stream, rows, seq_len, PAD, with_documents, lookahead)
    assert several.targets.shape == (len(rows), seq_len, lookahead)
    np.testing.assert_array_equal(several.tokens, one.tokens)
    np.testing.assert_array_equal(several.targets[:, :, 0], one.targets)
    document = np.repeat(np.arange(len(lengths)), lengths)
    for position, targets in enumerate(several.targets.reshape(-1, lookahead)):
        for k, target in enumerate(targets.tolist()):
            inside = position + 1 + k < len(stream)
            # The token that opens the next document closes this one; what follows it is of no concern.
            same = inside and (not with_documents or k == 0 or document[position + k] == document[position])
            assert target == (position + 1 + k if same else IGNORED)
