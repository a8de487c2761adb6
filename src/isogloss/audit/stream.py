"""What each parameter reads and writes, found by running the model once on random tokens.

A dispatch mode follows the forward pass of any model, whatever its modules are called. Each tensor carries a tag: the
parameters whose products it was last made of (its *sources*), and every product since the residual stream (its
*branch*). The rules:

- an embedding's output, and what is made of it without a product (a norm, a scale), is the stream: sources are empty;
- a product (matmul, grouped matmul, convolution) of a parameter with what has no sources makes it a *reader*;
- where the stream and a tensor of its shape with sources are added, those of the sources that have as many outputs
  as the stream has channels are *writers*, and the sum is the stream again.

So pre-, post-, output and sandwich norms, parallel branches and branch multipliers need no special case. On the way it
measures norms (their gain and epsilon), gates, attention logits and decays. Views share memory and so share a tag:
parts of a fused matrix (wqkv, gate_up) are not told apart.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from isogloss.audit.writes import storage_of

PRODUCTS = frozenset(
    ("mm", "addmm", "bmm", "baddbmm", "addbmm", "linear", "_grouped_mm", "convolution", "matmul", "mv")
)
ATTENTION = "_scaled_dot_product"
NONLINEAR = frozenset(("silu", "gelu", "relu", "sigmoid", "tanh", "mish", "leaky_relu", "elu", "hardswish"))
OVER_TIME = frozenset(("convolution", "cumsum", "logcumsumexp"))
EMPTY: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Tag:
    """What a tensor was made of.

    Args:
        live: it depends on the tokens; if not, it is made of parameters alone.
        sources: parameters of the products it was last made of; empty for the stream and its norms.
        branch: parameters of all products since the stream.
        params: parameters that took part since the last product.
        marks: what it passed: rsqrt, normed, ungained (normed, before its gain), activated, softmax, attention, time,
            step (softplus).
        pair: for attention logits, the sources of the two factors.
    """

    live: bool
    sources: frozenset[str] = EMPTY
    branch: frozenset[str] = EMPTY
    params: frozenset[str] = EMPTY
    marks: frozenset[str] = EMPTY
    pair: tuple[frozenset[str], frozenset[str]] | None = None

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


class StreamTracer(TorchDispatchMode):
    """Fills a trace while it is active."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.trace = Trace()
        self.tags: dict[int, Tag] = {}
        self.numel: dict[str, int] = {}
        self.eps: dict[int, tuple[float, float]] = {}
        self.steps: dict[str, float] = {}
        self.where: list[str] = [""]
        self.n_tokens = 0
        for name, parameter in model.named_parameters():
            self.tags[storage_of(parameter)] = Tag(live=False, params=frozenset((name,)))
            self.numel[name] = parameter.numel()
        self._names = {id(module): name for name, module in model.named_modules()}

    def follow(self, model: nn.Module, call: Callable[[], Any]) -> Any:
        """Run ``call``, keeping count of the module that is at work."""

        def enter(module: nn.Module, inputs: Any) -> None:
            self.where.append(self._names[id(module)])

        def leave(module: nn.Module, inputs: Any, output: Any) -> None:
            self.where.pop()

        handles = [m.register_forward_pre_hook(enter) for m in model.modules()]
        handles += [m.register_forward_hook(leave) for m in model.modules()]
        try:
            with self, torch.no_grad():
                return call()
        finally:
            for handle in handles:
                handle.remove()

    def tag(self, x: Any) -> Tag | None:
        """A tensor's tag; none for constants."""
        return self.tags.get(storage_of(x)) if isinstance(x, Tensor) else None

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        inputs = [x for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor)]
        tags = [tag for x in inputs if (tag := self.tag(x)) is not None]
        name = func._schema.name.removeprefix("aten::")
        base = name.rstrip("_") if not name.endswith("__") else name
        write = self._residual(inputs) if base == "add" else None
        out = func(*args, **kwargs)
        given = {storage_of(x) for x in inputs}
        outputs = [x for x in tree_leaves(out) if isinstance(x, Tensor)]
        mutates = any(a.alias_info is not None and a.alias_info.is_write for a in func._schema.arguments)
        if not mutates and outputs and all(storage_of(x) in given for x in outputs):
            return out  # a view
        new = self._made(base, args, kwargs, inputs, tags, outputs)
        if write is not None:
            self.trace.writes.append(write(rms(outputs[0])))
            new = Tag(live=True)
        for x in outputs:
            # Which tokens an expert is given is no part of what it is given: integers carry no tag.
            if new is not None and x.dtype.is_floating_point:
                self.tags[storage_of(x)] = new
            else:
                self.tags.pop(storage_of(x), None)
        return out

    def _residual(self, inputs: list[Tensor]) -> Callable[[float], WriteToStream] | None:
        """Where an addition is one to the stream, what it is, given the size of the sum."""
        if len(inputs) != 2 or inputs[0].shape != inputs[1].shape:
            return None
        a, b = (self.tag(x) for x in inputs)
        if a is None or b is None or a.is_stream == b.is_stream or not (a.live and b.live):
            return None
        stream, written, x = (a, b, inputs[1]) if a.is_stream else (b, a, inputs[0])
        wide = {s for s in written.sources if self.trace.products[s].n_out == x.shape[-1]}
        wide = {s for s in wide if not self.trace.products[s].reads_stream} or wide
        if not wide:
            return None
        size = rms(x)
        return lambda total: WriteToStream(
            frozenset(wide), total, size, "normed" in written.marks, "normed" in stream.marks
        )

    def _made(
        self,
        base: str,
        args: tuple[Any, ...],
        kwargs: Any,
        inputs: list[Tensor],
        tags: list[Tag],
        outputs: list[Tensor],
    ) -> Tag | None:
        """The tag of what an operation makes."""
        if not tags or not outputs:
            return None
        live = [tag for tag in tags if tag.live]
        dead = [tag for tag in tags if not tag.live]
        params = made_of(tags)
        if base == "embedding" and dead:
            name = max(dead[0].params, key=lambda n: self.numel[n])
            self.trace.embeddings.setdefault(name, inputs[0].shape[0])
            self.n_tokens = inputs[1].shape[-1]
            return Tag(live=True)
        weights = [x for x in inputs if (t := self.tag(x)) is not None and not t.live and x.ndim > 1]
        if base in PRODUCTS and live and weights:
            return self._product(base, max(weights, key=Tensor.numel), params - made_of(live), inputs, outputs[0])
        if not live:
            marks = frozenset(("step",)) if base in ("softplus", "logaddexp") or _step(tags) else EMPTY
            return Tag(live=False, params=params, marks=marks)
        made = Tag(
            live=True,
            sources=frozenset().union(*(tag.sources for tag in live)),
            branch=frozenset().union(*(tag.branch for tag in live)),
            params=params,
            marks=frozenset().union(*(tag.marks for tag in tags)) - {"rsqrt"},
            pair=next((tag.pair for tag in live if tag.pair is not None), None),
        )
        return self._marked(made, base, args, kwargs, inputs, outputs)

    def _product(self, base: str, weight: Tensor, params: frozenset[str], inputs: list[Tensor], out: Tensor) -> Tag:
        (x, given), *_ = [(x, t) for x in inputs if (t := self.tag(x)) is not None and t.live]
        tag = self.tag(weight)
        assert tag is not None
        name = max(tag.params, key=lambda n: self.numel[n])
        axis = 1 if base == "convolution" else -1
        if name not in self.trace.products:
            self.trace.products[name] = Product(
                x.shape[axis], out.shape[axis], given.is_stream, given.branch, given.marks, rms(x), rms(out)
            )
        kept = given.marks & {"attention", "time"}
        kept |= {"time"} if base == "convolution" else set()
        return Tag(True, frozenset((name,)), given.branch | {name}, params | {name}, frozenset(kept))

    def _marked(
        self, made: Tag, base: str, args: tuple[Any, ...], kwargs: Any, inputs: list[Tensor], outputs: list[Tensor]
    ) -> Tag:
        """The tag with what the operation itself adds to it; measures norms, gates, attention and decays."""
        out, marks = outputs[0], set(made.marks)
        if base in OVER_TIME:
            marks |= {"time"}
            marks -= {"step"}
        if base == "topk":
            self.trace.routers |= made.sources
        if base in ("softplus", "logaddexp"):
            marks.add("step")
            self.steps[self.where[-1]] = float(out.float().median())
        if base in NONLINEAR:
            marks.add("activated")
        if base.startswith(ATTENTION):
            self._attention(inputs, kwargs, args)
            return replace(made, marks=frozenset(marks - {"normed", "activated"} | {"attention"}), pair=None)
        if base == "bmm":
            made = self._activations(made, inputs, marks)
        if base in ("_softmax", "_safe_softmax") and made.pair is not None:
            self.trace.queries |= made.pair[0]
            self.trace.keys |= made.pair[1]
            finite = inputs[0][inputs[0] > torch.finfo(inputs[0].dtype).min / 2].float()
            self._logits(float(finite.std()) if finite.numel() > 1 else 0.0)
            self.trace.n_heads = max(self.trace.n_heads, out.shape[1] if out.ndim == 4 else 1)
            marks.add("softmax")
        if base == "add" and len(inputs) == 1 and isinstance(args[1], int | float) and args[1] > 0:
            self.eps[storage_of(out)] = (float(inputs[0].double().mean()), float(args[1]))
        if base == "rsqrt":
            marks.add("rsqrt")
            if (found := self.eps.get(storage_of(inputs[0]))) is not None:
                self._norm_eps(*found)
        if base == "mul" and len(inputs) == 2:
            self._multiplied(inputs, out, marks)
        if base in ("native_layer_norm", "_fused_rms_norm"):
            self._native_norm(base, args, inputs)
            marks.add("normed")
        return replace(made, marks=frozenset(marks))

    def _activations(self, made: Tag, inputs: list[Tensor], marks: set[str]) -> Tag:
        """A product of two activations: attention logits, or what attention reads."""
        a, b = self.tag(inputs[0]), self.tag(inputs[1])
        if a is None or b is None or not (a.live and b.live):
            return made
        if "softmax" in a.marks:
            self.trace.values |= b.sources
            marks -= {"normed", "activated", "softmax"}
            marks |= {"attention"}
            return replace(made, pair=None)
        return replace(made, pair=(a.sources, b.sources))

    def _attention(self, inputs: list[Tensor], kwargs: Any, args: tuple[Any, ...]) -> None:
        q, k, v = inputs[:3]
        for x, names in ((q, self.trace.queries), (k, self.trace.keys), (v, self.trace.values)):
            if (tag := self.tag(x)) is not None:
                names |= tag.sources
        scale = kwargs.get("scale") or q.shape[-1] ** -0.5
        k = k.repeat_interleave(q.shape[1] // k.shape[1], 1)
        self._logits(float((scale * (q.float() @ k.float().mT)).std()))
        self.trace.n_heads = max(self.trace.n_heads, q.shape[1])

    def _logits(self, std: float) -> None:
        name = self.where[-1]
        self.trace.attention[name] = max(std, self.trace.attention.get(name, 0.0))

    def _multiplied(self, inputs: list[Tensor], out: Tensor, marks: set[str]) -> None:
        """A norm and its gain, a gate and what it gates, or a rate and a step."""
        for x, y in (inputs, inputs[::-1]):
            a, b = self.tag(x), self.tag(y)
            if a is None or b is None:
                continue
            if a.live and "rsqrt" in b.marks:
                marks |= {"normed", "ungained"}
            elif "ungained" in a.marks and not b.live and y.numel() == x.shape[-1]:
                self._gain(y)
                marks.discard("ungained")
            elif "step" in a.marks and bool((out <= 0).all()):
                self._decay(a.params | b.params, out)
                marks.add("time")
            if a.live and b.live and "activated" in a.marks and "activated" not in b.marks:
                # A fused gate and up is halved; an activation that multiplies by its own input is no gate.
                own = a.sources & b.sources
                gates = {s for s in a.sources if s not in own or out.shape[-1] < self.trace.products[s].n_out}
                self.trace.gates |= {s for s in gates if self.trace.products[s].reads_stream}
                self.trace.ups |= {s for s in b.sources if self.trace.products[s].reads_stream} - a.sources
                marks.discard("activated")

    def _decay(self, params: frozenset[str], rate: Tensor) -> None:
        """The first product of a rate and a step in a module, averaged over rows and tokens."""
        name, shape = self.where[-1], rate.shape
        if name in self.trace.decays or self.n_tokens not in shape[1:-1]:
            return
        slowest = -rate.float().mean((0, shape.index(self.n_tokens, 1))).max()
        self.trace.decays[name] = Decay(params, float(slowest), self.steps.get(name, 0.0))

    def _gain(self, gain: Tensor) -> None:
        norm = self.trace.norms.setdefault(self.where[-1], Norm())
        norm.gain = (float(gain.float().min()), float(gain.float().max()))

    def _norm_eps(self, power: float, eps: float) -> None:
        norm = self.trace.norms.setdefault(self.where[-1], Norm())
        norm.power, norm.eps = power, eps
        norm.eps_share = eps / power if power else math.inf

    def _native_norm(self, base: str, args: tuple[Any, ...], inputs: list[Tensor]) -> None:
        weight, eps = (args[2], args[4]) if base == "native_layer_norm" else (args[2], args[3])
        x = inputs[0].double()
        power = x.var(-1, correction=0) if base == "native_layer_norm" else x.square().mean(-1)
        if weight is not None:
            self._gain(weight)
        self._norm_eps(float(power.mean()), eps if eps is not None else torch.finfo(inputs[0].dtype).eps)


def rms(x: Tensor) -> float:
    """Root mean square over all elements."""
    return math.sqrt(float(x.detach().double().square().mean()))


def made_of(tags: list[Tag]) -> frozenset[str]:
    """Parameters that took part in any of these."""
    return frozenset().union(*(tag.params for tag in tags))


def _step(tags: list[Tag]) -> bool:
    return any("step" in tag.marks for tag in tags)


def trace(model: nn.Module, call: Callable[[], Any]) -> Trace:
    """Follow one forward pass; ``call`` runs it and returns the logits."""
    tracer = StreamTracer(model)
    logits = tracer.follow(model, call)
    found = tracer.trace
    tag = tracer.tag(logits)
    if tag is not None:
        heads = [s for s in tag.sources if found.products[s].reads_stream]
        found.head = heads[0] if len(heads) == 1 else None
    found.n_vocab = logits.shape[-1]
    logits = logits.detach().double()
    found.loss = float((logits.logsumexp(-1) - logits.mean(-1)).mean())
    found.logit_std = float(logits.std(-1).mean())
    return found
