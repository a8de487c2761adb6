import hashlib
from contextlib import suppress

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from isogloss.config.base import UserError
from isogloss.data.shards import ShardWriter, open_stream, token_dtype

DOCUMENTS = st.lists(st.lists(st.integers(0, 65535), min_size=1, max_size=30), min_size=1, max_size=20)


@settings(deadline=None, max_examples=40)
@given(st.lists(DOCUMENTS, min_size=1, max_size=4), st.integers(1, 7), st.sampled_from(["<u2", "<u4"]))
def test_a_stream_is_what_was_written(tmp_path_factory, shards, batch, dtype):
    folder = tmp_path_factory.mktemp("shards")
    all_starts = []
    for number, documents in enumerate(shards):
        with ShardWriter(folder, f"train-{number}", dtype) as writer:
            for i in range(0, len(documents), batch):
                part = documents[i : i + batch]
                writer.write(np.concatenate(part).astype(np.uint32), np.array([len(document) for document in part]))
        assert writer.record.n_documents == len(documents)
        data = (folder / f"train-{number}.bin").read_bytes()
        assert writer.record.sha256 == hashlib.sha256(data).hexdigest()
        starts = np.fromfile(folder / f"train-{number}.starts", "<i8")
        all_starts.append(starts + sum(len(document) for documents in shards[:number] for document in documents))
    np.save(folder / "train.starts.npy", np.concatenate(all_starts))
    documents = [document for documents in shards for document in documents]
    tokens = np.concatenate(documents)
    stream = open_stream(folder, "train", [f"train-{number}.bin" for number in range(len(shards))], dtype, "x", 1 << 16)
    assert len(stream) == len(tokens)
    np.testing.assert_array_equal(stream.gather(np.arange(len(tokens))), tokens)
    opening = [document[0] for document in documents]
    np.testing.assert_array_equal(stream.gather(stream.document_starts), opening)
    length = min(5, len(tokens))
    starts = np.arange(len(tokens) - length + 1)[::-1]
    expected = np.stack([tokens[start : start + length] for start in starts])
    np.testing.assert_array_equal(stream.read(starts, length), expected)
    with pytest.raises(IndexError):
        stream.read(np.array([len(tokens)]), 1)
    with pytest.raises(IndexError):
        stream.read(np.array([-1]), 1)


def test_a_shard_is_whole_or_not_there(tmp_path):
    with ShardWriter(tmp_path, "empty", "<u2") as writer:
        assert writer.record.n_tokens == 0
    with suppress(KeyError), ShardWriter(tmp_path, "failed", "<u2") as writer:
        writer.write(np.array([1, 2]), np.array([2]))
        raise KeyError
    assert list(tmp_path.iterdir()) == []


def test_an_id_that_no_token_has_is_noticed_where_it_is_read(tmp_path):
    with ShardWriter(tmp_path, "train-0", "<u2") as writer:
        writer.write(np.array([3, 9, 5]), np.array([3]))
    np.save(tmp_path / "train.starts.npy", np.array([0]))
    assert open_stream(tmp_path, "train", ["train-0.bin"], "<u2", "x", 10).gather(np.arange(3)).tolist() == [3, 9, 5]
    damaged = open_stream(tmp_path, "train", ["train-0.bin"], "<u2", "x", 9)
    assert damaged.gather(np.array([0, 2])).tolist() == [3, 5]
    with pytest.raises(UserError, match=r"damaged \(it holds the id 9, and the tokenizer has 9\).*--verify names"):
        damaged.gather(np.array([0, 1]))


def test_the_stored_type_is_the_narrowest():
    assert [token_dtype(n) for n in (257, 65536, 65537)] == ["<u2", "<u2", "<u4"]
