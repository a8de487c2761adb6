import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from isogloss.data.shards import ShardWriter, open_stream, token_dtype

DOCUMENTS = st.lists(st.lists(st.integers(0, 65535), min_size=1, max_size=30), min_size=1, max_size=20)


@settings(deadline=None)
@given(DOCUMENTS, st.integers(1, 50), st.integers(1, 7), st.sampled_from(["<u2", "<u4"]))
def test_a_stream_is_what_was_written(tmp_path_factory, documents, shard_tokens, batch, dtype):
    folder = tmp_path_factory.mktemp("shards")
    writer = ShardWriter(folder, "train", dtype, shard_tokens)
    for i in range(0, len(documents), batch):
        part = documents[i : i + batch]
        writer.write(np.concatenate(part).astype(np.uint32), np.array([len(document) for document in part]))
    writer.finish()
    tokens = np.concatenate(documents)
    stream = open_stream(folder, "train", writer.names, dtype, "x")
    assert len(stream) == writer.n_tokens == len(tokens)
    assert writer.n_documents == len(documents)
    assert [path.stat().st_size for path in sorted(folder.glob("*.bin"))][:-1] == [
        shard_tokens * np.dtype(dtype).itemsize
    ] * (len(writer.names) - 1)
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


def test_the_stored_type_is_the_narrowest():
    assert [token_dtype(n) for n in (257, 65536, 65537)] == ["<u2", "<u2", "<u4"]
