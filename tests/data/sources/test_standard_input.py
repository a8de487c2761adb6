import io
import os

import pytest

from isogloss.config.base import UserError
from isogloss.data.sources import Document, read_documents
from isogloss.data.sources.standard_input import BLOCK_BYTES, keep_standard_input


def test_it_becomes_a_file_like_any_other(tmp_path):
    path = keep_standard_input(io.BytesIO(b'{"text": "a"}\n'), tmp_path / "new", "jsonl")
    assert path == tmp_path / "new" / "standard-input.jsonl"
    assert list(read_documents([path])) == [Document("standard-input.jsonl:1", "a")]
    assert [found.name for found in path.parent.iterdir()] == [path.name]


def test_the_same_content_again_leaves_the_file_as_it_was(tmp_path):
    content = os.urandom(BLOCK_BYTES + 1)
    path = keep_standard_input(io.BytesIO(content), tmp_path, "txt")
    os.utime(path, ns=(1, 1))
    keep_standard_input(io.BytesIO(content), tmp_path, "txt")
    assert path.stat().st_mtime_ns == 1
    keep_standard_input(io.BytesIO(content[:-1]), tmp_path, "txt")
    assert path.read_bytes() == content[:-1]


def test_nothing_to_read_and_nowhere_to_write(tmp_path):
    with pytest.raises(UserError, match="empty"):
        keep_standard_input(io.BytesIO(), tmp_path, "txt")
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be kept"):
        keep_standard_input(io.BytesIO(b"x"), tmp_path / "file", "txt")
    leader, follower = os.openpty()
    with os.fdopen(follower, "rb") as terminal, pytest.raises(UserError, match="terminal"):
        keep_standard_input(terminal, tmp_path, "txt")
    os.close(leader)
