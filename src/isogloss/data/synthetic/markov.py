"""Markov chains of order k (Shannon 1948, "A mathematical theory of communication", sections 2 to 7).

Each context of k symbols has a distribution of the next one, drawn from a symmetric Dirichlet distribution and rounded
to multiples of 2^-12, none of them 0: every context is reached from every other, so there is one stationary
distribution π of contexts. A row's first k symbols are drawn from π, and it stays there. With h_c the entropy of the
distribution after context c, the chain's entropy rate is h = Σ π_c h_c, and by the chain rule a row of T targets costs

    H(x_1 .. x_T) / T = (H(π) + (T - k) h) / T     nats a target

under the best predictor, the process itself. That is the floor: of the first k symbols too, and exact at any T.
"""

from functools import cached_property
from typing import Literal

import numpy as np
from jaxtyping import Float
from pydantic import Field, model_validator

from isogloss.data.counter import Draws, stream_key
from isogloss.data.synthetic.task import OPENING, RESOLUTION, Sample, SyntheticConfig, entropy, lookup, quantised

MAX_CONTEXTS = 1 << 12


class MarkovConfig(SyntheticConfig):
    """A random Markov chain: what a model can learn of it is its table, and the floor is the chain's entropy."""

    type: Literal["markov"] = "markov"
    n_symbols: int = Field(default=32, ge=2, le=1024)
    """Different symbols."""
    order: int = Field(default=1, ge=1)
    """How many symbols decide the distribution of the next one."""
    concentration: float = Field(default=0.2, ge=0.001)
    """Of the Dirichlet distribution that tables are drawn from: small makes symbols predictable, large all alike."""

    @model_validator(mode="after")
    def _check(self) -> "MarkovConfig":
        if self.n_symbols**self.order > MAX_CONTEXTS:
            raise ValueError(
                f"n_symbols {self.n_symbols} and order {self.order} make {self.n_symbols**self.order:,} contexts, more "
                f"than the {MAX_CONTEXTS:,} that are kept as a table; lower one of them"
            )
        return self


class Markov:
    """The chain of a config. Implements ``Task``."""

    min_seq_len = 1

    def __init__(self, config: MarkovConfig):
        self.order, self.n_symbols = config.order, config.n_symbols
        self.n_tokens = config.n_symbols + 1
        self.n_contexts = config.n_symbols**config.order
        # The legacy generator, whose streams NumPy has promised never to change (NEP 19).
        random = np.random.RandomState(np.random.MT19937(stream_key(f"markov:{config.seed}")))
        weights = random.dirichlet(np.full(self.n_symbols, config.concentration), size=self.n_contexts)
        counts = quantised(np.nan_to_num(weights, nan=1 / self.n_symbols))
        self.probabilities: Float[np.ndarray, "C V"] = counts / (1 << RESOLUTION)
        self._table = lookup(counts)

    @cached_property
    def stationary(self) -> Float[np.ndarray, "C"]:
        """π: the share of time that the chain spends in each context, the oldest symbol counting most in its number."""
        share = np.full(self.n_contexts, 1 / self.n_contexts)
        while True:
            after = self._step(share)
            if np.abs(after - share).sum() < 1e-14:
                return after / after.sum()
            share = after

    @property
    def entropy_rate(self) -> float:
        """h: nats a symbol, far from the row's beginning."""
        return float(self.stationary @ entropy(self.probabilities))

    def floor(self, seq_len: int) -> float:
        """Exact for rows of this length; nats a target."""
        if seq_len < self.order:
            of_contexts = self.stationary.reshape(self.n_symbols**seq_len, -1).sum(1)
            return float(entropy(of_contexts)) / seq_len
        return (float(entropy(self.stationary)) + (seq_len - self.order) * self.entropy_rate) / seq_len

    def losses_after(self, context: int, n: int) -> Float[np.ndarray, "N"]:
        """The best predictor's expected losses on the next n symbols, once the context is known."""
        share, losses = np.eye(1, self.n_contexts, context)[0], []
        of_context = entropy(self.probabilities)
        for _ in range(n):
            losses.append(share @ of_context)
            share = self._step(share)
        return np.array(losses)

    def generate(self, draws: Draws, seq_len: int, split: str) -> Sample:
        """Rows from the stationary distribution; every symbol counts."""
        start = np.searchsorted(np.cumsum(self.stationary), draws.uniform("start", 1)[:, 0])
        context = np.minimum(start, self.n_contexts - 1)
        powers = self.n_symbols ** np.arange(self.order - 1, -1, -1)
        symbols = np.empty((max(seq_len, self.order), draws.n_rows), dtype=np.int64)
        symbols[: self.order] = context // powers[:, None] % self.n_symbols
        bits = (draws.words("step", seq_len) >> np.uint64(64 - RESOLUTION)).astype(np.int64).T.copy()
        for t in range(self.order, seq_len):
            chosen = self._table[(context << RESOLUTION) + bits[t]]
            symbols[t] = chosen
            context = (context * self.n_symbols + chosen) % self.n_contexts
        tokens = np.concatenate([np.full((draws.n_rows, 1), OPENING), symbols[:seq_len].T + 1], axis=1)
        return Sample(tokens, np.ones((draws.n_rows, seq_len), dtype=bool))

    def _step(self, share: Float[np.ndarray, "C"]) -> Float[np.ndarray, "C"]:
        """The distribution of contexts one symbol later: (x, rest) is followed by (rest, y)."""
        joint = share[:, None] * self.probabilities
        return joint.reshape(self.n_symbols, -1).sum(0)
