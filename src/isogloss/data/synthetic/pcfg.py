r"""Sentences of a random probabilistic context-free grammar whose parse a reader can follow from left to right.

The grammar is *simple* (Korenjak and Hopcroft 1966, "Simple deterministic languages"): each rule A -> a B.. begins with
a terminal, and the rules of one nonterminal begin with different ones. A sentence then has one derivation, and each
symbol reveals the one rule that was applied: predicting the next symbol is predicting the next rule of the nonterminal
on top of the stack, and nothing but a stack tells which that is. A row is ``end_of_text``, a sentence, ``end_of_text``,
a sentence ..., cut at T; the end is certain once the stack is empty.

With h_A the entropy of A's rules and M_AB the expected number of B's in a rule of A (spectral radius below 1, so that
sentences end), the entropy of a sentence from A and its expected length are (Grenander 1967, "Syntax-controlled
probabilities")

    H = h + M H,        L = 1 + M L,        entropy rate = H_S / (L_S + 1)  nats a token, ends included.

A row is cut somewhere, and begins at a sentence, so its loss a target is not quite the rate. It is computed exactly:
with l_A(m) the probability that A yields m symbols, the entropy of the first n of them is

    E_A(n) = h_A + Σ_rules p_r [ E_B(n - 1) + Σ_m l_B(m) E_C(n - 1 - m) ]          for A -> a B C,  E_A(0) = 0

and the row is the yield of Z -> end_of_text S Z, which never ends: floor = E_Z(T + 1) / T.
"""

from typing import Literal

import numpy as np
from jaxtyping import Float
from pydantic import Field, model_validator

from isogloss.data.counter import Draws, stream_key
from isogloss.data.synthetic.task import OPENING, RESOLUTION, Sample, SyntheticConfig, entropy, lookup, quantised

MAX_CHILDREN = 2


class PCFGConfig(SyntheticConfig):
    """Sentences of a random grammar: what a model needs is a stack, and the floor is the grammar's entropy."""

    type: Literal["pcfg"] = "pcfg"
    n_nonterminals: int = Field(default=8, ge=1, le=256)
    """Different phrases; the first is the sentence."""
    n_terminals: int = Field(default=32, ge=2, le=1024)
    """Different symbols, shared by all phrases."""
    n_rules: int = Field(default=6, ge=2, le=64)
    """Rules of each phrase; they have no, one and two phrases in turn."""
    branching: float = Field(default=0.9, gt=0, le=0.95)
    """Expected number of phrases within a phrase, each of them the same: a sentence has 1 / (1 - branching) symbols."""
    concentration: float = Field(default=1.0, ge=0.01)
    """Of the Dirichlet distribution that rules' probabilities are drawn from."""

    @model_validator(mode="after")
    def _check(self) -> "PCFGConfig":
        if self.n_rules > self.n_terminals:
            raise ValueError(
                f"n_rules ({self.n_rules}) must not exceed n_terminals ({self.n_terminals}): each rule of a phrase "
                "begins with a symbol of its own"
            )
        return self


class PCFG:
    """The grammar of a config. Implements ``Task``.

    Rule r of nonterminal A is number A·R + r; ``first`` is the terminal it begins with (from 1), ``children`` its
    nonterminals (-1: none). The last nonterminal is Z, whose rules are all ``end_of_text S Z``.
    """

    min_seq_len = 1

    def __init__(self, config: PCFGConfig):
        n, n_rules = config.n_nonterminals, config.n_rules
        self.n_tokens = config.n_terminals + 1
        random = np.random.RandomState(np.random.MT19937(stream_key(f"pcfg:{config.seed}")))
        arity = np.arange(n_rules) % (MAX_CHILDREN + 1)
        probabilities, first = np.empty((n + 1, n_rules)), np.empty((n + 1, n_rules), dtype=np.int64)
        children = np.full((n + 1, n_rules, MAX_CHILDREN), -1)
        counts = np.empty((n + 1, n_rules), dtype=np.int64)
        for phrase in range(n):
            weights = random.dirichlet(np.full(n_rules, config.concentration)) + 1e-6
            counts[phrase] = quantised(_tilted(weights, arity, config.branching))
            first[phrase] = 1 + random.permutation(config.n_terminals)[:n_rules]
            for rule in range(n_rules):
                children[phrase, rule, : arity[rule]] = random.randint(0, n, size=arity[rule])
        counts[n] = quantised(np.full(n_rules, 1 / n_rules))
        first[n], children[n] = OPENING, (0, n)
        probabilities = counts / (1 << RESOLUTION)
        self.n_nonterminals, self.n_rules = n, n_rules
        self.probabilities: Float[np.ndarray, "A R"] = probabilities
        self.first, self.children = first.reshape(-1), children.reshape(-1, MAX_CHILDREN)
        self._table = lookup(counts)
        self.rule_entropies = entropy(probabilities)
        self.rule_entropies[n] = 0.0  # all of Z's rules are one

    def expected_children(self) -> Float[np.ndarray, "A A"]:
        """M, of the grammar without Z."""
        n = self.n_nonterminals
        expected = np.zeros((n, n + 1))
        for phrase in range(n):
            for rule in range(self.n_rules):
                for child in self.children[phrase * self.n_rules + rule]:
                    expected[phrase, child] += self.probabilities[phrase, rule]  # -1 goes to the column left out
        return expected[:, :n]

    def sentence_entropy(self) -> float:
        """H_S: nats in a sentence."""
        n = self.n_nonterminals
        return float(np.linalg.solve(np.eye(n) - self.expected_children(), self.rule_entropies[:n])[0])

    def sentence_length(self) -> float:
        """L_S: expected symbols in a sentence, its end not counted."""
        n = self.n_nonterminals
        return float(np.linalg.solve(np.eye(n) - self.expected_children(), np.ones(n))[0])

    @property
    def entropy_rate(self) -> float:
        """Nats a token, ends of sentences included, far from the row's beginning."""
        return self.sentence_entropy() / (self.sentence_length() + 1)

    def floor(self, seq_len: int) -> float:
        """Exact for rows of this length; nats a target."""
        n_rules, reach = self.n_rules, seq_len + 2
        left, right = self.children[:, 0], self.children[:, 1]
        weights = self.probabilities.reshape(-1)
        # One more line, all of zeros, stands for "no child" (index -1): it yields nothing and has no entropy.
        lengths, entropies = np.zeros((2, self.n_nonterminals + 2, reach))
        for n in range(1, reach):
            both = np.einsum("rm,rm->r", lengths[left, 1 : n - 1], lengths[right, n - 2 : 0 : -1]) if n > 2 else 0.0
            by_rule = np.where(left < 0, float(n == 1), np.where(right < 0, lengths[left, n - 1], both))
            lengths[:-1, n] = (weights * by_rule).reshape(-1, n_rules).sum(1)
            later = np.einsum("rm,rm->r", lengths[left, 1 : n - 1], entropies[right, n - 2 : 0 : -1]) if n > 2 else 0.0
            by_rule = entropies[left, n - 1] + later
            entropies[:-1, n] = self.rule_entropies + (weights * by_rule).reshape(-1, n_rules).sum(1)
        return float(entropies[self.n_nonterminals, seq_len + 1]) / seq_len

    def generate(self, draws: Draws, seq_len: int, split: str) -> Sample:
        """Rows that begin with a sentence; every token counts."""
        n_rows = draws.n_rows
        every = np.arange(n_rows)
        stack = np.empty((seq_len + 3, n_rows), dtype=np.int64)
        stack[0] = self.n_nonterminals
        top = np.zeros(n_rows, dtype=np.int64)
        arity = (self.children >= 0).sum(1)
        last = np.where(arity == MAX_CHILDREN, self.children[:, 1], self.children[:, 0])  # pushed first
        bits = (draws.words("rule", seq_len + 1) >> np.uint64(64 - RESOLUTION)).astype(np.int64).T.copy()
        tokens = np.empty((seq_len + 1, n_rows), dtype=np.int64)
        for t in range(seq_len + 1):
            phrase = stack[top, every]
            rule = phrase * self.n_rules + self._table[(phrase << RESOLUTION) + bits[t]]
            tokens[t] = self.first[rule]
            stack[top, every] = last[rule]
            stack[top + 1, every] = self.children[rule, 0]
            top += arity[rule] - 1
        return Sample(np.ascontiguousarray(tokens.T), np.ones((n_rows, seq_len), dtype=bool))


def _tilted(weights: Float[np.ndarray, "R"], arity: np.ndarray, branching: float) -> Float[np.ndarray, "R"]:
    """The probabilities nearest to ``weights`` (in relative entropy) of which ``arity`` has this mean: w·exp(λ·arity).

    λ by bisection: the mean rises with it.
    """

    def at(strength: float) -> Float[np.ndarray, "R"]:
        tilted = weights * np.exp(strength * arity - max(0.0, strength * arity.max()))
        return tilted / tilted.sum()

    low, high = -50.0, 50.0
    for _ in range(100):
        middle = (low + high) / 2
        low, high = (middle, high) if at(middle) @ arity < branching else (low, middle)
    return at(low)
