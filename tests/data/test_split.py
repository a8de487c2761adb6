import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from isogloss.config.base import UserError
from isogloss.data.sources import Document
from isogloss.data.split import choose_split, survey


def source(texts, prefix="d"):
    return lambda: iter([Document(f"{prefix}{i}", text) for i, text in enumerate(texts)])


def split_texts(sources, validation_bytes):
    split = choose_split(survey(sources), sources, validation_bytes)
    return list(split.texts(sources, "train")), list(split.texts(sources, "validation"))


@settings(deadline=None)
@given(st.lists(st.text("abé\n", max_size=12), min_size=1, max_size=60), st.integers(1, 200))
def test_one_source_splits_without_loss_duplicates_or_leaks(texts, validation_bytes):
    distinct = [text for text in dict.fromkeys(texts) if text]
    total = sum(len(text.encode()) for text in distinct)
    try:
        train, validation = split_texts([source(texts)], validation_bytes)
    except UserError:
        assert min(validation_bytes, total // 10) < 2  # there may be no room for the last character
        return
    assert 0 < sum(len(text.encode()) for text in validation) <= total // 10
    assert train
    if sum(map(len, (train, validation))) == len(distinct):
        assert sorted(train + validation) == sorted(distinct)
    else:  # one document was cut
        assert len(validation) == 1
        assert any(text[: -len(validation[0])] in train for text in distinct if text.endswith(validation[0]))


@settings(deadline=None)
@given(st.permutations(range(30)))
def test_the_choice_depends_on_the_names_alone(order):
    documents = [Document(f"name {i}", f"text number {i}") for i in range(30)]
    shuffled = [lambda: iter([documents[i] for i in order])]
    plain = [lambda: iter(documents)]
    assert set(split_texts(shuffled, 40)[1]) == set(split_texts(plain, 40)[1])


def test_enough_documents_validate_but_not_more_than_needed():
    texts = [f"{i:09d}\n" for i in range(1000)]
    train, validation = split_texts([source(texts)], 55)
    assert (len(train), len(validation)) == (994, 6)
    assert len(split_texts([source(texts)], 10**6)[1]) == 100


def test_a_single_document_is_cut_at_a_line_end():
    lines = [f"line {i}: é\n" for i in range(100)]
    (head,), (tail,) = split_texts([source(["".join(lines)])], 10**6)
    assert head + tail == "".join(lines)
    assert head.endswith("\n")
    assert 8 <= len(tail.splitlines()) <= 10
    (head,), (tail,) = split_texts([source(["".join(lines)])], 30)
    assert tail == "".join(lines[-2:])


def test_a_single_line_is_cut_between_characters():
    (head,), (tail,) = split_texts([source(["é" * 105])], 10**6)
    assert (len(head), len(tail)) == (95, 10)


def test_chosen_validation_documents_are_never_trained_on():
    validation, train = ["a", "b", "", "a"], ["c", "b", "c", "d"]
    sources = [source(validation, "v"), source(train, "t")]
    documents = survey(sources)
    assert (documents.n_duplicates, documents.n_empty) == (3, 1)
    assert split_texts(sources, 1) == (["c", "d"], ["a", "b"])


@pytest.mark.parametrize(
    ("sources", "message"),
    [
        ([source([])], "the corpus is empty"),
        ([source(["", ""])], "the corpus is empty"),
        ([source(["tiny"])], "too small"),
        ([source([""]), source(["a"])], "validation files hold no text"),
        ([source(["a"]), source(["a"])], "training files hold no text"),
    ],
)
def test_nothing_to_split_is_an_error(sources, message):
    with pytest.raises(UserError, match=message):
        split_texts(sources, 10)


def test_documents_that_change_meanwhile_are_noticed():
    texts = [f"text {i}\n" for i in range(40)]
    split = choose_split(survey([source(texts)]), [source(texts)], 10)
    with pytest.raises(UserError, match="changed"):
        list(split.texts([source([*texts[:-1], "longer than before"])], "train"))
    with pytest.raises(UserError, match="vanished"):
        list(split.texts([source(texts[:3])], "train"))
