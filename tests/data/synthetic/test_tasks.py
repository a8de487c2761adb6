"""Every generated corpus: rows by number, and answers that can be known from what stands before them."""

import pickle

import numpy as np
import pytest

from isogloss.config.base import UserError
from isogloss.data.corpus import Corpus
from isogloss.data.rows.source import RowSource
from isogloss.data.synthetic.associative_recall import AssociativeRecallConfig
from isogloss.data.synthetic.copy import COPY, CopyConfig
from isogloss.data.synthetic.corpus import TASKS, SyntheticCorpus
from isogloss.data.synthetic.induction import InductionConfig
from isogloss.data.synthetic.modular_arithmetic import EQUALS, ModularArithmeticConfig
from isogloss.data.synthetic.needle import ASK, MARK, NeedleConfig
from isogloss.data.synthetic.selective_copy import COPY as ANSWER
from isogloss.data.synthetic.selective_copy import NOISE, SelectiveCopyConfig
from isogloss.models.ignored import IGNORED


def rows_of(config, n=200, split="train", first=0):
    return SyntheticCorpus(config).rows(split, config.seq_len).rows(np.arange(first, first + n))


@pytest.mark.parametrize("kind", TASKS)
def test_rows_are_a_function_of_their_numbers(kind) -> None:
    corpus = SyntheticCorpus(kind(seq_len=67))
    source = corpus.rows("train", 67)
    assert isinstance(corpus, Corpus)
    assert isinstance(source, RowSource)
    assert source.n_rows is None
    numbers = np.array([9, 3, 2**40, 3, 0])
    rows = source.rows(numbers)
    for i, number in enumerate(numbers):
        alone = source.rows(np.array([number]))
        for together, single in zip(rows, alone, strict=True):
            np.testing.assert_array_equal(together[i], single[0])
    again = pickle.loads(pickle.dumps(corpus)).rows("train", 67)
    assert again.fingerprint == source.fingerprint
    np.testing.assert_array_equal(again.rows(numbers).tokens, rows.tokens)


@pytest.mark.parametrize("kind", TASKS)
def test_splits_and_seeds_are_apart(kind) -> None:
    seen: set[bytes] = set()
    for config, split in ((kind(), "train"), (kind(), "validation"), (kind(seed=1), "train")):
        rows = rows_of(config, 300, split)
        texts = {row.tobytes() for row in rows.tokens}
        assert len(texts) == 300  # nor does a row come twice
        assert not texts & seen
        seen |= texts
    validation = SyntheticCorpus(kind(validation_rows=7)).rows("validation", 128)
    assert validation.n_rows == 7
    assert validation.fingerprint != SyntheticCorpus(kind(seed=1)).rows("validation", 128).fingerprint


@pytest.mark.parametrize("kind", TASKS)
def test_rows_are_well_formed(kind) -> None:
    corpus = SyntheticCorpus(kind())
    for seq_len in (corpus.task.min_seq_len, 100, 101):
        tokens, targets, documents = corpus.rows("train", seq_len).rows(np.arange(100))
        assert tokens.shape == targets.shape == (100, seq_len)
        assert (tokens[:, 0] == corpus.tokenizer.end_of_text).all()
        assert tokens.min() >= 0
        assert tokens.max() < corpus.tokenizer.n_tokens
        counted = targets != IGNORED
        assert counted.any(axis=1).all(), "a row without a target"
        within = counted[:, :-1]
        np.testing.assert_array_equal(targets[:, :-1][within], tokens[:, 1:][within])
        assert documents is not None
        assert not documents.any()
    assert corpus.rows("train", 100, within_document=False).rows(np.arange(3)).documents is None
    if corpus.task.min_seq_len > 1:
        with pytest.raises(UserError, match=f"at least {corpus.task.min_seq_len}"):
            corpus.rows("train", corpus.task.min_seq_len - 1)


def recall(before: list[int]) -> int:
    """What followed the first occurrence of the last token."""
    return before[before.index(before[-1]) + 1]


def copied(before: list[int]) -> int:
    """Blocks are x_1 .. x_n COPY x_1 .. x_n, and all as long as the first."""
    length = before.index(COPY) - 1
    return before[-1 - length]


def selected(before: list[int]) -> int:
    at = before.index(ANSWER)
    data = [token for token in before[1:at] if token != NOISE]
    return data[len(before) - at - 1]


def found(before: list[int]) -> int:
    return before[before.index(MARK) + len(before) - before.index(ASK)]


def computed(config: ModularArithmeticConfig):
    first = 2 + len(config.operations)

    def result(before: list[int]) -> int:
        assert before[-1] == EQUALS
        equation = before[-2 * config.n_operands : -1]
        value = equation[0] - first
        for operation, operand in zip(equation[1::2], equation[2::2], strict=True):
            match config.operations[operation - 2]:
                case "add":
                    value += operand - first
                case "subtract":
                    value -= operand - first
                case "multiply":
                    value *= operand - first
        return first + value % config.modulus

    return result


ARITHMETIC = ModularArithmeticConfig(modulus=7, n_operands=4, operations=("subtract", "multiply", "add"))
ORACLES = [
    (InductionConfig(), recall),
    (InductionConfig(n_symbols=5, min_period=1, max_period=5, seq_len=7), recall),
    (AssociativeRecallConfig(), recall),
    (AssociativeRecallConfig(n_pairs=16, seq_len=64, power=1.0), recall),
    (CopyConfig(), copied),
    (CopyConfig(min_length=1, max_length=3, seq_len=5), copied),
    (SelectiveCopyConfig(), selected),
    (NeedleConfig(), found),
    (NeedleConfig(length=1, seq_len=4), found),
    (ModularArithmeticConfig(), computed(ModularArithmeticConfig())),
    (ARITHMETIC, computed(ARITHMETIC)),
]


@pytest.mark.parametrize(("config", "oracle"), ORACLES, ids=lambda value: getattr(value, "type", ""))
def test_an_oracle_answers_from_the_inputs_alone(config, oracle) -> None:
    tokens, targets, _ = rows_of(config)
    for before, row in zip(tokens.tolist(), targets.tolist(), strict=True):
        for t, target in enumerate(row):
            if target != IGNORED:
                assert oracle(before[: t + 1]) == target
    assert SyntheticCorpus(config).floor == 0


def test_what_does_not_count_could_not_be_known() -> None:
    """Induction ignores exactly the targets after tokens that are new; recall asks for every pair once."""
    tokens, targets, _ = rows_of(InductionConfig())
    for before, row in zip(tokens.tolist(), targets.tolist(), strict=True):
        for t, target in enumerate(row):
            assert (target != IGNORED) == (before[t] in before[:t])
    tokens, targets, _ = rows_of(AssociativeRecallConfig())
    for before, row in zip(tokens, targets, strict=True):
        asked = before[row != IGNORED]
        assert sorted(asked) == sorted(before[1:17:2])


def test_validation_asks_for_other_equations() -> None:
    config = ModularArithmeticConfig(modulus=11, train_fraction=0.7)
    equations = []
    for split in ("train", "validation"):
        tokens = rows_of(config, 400, split).tokens[:, 1:126].reshape(-1, 5)
        equations.append({tuple(equation) for equation in tokens.tolist()})
    assert [len(side) for side in equations] == [85, 36]
    assert not equations[0] & equations[1]


def test_needles_lie_where_they_are_asked_for() -> None:
    for depth, low, high in (((0.0, 0.0), 1, 1), ((1.0, 1.0), 119, 119), ((0.25, 0.5), 30, 60)):
        tokens = rows_of(NeedleConfig(depth=depth)).tokens
        place = np.argmax(tokens == MARK, axis=1)
        assert place.min() >= low
        assert place.max() <= high


def test_queries_follow_the_power_law() -> None:
    """Soon after the pairs if the power is small, anywhere if it is 1."""
    means = []
    for power in (0.01, 1.0):
        targets = rows_of(AssociativeRecallConfig(power=power, n_pairs=4), 2000).targets
        means.append((np.nonzero(targets != IGNORED)[1] - 9).mean() / 2)
    slots = np.arange(60)
    assert means[1] == pytest.approx(slots.mean(), abs=0.5)
    # The first of the draws has the law itself, later ones what it leaves; their mean lies between law and evenness.
    law = (slots + 1.0) ** -0.99
    assert law @ slots / law.sum() < means[0] < 20


@pytest.mark.parametrize(
    "wrong",
    [
        lambda: CopyConfig(min_length=5, max_length=4),
        lambda: InductionConfig(n_symbols=10),
        lambda: NeedleConfig(depth=(0.5, 0.2)),
        lambda: ModularArithmeticConfig(operations=("add", "add")),
        lambda: ModularArithmeticConfig(n_operands=20),
        lambda: ModularArithmeticConfig(modulus=2, train_fraction=0.01),
    ],
)
def test_settings_that_cannot_be(wrong) -> None:
    with pytest.raises(ValueError, match=r"above|fall|rising|twice|numbered|without any"):
        wrong()
