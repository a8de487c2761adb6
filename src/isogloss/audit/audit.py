"""The audit of a model that is not ours: built, poisoned, initialised by its own rules, looked at, run once.

1. Built on the meta device; given memory that holds NaN; initialised by the model's own method, with every write
   recorded. A model that only its constructor initialises is constructed where uninitialised memory is NaN.
2. Weights: what is still NaN, written twice, cut at the wrong place, repeated, correlated, drawn in 16 bits.
3. Built once more with another depth, which tells a scale that depends on depth from a constant.
4. One forward pass on random tokens, in float32: readers and writers of the stream, norms, gates, recurrences, loss.
"""

import math
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import deterministic

from isogloss.audit.built import Built, Target, count_layers, first_line
from isogloss.audit.depth import Scaling, Spread, depth_findings, scalings, spread
from isogloss.audit.expectation import mismatches
from isogloss.audit.findings import Finding, Severity, kind_of, merged
from isogloss.audit.poison import materialise, poison
from isogloss.audit.roles import infer_roles
from isogloss.audit.signals import growth, signal_findings
from isogloss.audit.stream import trace
from isogloss.audit.trace import Trace
from isogloss.audit.weights import (
    bounds,
    correlations,
    low_precision_dtypes,
    never_written,
    optimizer_groups,
    repetitions,
    written_wrongly,
)
from isogloss.audit.writes import Write, WriteRecorder, is_random, tied_names
from isogloss.config.base import UserError
from isogloss.init.scheme import Scheme

N_ROWS, N_TOKENS = 2, 32
"""Of the batch of random tokens."""
DOUBLED_UP_TO = 8
"""Layers of a model whose second depth is twice the first; beyond, it is half."""


@dataclass(frozen=True)
class Row:
    """One kind of parameter, as the audit read it off the model."""

    kind: str
    role: str
    shape: tuple[int, ...]
    std: float
    scaling: Scaling | None


@dataclass(frozen=True)
class Audit:
    """What was found.

    Args:
        target: its name.
        findings: the gravest first; layers that share one are merged.
        remarks: what could not be looked at, and why.
        rows: the kinds of parameters that take part in products and lookups.
        depths: layers of the two models, where there were two.
        ran: whether its forward pass could be run.
    """

    target: str
    n_parameters: int
    findings: list[Finding]
    remarks: list[str]
    rows: list[Row]
    depths: tuple[int, int] | None
    ran: bool

    @property
    def failed(self) -> bool:
        """Whether something is graver than a note, or half of the codes could not be looked for."""
        return not self.ran or any(finding.severity != Severity.NOTE for finding in self.findings)


@dataclass(frozen=True)
class Initialised:
    """A model with its own initial weights, and how they came about."""

    built: Built
    writes: dict[str, list[Write]]
    groups: list[Finding]
    by_constructor: bool


def audit(target: Target, scheme: Scheme | None = None, max_bytes: int = 2**31) -> Audit:
    """Look at everything that can be looked at.

    Args:
        target: what builds the model.
        scheme: whose scales are expected.
        max_bytes: a larger model is refused; two are never held at once.

    Raises:
        UserError: the target cannot be built, or is too large.
    """
    made = _initialise(target, None, max_bytes)
    model, remarks = made.built.model, []
    # Where ties come last, what was filled under the other names is gone.
    tied = {} if target.ties_last else {name: same for same in tied_names(model) for name in same}
    findings = [*made.groups, *never_written(model, made.writes)]
    once = {name: events for name, events in made.writes.items() if name not in tied or name == tied[name][0]}
    findings += [*written_wrongly(once, tied), *bounds(once)]
    tensors = {name: p.detach() for name, p in model.named_parameters() if p.is_floating_point()}
    random = {name: tensor for name, tensor in tensors.items() if is_random(made.writes[name])}
    findings += [*repetitions(random), *correlations(random)]
    spreads = _spreads(model)
    shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    n_parameters = sum(tensor.numel() for tensor in tensors.values())
    if made.by_constructor:
        remarks.append("the model has no init method of its own: what its constructor does was audited")
    if dtypes := low_precision_dtypes(model):
        remarks.append(f"parameters are in {', '.join(str(d).removeprefix('torch.') for d in dtypes)}; run in float32")
    if poisoned := {f.parameter for f in findings if f.code in ("I04", "I10")}:
        _wash(model)
        remarks.append(f"run with zeros in the place of poison ({len(poisoned)} tensors): signals were not judged")
    seen = _run(target, model, remarks)
    n_layers = target.n_layers(model)
    size = sum(t.numel() * t.element_size() for t in tensors.values())
    del model, tensors, random, made
    second, depths = _second_depth(target, n_layers, size, max_bytes, remarks)
    found = scalings(spreads, second)
    if seen is not None:
        findings += [] if poisoned else signal_findings(seen, spreads)
        products = seen.products.keys()
        in_products = {kind: s for kind, s in found.items() if kind in {kind_of(name) for name in products}}
        findings += depth_findings(seen, in_products, depths, growth(seen))
        if scheme is not None:
            n = n_layers or count_layers(shapes)
            findings += mismatches(seen, spreads, shapes, scheme, n)
    rows = _rows(seen, spreads, shapes, found)
    return Audit(target.name, n_parameters, merged(findings), remarks, rows, depths, seen is not None)


def _initialise(target: Target, n_layers: int | None, max_bytes: int) -> Initialised:
    """The model with its own weights; those of a second depth are drawn from other numbers."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0 if n_layers is None else 1)
        on_meta = _build_on_meta(target, n_layers)
        if on_meta is not None:
            _check_size(target, on_meta.model, max_bytes)
            if (run := target.own_init(on_meta.model)) is not None:
                return _poisoned(target, on_meta, run)
        with WriteRecorder() as recorder, _uninitialised_is_nan():
            built = target.build(n_layers)
        return Initialised(built, recorder.of(built.model), list(optimizer_groups(built)), by_constructor=True)


def _build_on_meta(target: Target, n_layers: int | None) -> Built | None:
    """``None`` where the code needs numbers while it builds."""
    try:
        with torch.device("meta"):
            built = target.build(n_layers)
    except UserError:
        return None  # constructed for real next, which says what is wrong if anything is
    return built


def _poisoned(target: Target, built: Built, run: Callable[[], Any]) -> Initialised:
    groups = list(optimizer_groups(built))
    materialise(built.model, keep_ties=not target.ties_last)
    poison(built.model)
    recorder = WriteRecorder()
    try:
        with recorder, torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            run()
    except Exception as error:  # of any kind: the code is not ours
        raise UserError(f"{target.name}: its own init failed: {type(error).__name__}: {first_line(error)}") from error
    return Initialised(built, recorder.of(built.model), groups, by_constructor=False)


@contextmanager
def _uninitialised_is_nan() -> Iterator[None]:
    """``torch.empty`` gives NaN, or the largest integer."""
    former = (torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled())
    fills: Any = deterministic  # its setting is a property of the module, which type checkers do not see
    filling = fills.fill_uninitialized_memory
    torch.use_deterministic_algorithms(True, warn_only=True)
    fills.fill_uninitialized_memory = True
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(former[0], warn_only=former[1])
        fills.fill_uninitialized_memory = filling


def _check_size(target: Target, model: nn.Module, max_bytes: int) -> None:
    size = sum(
        t.numel() * t.element_size() for t in {id(t): t for t in (*model.parameters(), *model.buffers())}.values()
    )
    if size > max_bytes:
        raise UserError(
            f"{target.name} has {size / 2**30:.1f} GiB of weights; the audit holds all of them, up to "
            f"{max_bytes / 2**30:g} GiB. Make it smaller (the depth, the vocabulary and the width are settings, such "
            "as num_hidden_layers=4 vocab_size=4096), or raise --max-gib"
        )


def _spreads(model: nn.Module) -> dict[str, Spread]:
    """Of every matrix whose numbers are finite."""
    found = {name: spread(p) for name, p in model.named_parameters() if p.ndim > 1 and p.is_floating_point()}
    return {name: s for name, s in found.items() if math.isfinite(s.std)}


@torch.no_grad()
def _wash(model: nn.Module) -> None:
    """Zeros for poison, so that at least who reads and who writes can be seen."""
    for tensor in (*model.parameters(), *model.buffers()):
        if tensor.is_floating_point():
            tensor.nan_to_num_(0.0)
        elif (
            tensor.dtype in (torch.int32, torch.int64)
            and tensor.numel()
            and tensor.min() == torch.iinfo(tensor.dtype).min
        ):
            tensor.zero_()


def _run(target: Target, model: nn.Module, remarks: list[str]) -> Trace | None:
    n_vocab = target.n_tokens(model)
    if n_vocab is None:
        remarks.append("it has no embedding: not run, so I01, I02, I09, I11 to I14 and I17 were not looked for")
        return None
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randint(n_vocab, (N_ROWS, N_TOKENS), generator=generator)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            model.float().eval()
            return trace(model, lambda: _logits(target.logits(model, tokens)))
    except Exception as error:  # of any kind: the code is not ours
        said = f"{type(error).__name__}: {first_line(error)}"
        remarks.append(f"its forward pass failed ({said}), so I01, I02, I09, I11 to I14 and I17 were not looked for")
        return None


def _logits(output: Any) -> Tensor:
    """A tensor, the first of a tuple, or what is called logits."""
    if isinstance(output, tuple | list):
        output = output[0]
    elif isinstance(output, Mapping):
        output = output["logits"]
    elif not isinstance(output, Tensor):
        output = output.logits
    if not isinstance(output, Tensor) or output.ndim != 3:
        raise TypeError(f"it returns a {type(output).__name__}, not logits of shape (rows, tokens, vocabulary)")
    return output


def _second_depth(
    target: Target, n_layers: int | None, size: int, max_bytes: int, remarks: list[str]
) -> tuple[dict[str, Spread] | None, tuple[int, int] | None]:
    """Scales of a model of another depth; none where it cannot be had."""
    if n_layers is None:
        remarks.append("its depth cannot be set: a scale that depends on the number of layers looks like any constant")
        return None, None
    double = n_layers == 1 or (n_layers <= DOUBLED_UP_TO and 2 * size <= max_bytes)
    other = 2 * n_layers if double else n_layers // 2
    try:
        return _spreads(_initialise(target, other, max_bytes).built.model), (n_layers, other)
    except UserError as error:
        remarks.append(f"it cannot be built with {other} layers ({error}): dependence on depth was not looked for")
        return None, None


def _rows(
    seen: Trace | None, spreads: Mapping[str, Spread], shapes: Mapping[str, tuple[int, ...]], found: dict[str, Scaling]
) -> list[Row]:
    roles = infer_roles(seen) if seen is not None else {}
    rows: dict[str, Row] = {}
    for name, shape in shapes.items():
        if name in roles and name in spreads:
            kind = kind_of(name)
            rows.setdefault(kind, Row(kind, roles[name], shape, spreads[name].std, found.get(kind)))
    return list(rows.values())
