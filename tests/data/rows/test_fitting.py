"""Documents kept whole: nothing lost, nothing cut that fits, and the table on the disk."""

import json
import os
from collections import Counter
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from isogloss.data.rows import fitting
from isogloss.data.rows.fitting import RowTable, best_fit, keep_table, make_table
from isogloss.data.rows.packing import PackedRows
from isogloss.data.shards import TokenStream
from isogloss.data.stamps import Stamps
from isogloss.models.ignored import IGNORED

PAD = 60_000
LENGTHS = st.lists(st.integers(1, 30), min_size=1, max_size=40)
WAYS = st.sampled_from(["best_fit", "document"])


def make_stream(lengths, fingerprint="x") -> TokenStream:
    """Each token's id is its position."""
    starts = np.cumsum([0, *lengths[:-1]])
    return TokenStream([np.arange(sum(lengths), dtype=np.uint16)], starts, fingerprint)


def slow_best_fit(lengths, capacity) -> list[int]:
    """The rooms that best-fit decreasing leaves, piece by piece."""
    rooms: list[int] = []
    for length in sorted(lengths, reverse=True):
        fitting_rooms = [i for i, room in enumerate(rooms) if room >= length]
        if fitting_rooms:
            rooms[min(fitting_rooms, key=lambda i: rooms[i])] -= length
        else:
            rooms.append(capacity - length)
    return sorted(rooms)


@settings(deadline=None, max_examples=200)
@given(st.lists(st.integers(1, 20), max_size=60), st.integers(20, 40))
def test_it_is_best_fit_decreasing(lengths, capacity):
    bin_of, n_bins = best_fit(np.array(lengths, np.int64), capacity)
    filled = np.bincount(bin_of, weights=lengths, minlength=n_bins) if lengths else np.zeros(0)
    assert sorted((capacity - filled).astype(int).tolist()) == slow_best_fit(lengths, capacity)


@settings(deadline=None)
@given(LENGTHS, st.integers(1, 20), WAYS, st.integers(1, 50))
def test_nothing_is_lost_and_nothing_cut_that_fits(lengths, seq_len, way, window):
    stream = make_stream(lengths)
    rows = PackedRows(stream, seq_len, PAD, True, make_table(stream, way, seq_len, window), way)
    packed = rows.rows(np.arange(rows.n_rows))
    assert packed.documents is not None
    counted = packed.targets != IGNORED
    assert Counter(packed.targets[counted].tolist()) == Counter(range(1, len(stream)))
    np.testing.assert_array_equal(packed.targets[counted], packed.tokens[counted] + 1)
    assert (packed.tokens[~counted] == PAD).all()
    # The rows of each document, and what its number within them is.
    of_token = np.repeat(np.arange(len(lengths)), lengths)
    rows_of: dict[int, set[int]] = {}
    for r in range(rows.n_rows):
        real = of_token[packed.tokens[r][counted[r]]]
        numbers = packed.documents[r]
        for d in set(real.tolist()):
            rows_of.setdefault(d, set()).add(r)
        changes = np.flatnonzero(np.diff(real)) + 1
        np.testing.assert_array_equal(np.flatnonzero(np.diff(numbers[counted[r]])) + 1, changes)
        assert numbers[0] == 0
        assert (np.diff(numbers) >= 0).all()
        assert (np.diff(numbers) <= 1).all()
        assert not (~counted[r]).any() or numbers[-1] == len(changes) + 1
    inputs = [*lengths[:-1], lengths[-1] - 1]
    for d, n in enumerate(inputs):
        assert len(rows_of.get(d, ())) == -(-n // seq_len)  # one row where it fits, else as few as can be
    waste = rows.waste()
    assert waste.n_cut == sum(n > seq_len for n in inputs)
    assert waste.n_targets == counted.sum()
    if way == "document":
        assert rows.n_rows == sum(-(-n // seq_len) for n in inputs)


@settings(deadline=None)
@given(LENGTHS, st.integers(1, 20))
def test_documents_cut_end_to_end_are_counted(lengths, seq_len):
    rows = PackedRows(make_stream(lengths), seq_len, PAD, False)
    inputs = [*lengths[:-1], lengths[-1] - 1]
    begin = np.cumsum([0, *inputs[:-1]])
    cut = [int(b // seq_len != (b + n - 1) // seq_len) for b, n in zip(begin, inputs, strict=True) if n]
    assert rows.waste().n_cut == sum(cut)


def keep(stream: TokenStream, folder: Path, way: Literal["best_fit", "document"] = "best_fit") -> RowTable:
    """As another process would."""
    return keep_table(stream, way, 8, Stamps(folder), "rows/train")


def assert_equal(one: RowTable, other: RowTable) -> None:
    for name in ("start", "length", "first_piece"):
        np.testing.assert_array_equal(getattr(one, name), getattr(other, name))


def test_the_table_is_kept_and_found(tmp_path: Path, monkeypatch):
    stream = make_stream([5, 9, 2, 7])
    made = keep(stream, tmp_path)
    monkeypatch.setattr(fitting, "_windows", None)  # not made again
    assert_equal(keep(stream, tmp_path), made)


@pytest.mark.parametrize("damage", ["flip", "cut", "json", "gone", "killed", "of another stream"])
def test_a_damaged_or_foreign_table_is_made_anew(tmp_path: Path, damage: str):
    stream = make_stream([5, 9, 2, 7])
    folder = tmp_path / "rows" / "train"
    keep(stream if damage != "of another stream" else make_stream([5, 18], "y"), tmp_path)
    file = folder / "start.bin"
    if damage == "flip":
        file.write_bytes(bytes([file.read_bytes()[0] ^ 1]) + file.read_bytes()[1:])
        os.utime(file, ns=(0, 0))  # the clock of the file system may not have moved on
    elif damage == "cut":
        file.write_bytes(file.read_bytes()[:-8])
    elif damage == "json":
        (folder / "table.json").write_text("{")
    elif damage == "gone":
        file.unlink()
    elif damage == "killed":  # before the renaming
        folder.rename(tmp_path / "rows" / ".train.aside")
    assert_equal(keep(stream, tmp_path), make_table(stream, "best_fit", 8))
    assert json.loads((folder / "table.json").read_text())["made_from"]["stream"] == "x"
    assert sorted(path.name for path in (tmp_path / "rows").iterdir()) == ["train", "train.lock"]


def test_without_a_place_to_write_it_is_made_in_memory(tmp_path: Path):
    (tmp_path / "rows").write_text("a file where a folder is needed")
    stream = make_stream([5, 9, 2, 7])
    assert_equal(keep(stream, tmp_path, "document"), make_table(stream, "document", 8))
