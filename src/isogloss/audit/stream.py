"""What each parameter reads and writes, found by running the model once on random tokens.

A dispatch mode follows the forward pass of any model, whatever its modules are called. Each tensor carries a tag: the
parameters whose products it was last made of (its *sources*), and every product since the residual stream (its
*branch*). The rules:

- an embedding's output, and what is made of it without a product (a norm, a scale, a gate), is the stream: sources are
  empty. An embedding is a lookup in a parameter by the tokens, by whatever operation, or their one-hot product;
- a product (matmul, grouped matmul, convolution) of a parameter with what has no sources makes it a *reader*;
- where the stream and a tensor of its shape with sources are added (additions.py), those of the sources that have as
  many outputs as the stream has channels are *writers*, and the sum is the stream again;
- a factor that went through a sigmoid or a softmax is a gate: a gated tensor has the sources of what is gated;
- where arithmetic of another kind has ended the stream, an addition to a tensor from which the addend was computed is
  a *possible* write. It counts if the head reads its sum.

So pre-, post-, output and sandwich norms, parallel branches and branch multipliers need no special case. On the way
norms, gates, attention logits and decays are measured (measures.py). Views share memory and so share a tag:
parts of a fused matrix (wqkv, gate_up) are not told apart.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from isogloss.audit.additions import addends, as_wide
from isogloss.audit.measures import MULTIPLIES, ROOTS, Measures, rms
from isogloss.audit.operations import (
    ARRANGES,
    CONSTANTS,
    JOINS,
    LOOKUPS,
    PRODUCTS,
    in_plain_operations,
    is_pointwise,
    is_whole,
    named_arguments,
    signature_of,
)
from isogloss.audit.spread import spread
from isogloss.audit.trace import Product, Tag, Trace, WriteToStream, made_of
from isogloss.audit.writes import storage_of


class StreamTracer(TorchDispatchMode):
    """Fills a trace while it is active."""

    supports_higher_order_operators = True  # flex_attention, and what PyTorch adds to it

    def __init__(self, model: nn.Module, tokens: Tensor | None = None) -> None:
        super().__init__()
        self.trace = Trace()
        self.tags: dict[int, Tag] = {}
        self.numel: dict[str, int] = {}
        self.matrices: set[str] = set()
        self.own: set[int] = set()
        self.joined: set[str] = set()
        self.n_tensors = 0
        self.where: list[str] = [""]
        self.measures = Measures(self.trace, self.tag, self.where)
        for name, parameter in model.named_parameters():
            self.tags[storage_of(parameter)] = Tag(live=False, params=frozenset((name,)))
            self.own.add(storage_of(parameter))
            self.numel[name] = parameter.numel()
            if parameter.ndim > 1:
                self.matrices.add(name)
        if tokens is not None:
            self.tags[storage_of(tokens)] = Tag(live=False, marks=frozenset(("token",)))
            self.measures.n_rows, self.measures.n_tokens = tokens.shape
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
            with in_plain_operations(), self, torch.no_grad():
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
        name, arguments = signature_of(func)
        base = name.rstrip("_") if not name.endswith("__") else name
        named = named_arguments(arguments, args, kwargs)
        tags = [tag for x in inputs if (tag := self.tag(x)) is not None]
        added = self._added(base, named)
        write = self._residual(*added) if added is not None else None
        out = func(*args, **kwargs)
        given = {storage_of(x) for x in inputs}
        outputs = [x for x in tree_leaves(out) if isinstance(x, Tensor)]
        mutates = any(a.alias_info is not None and a.alias_info.is_write for a in arguments)
        if not mutates and outputs and all(storage_of(x) in given for x in outputs):
            return out  # a view
        if base.startswith(CONSTANTS) or (mutates and base in ("zero", "fill") and is_whole(inputs[0])):
            new = None
        elif mutates and base == "copy" and is_whole(inputs[0]):
            new = self.tag(inputs[1])
        elif write is not None:
            new = write(rms(outputs[0]))
        else:
            new = self._made(base, named, inputs, tags, outputs, is_pointwise(func))
        if new is not None and new.live:
            bit = 1 << self.n_tensors
            self.n_tensors += 1
            new = replace(new, past=new.past | bit, carried=new.carried | bit)
        for x in outputs:
            # Which tokens an expert is given is no part of what it is given: integers carry no tag but the tokens'.
            if new is not None and (x.dtype.is_floating_point or x.dtype.is_complex or not new.live):
                self.tags[storage_of(x)] = new
            elif storage_of(x) not in self.own:
                self.tags.pop(storage_of(x), None)
        return out

    def _added(self, base: str, named: dict[str, Any]) -> tuple[Tag, Tensor, Tag, Tensor] | None:
        """The addends, where the operation is an addition of two tensors that depend on tokens."""
        parts = addends(base, named)
        tags = [[tag for x in part if (tag := self.tag(x)) is not None] for part in parts]
        if not parts or not all(any(tag.live for tag in part) for part in tags):
            return None
        (x,), factors = parts
        if len(factors) == 1:
            return tags[0][0], x, tags[1][0], factors[0]
        live = [tag for tag in tags[1] if tag.live]
        y = factors[0] * factors[1] if base == "addcmul" else factors[0] @ factors[1]
        weights = [factor for factor in factors if self._is_weight(factor)]
        if base != "addcmul" and weights:
            return tags[0][0], x, self._product(base, weights[0], made_of(tags[1]), list(factors), y), y
        made = self._merged(live, tags[1])
        return tags[0][0], x, self._gated(made, factors) if len(live) > 1 else made, y

    def _is_weight(self, x: Tensor) -> bool:
        """Whether it is a matrix made of parameters alone."""
        tag = self.tag(x)
        return tag is not None and not tag.live and bool(tag.params) and x.ndim > 1

    def _residual(self, a: Tag, x: Tensor, b: Tag, y: Tensor) -> Callable[[float], Tag] | None:
        """The sum's tag, given its size, where the addition is one to the stream, for sure or possibly."""
        if x.shape[-1] != y.shape[-1] or (a.is_stream and b.is_stream):
            return None
        if a.is_stream or b.is_stream:
            stream, written, addend = (a, b, y) if a.is_stream else (b, a, x)
            sources = written.sources
        elif a.carried & b.past and b.sources - a.sources:
            stream, written, addend, sources = a, b, y, b.sources - a.sources
        elif b.carried & a.past and a.sources - b.sources:
            stream, written, addend, sources = b, a, x, a.sources - b.sources
        else:
            return None
        wide = as_wide(sources, self.trace.products, addend)
        past, carried = a.past | b.past, a.carried | b.carried
        found = None
        if wide:
            branch = (written.branch - stream.branch) or written.branch
            marks = written.marks, stream.marks
            size = rms(addend)
            found = lambda total: WriteToStream(  # noqa: E731
                wide, branch, total, size, *("normed" in passed for passed in marks)
            )
        elif not stream.is_stream:
            return None

        def known(total: float) -> Tag:
            if found is not None:
                self.trace.writes.append(found(total))
            else:
                self.trace.unattributed |= sources
            return Tag(live=True, past=past, carried=carried, writes=a.writes | b.writes)

        def possible(total: float) -> Tag:
            assert found is not None
            self.trace.possible.append(found(total))
            writes = a.writes | b.writes | {len(self.trace.possible) - 1}
            tag = self._merged([a, b], [a, b])
            return replace(tag, marks=tag.marks - {"normed"}, past=past, carried=carried, writes=writes)

        return known if stream.is_stream else possible

    def _made(
        self,
        base: str,
        named: dict[str, Any],
        inputs: list[Tensor],
        tags: list[Tag],
        outputs: list[Tensor],
        pointwise: bool,
    ) -> Tag | None:
        """The tag of what an operation makes."""
        if not tags or not outputs:
            return None
        live = [tag for tag in tags if tag.live]
        params = made_of(tags)
        if not live and (looked_up := self._lookup(base, named, inputs)) is not None:
            return looked_up
        weights = [x for x in inputs if self._is_weight(x)]
        if base in PRODUCTS and live and weights:
            return self._product(base, max(weights, key=Tensor.numel), params - made_of(live), inputs, outputs[0])
        if live and weights and not pointwise and base not in ARRANGES:
            return self._opaque(weights, live, outputs[0])
        if not live:
            marks = self.measures.recurrent_marks(base, tags, named, outputs[0])
            if base == "mul" and len(tags) == len(inputs) == 2:
                (a, x), (b, y) = sorted(zip(tags, inputs, strict=True), key=lambda pair: bool((pair[1].real < 0).any()))
                if self.measures.is_rate(a, x, b, y, outputs[0]):
                    marks -= {"step", "negated"}
            marks |= {"token"} if _any("token", tags) else set()
            marks |= {"joined"} if base in JOINS or _any("joined", tags) else set()
            return Tag(live=False, params=params, marks=frozenset(marks))
        made = self._merged(live, tags)
        if base in MULTIPLIES and len(live) > 1:
            made = self._gated(made, inputs)
        made = replace(made, power=live[0].power if len(inputs) == 1 else None)
        if len(inputs) > 1:
            made = replace(made, marks=made.marks - ROOTS)
        return self.measures.marked(made, base, named, inputs, outputs[0])

    def _merged(self, live: list[Tag], tags: list[Tag]) -> Tag:
        """Of a tensor made of several."""
        marks = frozenset().union(*(tag.marks for tag in tags)) - {"token", "joined", "bounded"}
        if live and all("bounded" in tag.marks for tag in live):
            marks |= {"bounded"}
        past = carried = 0
        for tag in live:
            past |= tag.past
            carried |= tag.carried
        return Tag(
            live=True,
            sources=frozenset().union(*(tag.sources for tag in live)),
            branch=frozenset().union(*(tag.branch for tag in live)),
            params=made_of(tags),
            marks=marks,
            pair=next((tag.pair for tag in live if tag.pair is not None), None),
            gain=next((tag.gain for tag in live if tag.gain is not None), None),
            past=past,
            carried=carried,
            writes=frozenset().union(*(tag.writes for tag in live)),
        )

    def _gated(self, made: Tag, factors: Sequence[Tensor]) -> Tag:
        """A product of two activations: of a gate and a value it is the value, scaled; of others it is new.

        A gate is a sigmoid or a softmax, has one number for all channels (a norm's root, a router's weight), or is
        computed from what it multiplies.
        """
        live = [(tag, x) for x in factors if (tag := self.tag(x)) is not None and tag.live]
        values = [tag for tag, x in live if "bounded" not in tag.marks and x.shape[-1:] != (1,)]
        if len(values) == 2:
            (a, b) = values
            values = [x for x, y in ((a, b), (b, a)) if x.carried & y.past and not y.carried & x.past]
        if len(values) != 1:
            return replace(made, carried=0, writes=frozenset())
        (value,) = values
        if value.is_stream:
            self.trace.unattributed |= made.sources
        branch = value.branch if value.is_stream else made.branch
        return replace(made, sources=value.sources, branch=branch, carried=value.carried, writes=value.writes)

    def _lookup(self, base: str, named: dict[str, Any], inputs: list[Tensor]) -> Tag | None:
        """The stream, where it begins: rows of a parameter that the tokens choose."""
        tables = [x for x in inputs if self._is_weight(x)]
        by_token = any((t := self.tag(x)) is not None and "token" in t.marks and not t.params for x in inputs)
        if not tables or not (base == "embedding" or (by_token and (base in LOOKUPS or base in PRODUCTS))):
            return None
        axis = named.get("dim", 0)
        if base == "index":  # W[:, tokens] has as many None before its indices
            axis = next(i for i, x in enumerate(named["indices"]) if x is not None)
        tag = self.tag(tables[0])
        assert tag is not None
        name = max(tag.params, key=lambda n: self.numel[n])
        self.trace.embeddings.setdefault(name, tables[0].shape[axis])
        return Tag(live=True)

    def _product(self, base: str, weight: Tensor, params: frozenset[str], inputs: list[Tensor], out: Tensor) -> Tag:
        (x, given), *_ = [(x, t) for x in inputs if (t := self.tag(x)) is not None and t.live]
        tag = self.tag(weight)
        assert tag is not None
        self.trace.n_products += 1
        axis = 1 if base == "convolution" else -1
        matrices = tag.params & self.matrices or tag.params
        computed = storage_of(weight) not in self.own
        names = matrices if computed else frozenset((max(matrices, key=lambda n: self.numel[n]),))
        for name in names - self.trace.products.keys():
            effective = spread(weight) if computed and (len(names) == 1 or "joined" not in tag.marks) else None
            self.trace.products[name] = Product(
                x.shape[axis],
                out.shape[axis],
                given.is_stream,
                given.branch,
                given.marks,
                rms(x),
                rms(out),
                effective,
                given.carried,
                given.writes,
            )
        if base == "convolution":
            self.trace.convolutions |= names
        if len(names) > 1:
            self.joined |= names
        kept = given.marks & {"attention", "time"}
        kept |= {"time"} if base == "convolution" else set()
        return Tag(True, names, given.branch | names, params | names, frozenset(kept), past=given.past)

    def _opaque(self, weights: list[Tensor], live: list[Tag], out: Tensor) -> Tag:
        """Of an operation that is not known: its matrices take part in it, it is not known how."""
        names = frozenset().union(*(tag.params for x in weights if (tag := self.tag(x)) is not None)) & self.matrices
        given = self._merged(live, live)
        for name in names - self.trace.products.keys():
            self.trace.products[name] = Product(
                out.shape[-1], out.shape[-1], given.is_stream, given.branch, given.marks, 0.0, rms(out)
            )
        self.trace.unattributed |= names
        return Tag(True, names, given.branch | names, names, past=given.past)


def _any(mark: str, tags: list[Tag]) -> bool:
    return any(mark in tag.marks for tag in tags)


def trace(model: nn.Module, call: Callable[[], Any], tokens: Tensor | None = None) -> Trace:
    """Follow one forward pass.

    Args:
        model: whose pass it is.
        call: runs it and returns the logits.
        tokens: what it reads, so that lookups in a parameter by other operations than F.embedding are known.
    """
    tracer = StreamTracer(model, tokens)
    logits = tracer.follow(model, call)
    found = tracer.trace
    tag = tracer.tag(logits)
    if tag is not None:
        _find_backbone(found, tag)
    q, k, v = found.queries, found.keys, found.values
    found.fused |= (q & k) | (q & v) | (k & v)
    found.fused -= tracer.joined
    found.n_vocab = logits.shape[-1]
    logits = logits.detach().double()
    found.loss = float((logits.logsumexp(-1) - logits.mean(-1)).mean())
    found.logit_std = float(logits.std(-1).mean())
    return found


def _find_backbone(found: Trace, logits: Tag) -> None:
    """The head, and which possible writes are real: those in the sum that it reads, or that are the logits."""
    heads = [s for s in logits.sources if found.products[s].reads_stream]
    heads = heads if heads else list(logits.sources)
    reads = [found.products[name] for name in heads]
    if len(heads) == 1:
        found.head = heads[0]
    carried, real = logits.carried, logits.writes
    for product in reads:
        carried |= product.carried
        real |= product.writes
    found.writes += [found.possible[i] for i in sorted(real)]
    if real:
        for product in found.products.values():
            product.reads_stream = product.reads_stream or bool(product.carried & carried)
