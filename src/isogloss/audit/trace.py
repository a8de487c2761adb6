"""What a forward pass shows: a tag for each tensor on the way, and the trace that is left of it."""

from dataclasses import dataclass, field

from isogloss.audit.spread import Spread

EMPTY: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Tag:
    """The origin of a tensor.

    Args:
        live: it depends on the tokens; if not, it is made of parameters alone.
        sources: parameters of the products it was last made of; empty for the stream and its norms.
        branch: parameters of all products since the stream.
        params: parameters that took part since the last product.
        marks: what it passed: root and inverse_root (of a power, so a norm's), normed, ungained (normed, before its
            gain), activated, bounded (a sigmoid or a softmax, so a gate), softmax, attention, time, step (softplus),
            token (made of the tokens' numbers before any lookup), joined (parameters side by side).
        pair: for attention logits, the sources of the two factors.
        gain: by which weights each channel was last multiplied, and the smallest and largest of them.
        power: what an epsilon was just added to, in the mean, and that epsilon; its root keeps it.
        past: one bit for each tensor that it depends on, itself included.
        carried: one bit for each tensor of which it is a sum, up to scales and norms, itself included.
        writes: numbers of the possible writes among those.
    """

    live: bool
    sources: frozenset[str] = EMPTY
    branch: frozenset[str] = EMPTY
    params: frozenset[str] = EMPTY
    marks: frozenset[str] = EMPTY
    pair: tuple[frozenset[str], frozenset[str]] | None = None
    gain: tuple[frozenset[str], float, float] | None = None
    power: tuple[float, float] | None = None
    past: int = 0
    carried: int = 0
    writes: frozenset[int] = frozenset()

    @property
    def is_stream(self) -> bool:
        """The residual stream, or a norm of it."""
        return self.live and not self.sources


@dataclass
class Product:
    """One parameter's product with activations, as first seen.

    Args:
        effective: of the factor itself, where it is computed from parameters (weight norm, a scale in the forward
            pass) and so has another scale than they have.
        carried: of the activations' tag.
        writes: of the activations' tag.
    """

    n_in: int
    n_out: int
    reads_stream: bool
    branch: frozenset[str]
    marks: frozenset[str]
    rms_in: float
    rms_out: float
    effective: Spread | None = None
    carried: int = 0
    writes: frozenset[int] = frozenset()


@dataclass
class Norm:
    """One norm's effective gain, and epsilon over the power of its input."""

    gain: tuple[float, float] | None = None
    eps_share: float = 0.0
    power: float = 0.0
    eps: float = 0.0


@dataclass(frozen=True)
class WriteToStream:
    """One addition to the stream.

    Args:
        writers: the parameters whose product is added.
        branch: these, and the parameters of all products on the way to them from the stream.
        stream: root mean square of the sum.
        write: root mean square of what is added.
        normed: a norm precedes the addition, in the branch.
        stream_normed: a norm precedes the addition, in the stream.
    """

    writers: frozenset[str]
    branch: frozenset[str]
    stream: float
    write: float
    normed: bool
    stream_normed: bool


@dataclass(frozen=True)
class Decay:
    """The decay of one recurrence.

    Args:
        params: parameters of its rate.
        rate: the median over heads or channels of their slowest mean rate, a token.
        step: the median step.
        steps: mean step of each channel, in ascending order; empty where the rate is no product of a step and a
            factor of parameters alone.
    """

    params: frozenset[str]
    rate: float
    step: float
    steps: tuple[float, ...] = ()


@dataclass
class Trace:
    """All that a forward pass shows.

    Args:
        possible: additions to a tensor from which the addend was computed, where the stream is not known for sure.
        unattributed: parameters that act on the stream in another way than by being added to it.
        fused: matrices of several parts (q, k and v; gate and up).
        convolutions: parameters of convolutions.
        n_products: how many products were computed.
        ambiguous: a decay has two axes as long as there are tokens.
    """

    products: dict[str, Product] = field(default_factory=dict)
    embeddings: dict[str, int] = field(default_factory=dict)
    writes: list[WriteToStream] = field(default_factory=list)
    possible: list[WriteToStream] = field(default_factory=list)
    unattributed: set[str] = field(default_factory=set)
    gates: set[str] = field(default_factory=set)
    ups: set[str] = field(default_factory=set)
    fused: set[str] = field(default_factory=set)
    convolutions: set[str] = field(default_factory=set)
    queries: set[str] = field(default_factory=set)
    keys: set[str] = field(default_factory=set)
    values: set[str] = field(default_factory=set)
    routers: set[str] = field(default_factory=set)
    norms: dict[str, Norm] = field(default_factory=dict)
    attention: dict[str, float] = field(default_factory=dict)
    decays: dict[str, Decay] = field(default_factory=dict)
    n_heads: int = 1
    n_products: int = 0
    ambiguous: bool = False
    head: str | None = None
    loss: float | None = None
    n_vocab: int = 0
    logit_std: float = 0.0

    @property
    def writers(self) -> frozenset[str]:
        """Every parameter that writes to the stream."""
        return frozenset().union(*(write.writers for write in self.writes))

    @property
    def inner(self) -> frozenset[str]:
        """Every parameter that is on the way to a writer, and writes nothing itself: what is known to be no writer."""
        return frozenset().union(*(write.branch for write in self.writes)) - self.writers - self.unattributed

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
