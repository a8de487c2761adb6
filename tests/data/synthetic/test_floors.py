"""Floors of the generated processes against generated rows, scored by reading the process's own tables."""

import itertools

import numpy as np
import pytest

from isogloss.data.synthetic.corpus import SyntheticCorpus
from isogloss.data.synthetic.markov import Markov, MarkovConfig
from isogloss.data.synthetic.pcfg import PCFG, PCFGConfig
from isogloss.data.synthetic.task import RESOLUTION, entropy, lookup, quantised


def measured(losses: np.ndarray) -> tuple[float, float]:
    """Mean over rows of the loss a target, and its standard error."""
    rows = losses.mean(axis=1)
    return float(rows.mean()), float(rows.std() / np.sqrt(len(rows)))


def markov_losses(chain: Markov, tokens: np.ndarray) -> np.ndarray:
    """-log p of each symbol given those before it in its row, by brute force over contexts."""
    order, n = chain.order, chain.n_symbols
    joint = chain.stationary.reshape((n,) * order)
    losses = np.empty((len(tokens), tokens.shape[1] - 1))
    for row, symbols in zip(losses, tokens[:, 1:] - 1, strict=True):
        for t, symbol in enumerate(symbols):
            if t < order:
                seen = joint[tuple(symbols[:t])].reshape(n, -1).sum(1)
                row[t] = -np.log(seen[symbol] / seen.sum())
            else:
                context = int(np.ravel_multi_index(tuple(symbols[t - order : t]), (n,) * order))
                row[t] = -np.log(chain.probabilities[context, symbol])
    return losses


@pytest.mark.parametrize(
    ("config", "n_rows"),
    [
        (MarkovConfig(), 1500),
        (MarkovConfig(n_symbols=5, order=3, concentration=0.5, seq_len=20), 2000),
        (MarkovConfig(n_symbols=3, order=4, seq_len=2), 5000),
    ],
)
def test_the_floor_of_a_chain_is_what_its_rows_cost(config, n_rows) -> None:
    corpus = SyntheticCorpus(config)
    assert isinstance(corpus.task, Markov)
    tokens, targets, _ = corpus.rows("train", config.seq_len).rows(np.arange(n_rows))
    losses = markov_losses(corpus.task, np.concatenate([tokens, targets[:, -1:]], axis=1))
    mean, error = measured(losses)
    assert abs(mean - corpus.floor) < 4 * error
    assert error < 0.02


def test_a_chain_is_as_its_table_says() -> None:
    chain = Markov(MarkovConfig(n_symbols=6, order=2, concentration=0.4))
    p = chain.probabilities
    np.testing.assert_array_equal(p.sum(1), 1)
    assert p.min() >= 2.0**-RESOLUTION
    transition = np.zeros((36, 36))
    for a, b, c in itertools.product(range(6), repeat=3):
        transition[6 * a + b, 6 * b + c] = p[6 * a + b, c]
    np.testing.assert_allclose(chain.stationary @ transition, chain.stationary, atol=1e-13)
    # From a known context on: the powers of the transition matrix; in the end, the entropy rate.
    expected = [np.linalg.matrix_power(transition, t)[7] @ entropy(p) for t in range(4)]
    np.testing.assert_allclose(chain.losses_after(7, 4), expected)
    assert chain.losses_after(7, 500)[-1] == pytest.approx(chain.entropy_rate)


def pcfg_losses(grammar: PCFG, tokens: np.ndarray) -> np.ndarray:
    """-log p of each token, by a parser that keeps a stack; a token that no rule begins with would be an error."""
    losses = np.empty((len(tokens), tokens.shape[1] - 1))
    sentence_loop = grammar.n_nonterminals
    for row, symbols in zip(losses, tokens.tolist(), strict=True):
        assert symbols[0] == 0
        stack: list[int] = [0]
        for t, symbol in enumerate(symbols[1:]):
            if not stack:
                assert symbol == 0
                row[t] = 0.0
                stack = [0]
                continue
            phrase = stack.pop()
            assert phrase != sentence_loop
            first = grammar.first.reshape(-1, grammar.n_rules)[phrase].tolist()
            rule = first.index(symbol)
            row[t] = -np.log(grammar.probabilities[phrase, rule])
            children = grammar.children[phrase * grammar.n_rules + rule]
            stack += [child for child in children[::-1].tolist() if child >= 0]
    return losses


@pytest.mark.parametrize(
    ("config", "n_rows"),
    [
        (PCFGConfig(), 1500),
        (PCFGConfig(n_nonterminals=3, n_terminals=4, n_rules=3, branching=0.5, seq_len=7), 3000),
        (PCFGConfig(n_nonterminals=1, n_terminals=2, n_rules=2, branching=0.8, seq_len=1), 5000),
    ],
)
def test_the_floor_of_a_grammar_is_what_its_rows_cost(config, n_rows) -> None:
    corpus = SyntheticCorpus(config)
    assert isinstance(corpus.task, PCFG)
    tokens, targets, _ = corpus.rows("train", config.seq_len).rows(np.arange(n_rows))
    mean, error = measured(pcfg_losses(corpus.task, np.concatenate([tokens, targets[:, -1:]], axis=1)))
    assert abs(mean - corpus.floor) < 4 * error
    assert error < 0.02


def test_a_grammar_is_as_its_system_says() -> None:
    grammar = PCFG(PCFGConfig(branching=0.8))
    assert np.abs(np.linalg.eigvals(grammar.expected_children())).max() == pytest.approx(0.8, abs=0.01)
    assert grammar.sentence_length() == pytest.approx(5, rel=0.05)
    # Far from the row's beginning the loss a target is the sentence's entropy over its length: as 1/T.
    distances = [grammar.floor(n) - grammar.entropy_rate for n in (500, 1000)]
    assert distances[1] == pytest.approx(distances[0] / 2, rel=0.01)
    assert abs(distances[1]) < 0.005
    # Sentences themselves: their mean entropy and length, over those that are whole.
    corpus = SyntheticCorpus(PCFGConfig(branching=0.8, seq_len=400))
    tokens, targets, _ = corpus.rows("train", 400).rows(np.arange(200))
    rows = np.concatenate([tokens, targets[:, -1:]], axis=1)
    starts = [np.nonzero(row == 0)[0][:20] for row in rows]  # the first ones, long or short
    lengths = np.concatenate([np.diff(s) - 1 for s in starts])
    assert lengths.mean() == pytest.approx(grammar.sentence_length(), abs=4 * lengths.std() / np.sqrt(len(lengths)))


def test_a_process_that_is_known_by_hand() -> None:
    """One phrase, S -> a | b S: geometric lengths, whose entropy is that of the coin over its chance to stop."""
    grammar = PCFG(PCFGConfig(n_nonterminals=1, n_terminals=2, n_rules=2, branching=0.75))
    (stop, go) = grammar.probabilities[0]
    assert go == pytest.approx(0.75, abs=1e-3)
    coin = -stop * np.log(stop) - go * np.log(go)
    assert grammar.sentence_entropy() == pytest.approx(coin / stop)
    assert grammar.sentence_length() == pytest.approx(1 / stop)


def test_quantised_probabilities() -> None:
    random = np.random.default_rng(0)
    probabilities = random.dirichlet(np.full(50, 0.1), size=200)
    counts = quantised(probabilities)
    assert (counts.sum(1) == 1 << RESOLUTION).all()
    assert counts.min() >= 1
    share = probabilities * ((1 << RESOLUTION) - 50) + 1
    assert np.abs(counts - share).max() < 1
    table = lookup(counts[:3])
    assert np.bincount(table[2 << RESOLUTION :], minlength=50).tolist() == counts[2].tolist()


def test_too_many_contexts() -> None:
    with pytest.raises(ValueError, match="contexts"):
        MarkovConfig(n_symbols=32, order=3)
    with pytest.raises(ValueError, match="n_terminals"):
        PCFGConfig(n_rules=8, n_terminals=4)
