"""What each parameter reads and writes, found by running the model once on random tokens.

A dispatch mode follows the forward pass of any model, whatever its modules are called. Each tensor carries a tag: the
parameters whose products it was last made of (its *sources*), and every product since the residual stream (its
*branch*). The rules:

- an embedding's output, and what is made of it without a product (a norm, a scale), is the stream: sources are empty;
- a product (matmul, grouped matmul, convolution) of a parameter with what has no sources makes it a *reader*;
- where the stream and a tensor of its shape with sources are added, those of the sources that have as many outputs
  as the stream has channels are *writers*, and the sum is the stream again.

So pre-, post-, output and sandwich norms, parallel branches and branch multipliers need no special case. On the way
norms, gates, attention logits and decays are measured (measures.py). Views share memory and so share a tag:
parts of a fused matrix (wqkv, gate_up) are not told apart.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from isogloss.audit.measures import ROOTS, Measures, rms
from isogloss.audit.trace import EMPTY, Product, Tag, Trace, WriteToStream, made_of
from isogloss.audit.writes import storage_of

PRODUCTS = frozenset(
    ("mm", "addmm", "bmm", "baddbmm", "addbmm", "linear", "_grouped_mm", "convolution", "matmul", "mv")
)


class StreamTracer(TorchDispatchMode):
    """Fills a trace while it is active."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.trace = Trace()
        self.tags: dict[int, Tag] = {}
        self.numel: dict[str, int] = {}
        self.where: list[str] = [""]
        self.measures = Measures(self.trace, self.tag, self.where)
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
        new = self._made(base, _named(func, args, kwargs), inputs, tags, outputs)
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
        named: dict[str, Any],
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
            self.measures.n_tokens = inputs[1].shape[-1]
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
            marks=frozenset().union(*(tag.marks for tag in tags)) - (ROOTS if len(inputs) > 1 else EMPTY),
            pair=next((tag.pair for tag in live if tag.pair is not None), None),
            gain=next((tag.gain for tag in live if tag.gain is not None), None),
            power=live[0].power if len(inputs) == 1 else None,
        )
        return self.measures.marked(made, base, named, inputs, outputs[0])

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


def _named(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
    """All arguments of an operation by their names."""
    return {a.name: x for a, x in zip(func._schema.arguments, args, strict=False)} | kwargs


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
