"""Flat files that change while they are read."""

import os
from pathlib import Path

import numpy as np
import pytest

from isogloss.config.base import UserError
from isogloss.data.flat import FlatFile, check_size
from isogloss.data.prepared import PreparedCorpus, open_prepared
from isogloss.data.rows.packing import PackedRows


def test_positions_in_any_order_are_those_of_an_array(tmp_path: Path) -> None:
    numbers = np.arange(1000, dtype="<u4") * 7
    numbers.tofile(tmp_path / "file")
    flat = FlatFile(tmp_path / "file", "<u4")
    generator = np.random.default_rng(0)
    for positions in (
        generator.integers(0, 1000, (4, 5)),
        np.arange(0, 1000),
        np.array([999, 0, 1, 1, 2]),
        np.array([], np.int64),
        np.array([[3, 4, 5], [5, 6, 7]]),
    ):
        assert np.array_equal(flat[positions], numbers[positions])
        assert flat[positions].dtype == numbers.dtype
    assert len(flat) == 1000
    assert np.array_equal(np.asarray(flat), numbers)


def test_a_file_that_is_cut_short_is_an_error_with_its_name(tmp_path: Path) -> None:
    path = tmp_path / "file"
    np.arange(1000, dtype="<u2").tofile(path)
    flat = FlatFile(path, "<u2")
    os.truncate(path, 1001)
    assert flat[np.arange(500)].tolist() == list(range(500))
    with pytest.raises(UserError, match=r"file: was cut short while it was read: it ends at byte 1,001"):
        flat[np.arange(490, 510)]


def test_a_mapped_file_is_checked_before_use(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(bytes(100))
    check_size(path, 100)
    os.truncate(path, 99)
    with pytest.raises(UserError, match="from 100 bytes to 99"):
        check_size(path, 100)
    path.unlink()
    check_size(path, 100)


@pytest.fixture
def corpus(tmp_path: Path) -> PreparedCorpus:
    from isogloss.data.prepare import FilesConfig, prepare
    from isogloss.data.tokenizers.bytes import BytesTokenizer

    for number in range(40):
        (tmp_path / f"{number}.txt").write_text(f"{number} " * 50)
    config = FilesConfig(train=(str(tmp_path / "*.txt"),), prepared_dir=tmp_path / "prepared")
    return open_prepared(prepare(config, BytesTokenizer()).folder)


@pytest.mark.parametrize("packing", ["concatenate", "best_fit"])
@pytest.mark.parametrize("file", ["train-00000.bin", "train.starts.npy"])
def test_a_corpus_cut_short_under_its_reader_is_a_message(corpus: PreparedCorpus, packing, file: str) -> None:
    rows = corpus.rows("train", 16, packing=packing)
    assert isinstance(rows, PackedRows)
    rows.rows(np.arange(4))
    rows.waste()
    os.truncate(corpus.folder / file, 10)
    read = rows.waste if file == "train.starts.npy" else lambda: rows.rows(np.arange(rows.n_rows))
    with pytest.raises(UserError, match=f"{file}: was cut short while it was read"):
        read()


def test_a_row_table_cut_short_under_its_reader_is_a_message(corpus: PreparedCorpus) -> None:
    rows = corpus.rows("train", 16, packing="best_fit")
    assert isinstance(rows, PackedRows)
    (table,) = (corpus.folder / "rows").glob("*/start.bin")
    os.truncate(table, 0)
    with pytest.raises(UserError, match=r"start\.bin: was cut short"):
        rows.rows(np.arange(4))
