"""Mixtures: several texts, each prepared by itself, read together in proportions by token that may change on the way.

Weights are of targets, not of documents or rows: a source whose rows are fuller needs fewer of them. Where none are
given they are proportional to ``tokens^(1/temperature)`` (Conneau et al. 2019, "Unsupervised Cross-lingual
Representation Learning at Scale", where 1/temperature is alpha). ``rows/mixing.py`` keeps the proportions to the row.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, Literal

import numpy as np
from jaxtyping import Int
from pydantic import Field, model_validator

from isogloss.config.base import Config, UserError
from isogloss.data.baselines import Baselines
from isogloss.data.corpus import Cut, PackedConfig, Packing, Part, SplitFacts, SplitName, hash_of
from isogloss.data.prepare import TextChoice, prepare, training_texts
from isogloss.data.prepare.progress import Watch
from isogloss.data.prepared import PreparedCorpus
from isogloss.data.rows.mixing import MixedRows, Segment, block_size
from isogloss.data.rows.order import Shuffled
from isogloss.data.rows.packing import PackedRows
from isogloss.data.rows.source import Rows, RowSource, gather_rows
from isogloss.data.tokenizers.base import Tokenizer
from isogloss.data.tokenizers.config import BPEConfig, FileConfig, TokenizerConfig
from isogloss.data.tokenizers.loading import build_tokenizer, keep_tokenizer
from isogloss.durable import FileLock


class MixtureSource(Config):
    """One text of a mixture."""

    data: TextChoice
    """The text."""
    weight: float | None = Field(default=None, ge=0)
    """Its share of the training tokens, relative to the others' weights; by its size if no source has one."""
    max_epochs: float | None = Field(default=None, gt=0)
    """It is read at most this many times; the others then share its part."""
    max_tokens: int | None = Field(default=None, gt=0)
    """At most this many of its tokens are trained on, repeated ones included."""


class MixturePoint(Config):
    """Weights at a moment of training."""

    at: float = Field(ge=0, le=1)
    """The moment: 0 is the run's beginning, 1 its end."""
    weights: dict[str, float] = Field(min_length=1)
    """By source; one that is not named keeps the weight it had."""


class MixtureConfig(PackedConfig):
    """Several texts, mixed by weight."""

    type: Literal["mixture"] = "mixture"
    sources: dict[str, MixtureSource] = Field(min_length=1)
    """The texts, each under a name of its own."""
    temperature: float = Field(default=1.0, gt=0)
    """Where no weights are given, they are tokens to the power 1/temperature: above 1, small texts count for more."""
    schedule: tuple[MixturePoint, ...] = ()
    """How the weights change: linearly from point to point, and not after the last one."""

    @model_validator(mode="after")
    def _check(self) -> "MixtureConfig":
        given = [name for name, source in self.sources.items() if source.weight is not None]
        if given and len(given) < len(self.sources):
            missing = ", ".join(name for name in self.sources if name not in given)
            raise ValueError(f"weights are given to all sources or to none: {missing} has none")
        if given and self.temperature != 1:
            raise ValueError("temperature chooses weights where none are given: leave out one or the other")
        if given and not any(source.weight for source in self.sources.values()):
            raise ValueError("all weights are 0: nothing would be read")
        moments = [point.at for point in self.schedule]
        if moments != sorted(set(moments)):
            raise ValueError(f"schedule: each point must be after the one before it, but `at` is {moments}")
        for point in self.schedule:
            if unknown := [name for name in point.weights if name not in self.sources]:
                raise ValueError(f"schedule: there is no source {', '.join(unknown)}")
            if min(point.weights.values()) < 0:
                raise ValueError("schedule: a weight is below 0")
        return self


class MixtureCorpus:
    """Open texts that are mixed (a ``Corpus``).

    Args:
        config: the mixture.
        corpora: the text of each source, all with one tokenizer.
    """

    floor: float | None = None
    baselines: Baselines | None = None

    def __init__(self, config: MixtureConfig, corpora: Mapping[str, PreparedCorpus]) -> None:
        self.config, self.corpora = config, dict(corpora)
        self.points = self._points()
        """Moments of training, rising, with the weights by token that hold there, in the order of the sources."""

    def __reduce__(self) -> tuple[Any, ...]:
        """Another process opens the texts for itself."""
        return MixtureCorpus, (self.config, self.corpora)

    @property
    def tokenizer(self) -> Tokenizer:
        """The one of all sources."""
        return next(iter(self.corpora.values())).tokenizer

    @property
    def name(self) -> str:
        """A hash of the sources and of how they are mixed."""
        caps = [(source.max_epochs, source.max_tokens) for source in self.config.sources.values()]
        decisive = [[(name, corpus.name) for name, corpus in self.corpora.items()], caps, self.points]
        return hash_of(decisive)

    @property
    def origin(self) -> str:
        """The sources and their weights at the beginning, in words."""
        first = self.points[0][1]
        parts = zip(self.corpora.items(), first, strict=True)
        return "a mixture of " + ", ".join(f"{weight:.1%} {name} ({corpus.origin})" for (name, corpus), weight in parts)

    @property
    def parts(self) -> tuple[Part, ...]:
        """The sources, with the weights that training ends with."""
        last = self.points[-1][1]
        return tuple(Part(name, w, corpus) for (name, corpus), w in zip(self.corpora.items(), last, strict=True))

    def facts(self, split: SplitName) -> SplitFacts:
        """What the split holds in all sources together."""
        facts = [corpus.facts(split) for corpus in self.corpora.values()]
        totals = [sum(getattr(fact, name) or 0 for fact in facts) for name in ("n_documents", "n_tokens", "n_bytes")]
        return SplitFacts(*totals)

    def rows(
        self, split: SplitName, seq_len: int, within_document: bool = True, packing: Packing = "concatenate"
    ) -> RowSource:
        """The rows of a split: for training the mixture of a run that sees about each row once (see ``mixed``)."""
        cut = Cut(seq_len, within_document, packing)
        if split == "validation":
            return _Joined([corpus.rows(split, *cut) for corpus in self.corpora.values()])
        return self.mixed(cut, 0, sum(corpus.rows(split, *cut).n_rows for corpus in self.corpora.values()))

    def mixed(self, cut: Cut, seed: int, n_rows: int) -> MixedRows:
        """The training rows of a run.

        Args:
            cut: how rows are cut.
            seed: decides each source's order.
            n_rows: how many rows the run reads; what the moments of the schedule are parts of.

        Raises:
            UserError: a source with a weight has too few tokens, or all have reached their limits before the end.
        """
        sources: dict[str, RowSource] = {}
        per_row: dict[str, float] = {}
        caps: list[int | None] = []
        for name, corpus in self.corpora.items():
            packed: PackedRows = corpus.rows("train", *cut)
            if packed.n_rows == 0:
                raise UserError(f"data.sources.{name}: too few tokens to predict any; leave it out")
            sources[name] = Shuffled(packed, seed, name)
            per_row[name] = packed.n_targets / packed.n_rows
            source = self.config.sources[name]
            limits = [
                *([] if source.max_epochs is None else [int(source.max_epochs * packed.n_rows)]),
                *([] if source.max_tokens is None else [int(source.max_tokens / per_row[name])]),
            ]
            caps.append(min(limits, default=None))
        points = tuple(
            (round(at * n_rows), tuple(w / per_row[name] for name, w in zip(sources, weights, strict=True)))
            for at, weights in self.points
        )
        segment = Segment(0, block_size(n_rows), tuple(sources), tuple(caps), points)
        return MixedRows(sources, per_row, segment, n_rows)

    def _points(self) -> list[tuple[float, tuple[float, ...]]]:
        sources = self.config.sources
        weights = {name: source.weight for name, source in sources.items()}
        if None in weights.values():
            sizes = {name: corpus.facts("train").n_tokens or 0 for name, corpus in self.corpora.items()}
            largest = max(sizes.values())
            weights = {name: (n / largest) ** (1 / self.config.temperature) for name, n in sizes.items()}
        points: list[tuple[float, tuple[float, ...]]] = []
        if not (self.config.schedule and self.config.schedule[0].at == 0):
            points.append((0.0, _normalised(weights)))
        for point in self.config.schedule:
            weights = weights | point.weights
            points.append((point.at, _normalised(weights)))
        return points


def _normalised(weights: Mapping[str, float | None]) -> tuple[float, ...]:
    values = [weight or 0.0 for weight in weights.values()]
    if not sum(values):
        raise UserError("data.schedule: all weights are 0 at a point: nothing would be read")
    return tuple(value / sum(values) for value in values)


class _Joined:
    """The rows of several finite sources, one source after the other (a ``RowSource``)."""

    def __init__(self, sources: Sequence[PackedRows]) -> None:
        self._sources = sources
        self._ends = np.cumsum([source.n_rows for source in sources])
        self.seq_len, self.n_rows = sources[0].seq_len, int(self._ends[-1])
        self.fingerprint = "+".join(source.fingerprint for source in sources)

    def rows(self, numbers: Int[np.ndarray, "N"]) -> Rows:
        """Some rows, by their numbers."""
        which = np.searchsorted(self._ends, numbers, side="right")
        begins = np.append(0, self._ends)
        return gather_rows(self._sources, which, numbers - begins[which])


def open_mixture(
    config: MixtureConfig,
    tokenizer_config: TokenizerConfig,
    progress: Callable[[str], None],
    verify: bool = False,
    *,
    workers: int | None = None,
    watch: Watch | None = None,
) -> MixtureCorpus:
    """Prepare every source of a mixture with one tokenizer; a `bpe` is trained on the training texts of all.

    Args:
        config: the mixture.
        tokenizer_config: the tokenizer of all sources.
        progress: as ``prepare``'s, and so are the others.
        verify: compare all checksums of what is prepared already.
        workers: processes.
        watch: follows the bytes done.

    Raises:
        UserError: as ``prepare``, naming the source.
    """
    texts = [source.data for source in config.sources.values()]
    if isinstance(tokenizer_config, BPEConfig):
        tokenizer_config = _shared_tokenizer(texts, tokenizer_config, progress, verify)
    corpora: dict[str, PreparedCorpus] = {}
    for name, source in config.sources.items():
        try:
            say = partial(_say, progress, name)
            corpora[name] = prepare(source.data, tokenizer_config, say, verify, workers=workers, watch=watch)
        except UserError as error:
            raise UserError(f"data.sources.{name}: {error}") from error
    return MixtureCorpus(config, corpora)


def _say(progress: Callable[[str], None], name: str, text: str) -> None:
    progress(f"{name}: {text}")


def _shared_tokenizer(
    texts: Sequence[TextChoice], config: BPEConfig, progress: Callable[[str], None], verify: bool
) -> FileConfig:
    """A BPE of all texts, kept beside the first one's prepared corpora."""
    gathered = [training_texts(text, verify=verify) for text in texts]
    decisive = [config.model_dump(mode="json"), [fingerprint for fingerprint, _ in gathered]]
    key = hash_of(decisive)
    folder = texts[0].prepared_dir / f"tokenizer-{key}"
    whole = folder / "tokenizer.json"
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(folder.with_name(f"{folder.name}.lock")):
            if not whole.is_file():  # nobody else has made it meanwhile
                progress(f"building the tokenizer ({config.type}) of all sources")
                tokenizer = build_tokenizer(config, lambda: (text for _, read in gathered for text in read()))
                keep_tokenizer(tokenizer, folder)
    except OSError as error:
        if not whole.is_file():  # a folder that cannot be written may hold it
            raise UserError(
                f"{folder}: the tokenizer cannot be written ({error.strerror or error}); choose another prepared_dir"
            ) from error
    return FileConfig(path=folder)
