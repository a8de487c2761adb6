"""Text read as it is asked for gives the rows that the same text laid end to end would give."""

import pickle
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from isogloss.config.base import UserError
from isogloss.data.on_the_fly import OnTheFlyConfig, OnTheFlyCorpus, ReadRows
from isogloss.data.rows.packing import PackedRows
from isogloss.data.shards import TokenStream
from isogloss.data.tokenizers.config import BytesConfig


@settings(deadline=None)
@given(
    st.lists(st.integers(1, 30), min_size=1, max_size=8), st.integers(1, 12), st.lists(st.integers(0, 40), min_size=1)
)
def test_rows_are_those_of_the_endless_stream(lengths, seq_len, numbers):
    parts = np.split(np.arange(sum(lengths)), np.cumsum(lengths)[:-1])
    read = ReadRows(lambda: iter(parts), seq_len, True, "x")
    times = -(-(41 * seq_len + 1) // sum(lengths))
    all_lengths = np.array(lengths * times)
    stream = TokenStream([np.tile(np.arange(sum(lengths)), times)], np.cumsum(all_lengths) - all_lengths, "x")
    expected = PackedRows(stream, seq_len, 0, True).rows(np.array(numbers))
    for one, other in zip(read.rows(np.array(numbers)), expected, strict=True):
        np.testing.assert_array_equal(one, other)


def test_the_first_documents_validate_and_are_not_trained_on(tmp_path: Path):
    for number in range(6):
        (tmp_path / f"{number}.txt").write_text(str(number) * 10)
    config = OnTheFlyConfig(train=(str(tmp_path),), validation_bytes=15)
    corpus = OnTheFlyCorpus(config, BytesConfig())
    facts = corpus.facts("validation")
    assert (facts.n_documents, facts.n_bytes, facts.n_tokens) == (2, 20, 22)
    rows = corpus.rows("train", 11)
    texts = [corpus.tokenizer.decode(row) for row in rows.rows(np.arange(6)).tokens]
    assert texts == [str(number) * 10 for number in (2, 3, 4, 5, 2, 3)]
    again = pickle.loads(pickle.dumps(corpus))
    assert again.name == corpus.name
    (tmp_path / "5.txt").write_text("changed!!!!")
    assert OnTheFlyCorpus(config, BytesConfig()).name != corpus.name


def test_first_documents_that_leave_less_than_half_to_train_on_are_refused_unless_asked(tmp_path: Path):
    (tmp_path / "a.txt").write_text("a long one\n" * 2000)
    (tmp_path / "b.txt").write_text("a short one\n" * 50)
    fields = {"train": (str(tmp_path),), "validation_bytes": 100}
    with pytest.raises(UserError, match=r"hold 22,000 of 22,600 bytes.*min_train_share = 0\.5; lower"):
        OnTheFlyCorpus(OnTheFlyConfig(**fields), BytesConfig())
    asked = OnTheFlyCorpus(OnTheFlyConfig(**fields, min_train_share=0.0), BytesConfig())
    assert asked.facts("validation").n_bytes == 22_000
