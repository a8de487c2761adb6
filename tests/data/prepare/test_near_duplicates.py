import random
import re

import numpy as np
import pytest

from isogloss.config.base import UserError
from isogloss.data.prepare import FilesConfig, near_duplicates, prepare
from isogloss.data.prepare.config import NearDuplicatesConfig
from isogloss.data.prepare.near_duplicates import bands_of, find_near_duplicates, signer
from isogloss.data.prepare.spills import Spills, SpillWriter, UnitRecord, text_key
from isogloss.data.tokenizers.config import BytesConfig

CONFIG = NearDuplicatesConfig()
WORDS = [f"word{i}" for i in range(3000)]


def a_text(generator: random.Random, n_words: int = 300) -> list[str]:
    return generator.choices(WORDS, k=n_words)


def changed(generator: random.Random, text: list[str], n: int) -> list[str]:
    words = list(text)
    for at in generator.sample(range(len(words)), n):
        words[at] = "changed"
    return words


def spill(folder, *units: list[str], validation: int = -1) -> Spills:
    records = []
    for number, texts in enumerate(units):
        with SpillWriter(folder, number, signer(CONFIG)) as writer:
            for text in texts:
                writer.add(text.encode())
        runs = tuple(writer.runs)
        is_validation = number == validation
        records.append(
            UnitRecord(
                identity="", is_validation=is_validation, n_documents=0, n_bytes=0, dropped={}, bad=(), runs=runs
            )
        )
    return Spills(folder, records)


def dropped(spills: Spills) -> set[bytes]:
    return {key.ljust(16, b"\0") for key in find_near_duplicates(spills, CONFIG.threshold).tolist()}


def test_the_bands_turn_at_the_threshold():
    for threshold in (0.3, 0.5, 0.75, 0.9):
        n_bands, n_rows = bands_of(threshold)
        assert n_bands * n_rows <= near_duplicates.N_HASHES
        assert 1 - (1 - threshold**n_rows) ** n_bands == pytest.approx(0.5, abs=0.2)


def test_of_each_group_the_lowest_key_stays(tmp_path):
    generator = random.Random(0)
    originals = [a_text(generator) for _ in range(40)]
    groups = [[" ".join(text), *(" ".join(changed(generator, text, 2)) for _ in range(3))] for text in originals]
    units = [[group[i] for group in groups] for i in range(4)]
    expected = {key for group in groups for key in sorted(text_key(text.encode()) for text in group)[1:]}
    assert dropped(spill(tmp_path, *units)) == expected


ALPHABETS = {
    "Chinese": [chr(0x4E00 + i) for i in range(3000)],
    "Japanese": [chr(0x3041 + i) for i in range(80)] + [chr(0x5200 + i) for i in range(500)],
    "Thai": [chr(0xE01 + i) for i in range(46)] + [chr(0xE40 + i) for i in range(5)],
    "Khmer": [chr(0x1780 + i) for i in range(35)],
}


@pytest.mark.parametrize("script", ALPHABETS)
def test_near_copies_are_found_where_a_script_has_no_spaces(tmp_path, script):
    generator = random.Random(script)
    originals = [generator.choices(ALPHABETS[script], k=300) for _ in range(50)]
    copies = [list(text) for text in originals]
    for text in copies:
        text[generator.randrange(300)] = "和"
        text.insert(generator.randrange(300), "\u3002")
    others = [generator.choices(ALPHABETS[script], k=300) for _ in range(50)]
    units = [["".join(text) for text in texts] for texts in (originals, copies, others)]
    expected = {max(text_key(text.encode()) for text in pair) for pair in zip(*units[:2], strict=True)}
    assert dropped(spill(tmp_path, *units)) == expected


def test_words_between_spaces_are_compared_as_they_always_were(monkeypatch):
    """The signatures of scripts with spaces, and so the corpora, are those of ``\\w+``."""
    texts = [
        "The naïve café's 1st_x: Größe ... " * 9,
        "Привет, как дела сегодня, мой друг? " * 9,
        "안녕 세계 이 좋은 아침에 " * 9,
    ]
    now = signer(CONFIG)([text.encode() for text in texts])
    monkeypatch.setattr(near_duplicates, "_WORD", re.compile(r"\w+"))
    np.testing.assert_array_equal(signer(CONFIG)([text.encode() for text in texts]), now)


def test_what_differs_stays(tmp_path):
    generator = random.Random(1)
    texts = [a_text(generator) for _ in range(50)]
    half = [" ".join(text[:150] + a_text(generator, 150)) for text in texts]
    short = ["", "!", "?", "a b", "a c", "..."]
    assert dropped(spill(tmp_path, [" ".join(text) for text in texts], half, short[1:])) == set()


def test_chance_of_being_found_follows_the_share_of_common_sequences():
    """1 - (1 - J^r)^b at a J of our making, over 300 pairs."""
    generator = random.Random(2)
    n_bands, n_rows = bands_of(CONFIG.threshold)
    sign = signer(CONFIG)
    pairs = []
    for _ in range(300):
        text = a_text(generator, 404)
        pairs.append((" ".join(text).encode(), " ".join(changed(generator, text, 10)).encode()))
    first, second = (sign([pair[side] for pair in pairs]) for side in (0, 1))
    found = (first == second).any(axis=1).mean()

    def sequences(text: bytes) -> set[tuple[str, ...]]:
        words = text.decode().split()
        return set(zip(*(words[i:] for i in range(5)), strict=False))

    shares = [len(a & b) / len(a | b) for a, b in ((sequences(x), sequences(y)) for x, y in pairs)]
    expected = np.mean([1 - (1 - share**n_rows) ** n_bands for share in shares])
    assert 0.2 < expected < 0.9
    assert found == pytest.approx(expected, abs=4 * (expected * (1 - expected) / 300) ** 0.5)


def test_a_long_document_is_signed_piece_by_piece(monkeypatch):
    text = " ".join(a_text(random.Random(3), 2000)).encode()
    whole = signer(CONFIG)([text])
    monkeypatch.setattr(near_duplicates, "WORDS_AT_A_TIME", 7)
    np.testing.assert_array_equal(signer(CONFIG)([text]), whole)


def test_validation_files_come_first(tmp_path):
    generator = random.Random(4)
    texts = [a_text(generator) for _ in range(20)]
    train = [" ".join(text) for text in texts]
    validation = [" ".join(changed(generator, text, 1)) for text in texts]
    assert dropped(spill(tmp_path, train, validation, validation=1)) == {text_key(text.encode()) for text in train}


def test_chains_are_one_group():
    a, b = np.array([5, 1, 3, 7, 9]), np.array([1, 3, 7, 9, 0])
    np.testing.assert_array_equal(near_duplicates._join(np.arange(10), a, b), [0, 0, 2, 0, 4, 0, 6, 0, 8, 0])


def test_they_are_dropped_from_a_corpus_and_counted(tmp_path):
    generator = random.Random(5)
    folder = tmp_path / "texts"
    folder.mkdir()
    for number in range(20):
        text = a_text(generator)
        (folder / f"{number}-a.txt").write_text(" ".join(text))
        (folder / f"{number}-b.txt").write_text(" ".join(changed(generator, text, 1)))
        (folder / f"{number}-c.txt").write_text(" ".join(text))
    corpora = {
        near: prepare(
            FilesConfig(train=(str(folder),), prepared_dir=tmp_path, near_duplicates=near, validation_bytes=3000),
            BytesConfig(),
        )
        for near in (None, CONFIG)
    }
    counts = {
        near: (corpus.manifest.train.n_documents + corpus.manifest.validation.n_documents, corpus.manifest)
        for near, corpus in corpora.items()
    }
    assert (counts[None][0], counts[None][1].n_duplicates, counts[None][1].n_near_duplicates) == (40, 20, 0)
    assert (counts[CONFIG][0], counts[CONFIG][1].n_duplicates, counts[CONFIG][1].n_near_duplicates) == (20, 20, 20)


def test_without_the_library_it_says_what_to_install(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "rensa", None)
    with pytest.raises(UserError, match=r"pip install 'isogloss\[dedup\]'"):
        near_duplicates.find_rensa()
