from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from isogloss.config.base import UserError
from isogloss.data.prepare import split as split_module
from isogloss.data.prepare.config import FilesConfig
from isogloss.data.prepare.spills import KEY, Spills, SpillWriter, UnitRecord, text_key
from isogloss.data.prepare.split import check_train_bytes, choose_split, doubts

NONE = np.empty(0, KEY)


def spill(folder: Path, *units: list[str], validation: int = -1) -> Spills:
    """Runs of some texts, as pass 1 would leave them; the unit of number ``validation`` is one of validation files."""
    records = []
    for number, texts in enumerate(units):
        with SpillWriter(folder, number, None) as writer:
            for text in texts:
                if text:
                    writer.add(text.encode())
        records.append(
            UnitRecord(
                identity="",
                is_validation=number == validation,
                n_documents=len(texts),
                n_bytes=0,
                dropped={},
                bad=(),
                runs=tuple(writer.runs),
            )
        )
    return Spills(folder, records)


def split_texts(spills: Spills, by_file: bool = False, **fields):
    split = choose_split(spills, FilesConfig(train=("x",), **fields), by_file, NONE)
    return list(split.texts(spills, "train")), list(split.texts(spills, "validation"))


@settings(deadline=None, max_examples=60)
@given(st.lists(st.text("abé\n", max_size=12), min_size=1, max_size=60), st.integers(1, 200), st.integers(0, 60))
def test_it_splits_without_loss_duplicates_or_leaks(tmp_path_factory, texts, validation_bytes, cut):
    folder = tmp_path_factory.mktemp("spills")
    distinct = sorted({text for text in texts if text}, key=lambda text: text_key(text.encode()))
    total = sum(len(text.encode()) for text in distinct)
    try:
        train, validation = split_texts(spill(folder, texts[:cut], texts[cut:]), validation_bytes=validation_bytes)
    except UserError:
        assert min(validation_bytes, total // 10) < 2  # there may be no room for the last character
        return
    assert 0 < sum(len(text.encode()) for text in validation) <= total // 10
    assert train
    if sum(map(len, (train, validation))) == len(distinct):
        both = sorted(train + validation, key=distinct.index)
        assert both == distinct
        assert [text for text in distinct if text in train] == train  # in the order of keys
    else:  # one document was cut
        assert len(validation) == 1
        assert any(text[: -len(validation[0])] in train for text in distinct if text.endswith(validation[0]))


def test_a_fraction_moves_nobody_when_documents_are_added(tmp_path):
    texts = [f"text number {i}" for i in range(400)]
    sides = []
    for n in (200, 400):
        folder = tmp_path / str(n)
        folder.mkdir()
        sides.append([set(side) for side in split_texts(spill(folder, texts[:n]), validation_fraction=0.2)])
    assert sides[0][0] <= sides[1][0]
    assert sides[0][1] <= sides[1][1]
    assert 50 < len(sides[1][1]) < 110
    with pytest.raises(UserError, match="leaves none for validation"):
        split_texts(spill(tmp_path, texts), validation_fraction=1e-9)


def test_enough_documents_validate_but_not_more_than_needed(tmp_path):
    spills = spill(tmp_path, [f"{i:09d}\n" for i in range(1000)])
    train, validation = split_texts(spills, validation_bytes=55)
    assert (len(train), len(validation)) == (994, 6)
    assert len(split_texts(spills, validation_bytes=10**6)[1]) == 100


def test_a_single_document_is_cut_at_a_line_end(tmp_path):
    lines = [f"line {i}: é\n" for i in range(100)]
    spills = spill(tmp_path, ["".join(lines)])
    (head,), (tail,) = split_texts(spills, validation_bytes=10**6)
    assert head + tail == "".join(lines)
    assert head.endswith("\n")
    assert 8 <= len(tail.splitlines()) <= 10
    (head,), (tail,) = split_texts(spills, validation_bytes=30)
    assert tail == "".join(lines[-2:])


def test_a_single_line_is_cut_between_characters(tmp_path):
    (head,), (tail,) = split_texts(spill(tmp_path, ["é" * 105]), validation_bytes=10**6)
    assert (len(head), len(tail)) == (95, 10)


def test_chosen_validation_documents_are_never_trained_on(tmp_path):
    spills = spill(tmp_path, ["c", "b", "c", "d"], ["a", "b", "", "a"], validation=1)
    train, validation = split_texts(spills, by_file=True)
    assert (sorted(train), sorted(validation)) == (["c", "d"], ["a", "b"])


@pytest.mark.parametrize(
    ("units", "validation", "message"),
    [
        ([[]], -1, "the corpus is empty"),
        ([["", ""]], -1, "the corpus is empty"),
        ([["tiny"]], -1, "too small"),
        ([["a"], [""]], 1, "validation files hold no text"),
        ([["a"], ["a"]], 1, "training files hold no text"),
    ],
)
def test_nothing_to_split_is_an_error(tmp_path, units, validation, message):
    with pytest.raises(UserError, match=message):
        split_texts(spill(tmp_path, *units, validation=validation), by_file=validation >= 0, validation_bytes=10)


def test_ranges_and_shards_do_not_change_the_order(tmp_path, monkeypatch):
    texts = [f"text number {i}" for i in range(300)]
    spills = spill(tmp_path, texts[:100], texts[50:])
    plain = split_texts(spills, validation_bytes=200)
    monkeypatch.setattr(split_module, "SHARD_BYTES", 300)
    monkeypatch.setattr(split_module, "SCAN_DOCUMENTS", 20)
    monkeypatch.setattr("isogloss.data.prepare.spills.PIECE_BYTES", 40)
    assert choose_split(spills, FilesConfig(train=("x",)), False, NONE).n_shards == 16
    assert split_texts(spills, validation_bytes=200) == plain
    assert plain[1] + plain[0] == sorted(texts, key=lambda text: text_key(text.encode()))


def size(texts: list[str]) -> int:
    return sum(len(text.encode()) for text in texts)


LONG = "".join(f"{number} and some words\n" for number in range(9600))
THREE = [LONG, "a" * 640, "b" * 900]
"""About 216 kB, 640 B and 900 B."""


def test_of_three_unequal_documents_the_share_in_bytes_is_met_by_cutting_the_longest(tmp_path):
    train, validation = split_texts(spill(tmp_path, THREE))
    total = size(THREE)
    assert size(train) + size(validation) == total
    assert 0.9 * total // 10 <= size(validation) <= total // 10
    assert LONG.endswith(validation[0])


@pytest.mark.parametrize(
    "texts",
    [
        ["x\n" * 5000, "y\n" * 5000],
        [f"{i}\n" * 4000 for i in range(1, 4)],
        ["only one\n" * 1000],
        ["short"] + [f"{i:09d}\n" * 95 for i in range(10)],
        ["1" * 30_000 + "\n" + "end\n"],
        [f"{i}" * 9_999 for i in range(10, 12)] + ["tiny", "small", "little"],
    ],
    ids=["two equal", "three", "one", "a short one and ten of nearly the share", "one line", "two lines"],
)
@pytest.mark.parametrize("turned", [False, True])
def test_few_documents_of_any_sizes_give_about_the_share_whatever_their_order(tmp_path, texts, turned):
    spills = spill(tmp_path, texts[::-1] if turned else texts[:1], [] if turned else texts[1:])
    train, validation = split_texts(spills)
    total = size(train) + size(validation)
    assert total // 10 // 2 <= size(validation) <= total // 10
    (tmp_path / "again").mkdir()
    assert split_texts(spill(tmp_path / "again", texts)) == (train, validation)


def test_a_fraction_that_leaves_less_than_half_of_the_bytes_is_refused_unless_asked(tmp_path):
    spills = spill(tmp_path, THREE)
    above = int.from_bytes(text_key(LONG.encode())[:8], "big") / (1 << 64) + 1e-9  # the long one's key is below it
    with pytest.raises(UserError, match=r"bytes of text to train on.*min_train_share = 0\.5.*validation_bytes decides"):
        split_texts(spills, validation_fraction=above)
    train, validation = split_texts(spills, validation_fraction=above, min_train_share=0.0)
    assert size(train) < size(validation), "what was asked for"
    assert sorted(train + validation) == sorted(THREE), "no document is cut: each stays on its side"


def test_what_is_odd_about_a_split_is_said():
    config = FilesConfig(train=("x",))
    tenth = FilesConfig(train=("x",), validation_fraction=0.1)
    assert list(doubts(config, 9_000_000, 600_000, False)) == list(doubts(tenth, 180_000, 20_000, False)) == []
    (small,) = doubts(config, 81_000, 9_000, False)
    assert "only 9,000 bytes of text validate, and below 10,000" in small
    (far,) = doubts(tenth, 995_000, 15_000, False)
    assert "15,000 of 1,010,000 bytes of text validate (1.5%), where 101,000 are asked for" in far
    (named,) = doubts(FilesConfig(train=("x",), validation=("y",)), 1_000, 90_000, True)
    assert "less than half of it is trained on" in named
    check_train_bytes(FilesConfig(train=("x",), validation=("y",)), 1_000, 90_000, True)
    with pytest.raises(UserError, match="min_train_share"):
        check_train_bytes(tenth, 40, 60, False)
    check_train_bytes(FilesConfig(train=("x",), min_train_share=0.4), 40, 60, False)
