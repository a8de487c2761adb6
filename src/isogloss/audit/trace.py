"""What a forward pass shows: a tag for each tensor on the way, and the trace that is left of it."""

from dataclasses import dataclass, field

EMPTY: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Tag:
    """What a tensor was made of.

    Args:
        live: it depends on the tokens; if not, it is made of parameters alone.
        sources: parameters of the products it was last made of; empty for the stream and its norms.
        branch: parameters of all products since the stream.
        params: parameters that took part since the last product.
        marks: what it passed: root and inverse_root (of a power, so a norm's), normed, ungained (normed, before its
            gain), activated, softmax, attention, time, step (softplus).
        pair: for attention logits, the sources of the two factors.
        gain: by which weights each channel was last multiplied, and the smallest and largest of them.
        power: what an epsilon was just added to, in the mean, and that epsilon; its root keeps it.
    """

    live: bool
    sources: frozenset[str] = EMPTY
    branch: frozenset[str] = EMPTY
    params: frozenset[str] = EMPTY
    marks: frozenset[str] = EMPTY
    pair: tuple[frozenset[str], frozenset[str]] | None = None
    gain: tuple[frozenset[str], float, float] | None = None
    power: tuple[float, float] | None = None

    @property
    def is_stream(self) -> bool:
        """The residual stream, or a norm of it."""
        return self.live and not self.sources


@dataclass
class Product:
    """One parameter's product with activations, as first seen."""

    n_in: int
    n_out: int
    reads_stream: bool
    branch: frozenset[str]
    marks: frozenset[str]
    rms_in: float
    rms_out: float


@dataclass
class Norm:
    """One norm's effective gain, and epsilon over the power of its input."""

    gain: tuple[float, float] | None = None
    eps_share: float = 0.0
    power: float = 0.0
    eps: float = 0.0


@dataclass(frozen=True)
class WriteToStream:
    """One addition to the stream: by whom, how large both are, and which of the two was normed just before."""

    writers: frozenset[str]
    stream: float
    write: float
    normed: bool
    stream_normed: bool


@dataclass(frozen=True)
class Decay:
    """What one recurrence forgets: parameters of its rate, and the smallest mean rate of any channel, a token."""

    params: frozenset[str]
    slowest: float
    step: float


@dataclass
class Trace:
    """All that a forward pass shows."""

    products: dict[str, Product] = field(default_factory=dict)
    embeddings: dict[str, int] = field(default_factory=dict)
    writes: list[WriteToStream] = field(default_factory=list)
    gates: set[str] = field(default_factory=set)
    ups: set[str] = field(default_factory=set)
    queries: set[str] = field(default_factory=set)
    keys: set[str] = field(default_factory=set)
    values: set[str] = field(default_factory=set)
    routers: set[str] = field(default_factory=set)
    norms: dict[str, Norm] = field(default_factory=dict)
    attention: dict[str, float] = field(default_factory=dict)
    decays: dict[str, Decay] = field(default_factory=dict)
    n_heads: int = 1
    head: str | None = None
    loss: float | None = None
    n_vocab: int = 0
    logit_std: float = 0.0

    @property
    def writers(self) -> frozenset[str]:
        """Every parameter that writes to the stream."""
        return frozenset().union(*(write.writers for write in self.writes))

    @property
    def is_post_norm(self) -> bool:
        """Whether the stream itself is normed between additions; before the first, the embedding's norm may stand."""
        return len(self.writes) > 1 and all(write.stream_normed for write in self.writes[1:])

    @property
    def readers(self) -> frozenset[str]:
        """Every parameter that reads the stream, the head included."""
        return frozenset(name for name, product in self.products.items() if product.reads_stream)


def made_of(tags: list[Tag]) -> frozenset[str]:
    """Parameters that took part in any of these."""
    return frozenset().union(*(tag.params for tag in tags))
