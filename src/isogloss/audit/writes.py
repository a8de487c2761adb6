"""Writes: how often each parameter is filled while a model initialises itself, by what, and in which precision.

Every operation in place passes a dispatch mode, whoever calls it. All that one call of a ``torch.nn.init`` function
does (``trunc_normal_`` draws, compares and copies) is one event, found by the frame it is called from, so that
functions bound before this module was imported are seen as well.
"""

import math
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from types import FrameType
from typing import Any

from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from isogloss.audit.operations import CONSTANTS

INIT_FILE = nn.init.__file__
MODULES_FOLDER = nn.modules.module.__file__.removesuffix("module.py")
RANDOM = frozenset(
    ("normal_", "uniform_", "log_normal_", "exponential_", "cauchy_", "bernoulli_", "random_", "geometric_")
)
FILLS = RANDOM | {"fill_", "zero_", "copy_", "arange", "eye"}
SCALES = {"mul_": 1, "div_": -1}


@dataclass(frozen=True)
class Write:
    """One event: a fill, a scaling or another change of a parameter.

    Args:
        kind: ``fill``, ``scale`` or ``change``.
        what: the call, such as ``normal_(mean=0.0, std=0.02)``.
        whole: whether all elements were concerned.
        provisional: done by the constructor of a module of PyTorch, or by the creation of the tensor.
        random: made of random numbers, at whatever remove.
        low_precision: random numbers drawn in a type of less than 32 bits.
        arguments: of a ``torch.nn.init`` function.
        factor: of a scaling by a number.
        uninitialised: copied, or computed, from memory that nothing had been written to.
    """

    kind: str
    what: str
    whole: bool
    provisional: bool
    random: bool
    low_precision: bool
    arguments: dict[str, Any]
    factor: float | None = None
    uninitialised: bool = False


def storage_of(tensor: Tensor) -> int:
    """What tells one piece of memory from another while it lives."""
    return tensor.untyped_storage()._cdata


class WriteRecorder(TorchDispatchMode):
    """Records what is written to every storage while it is active.

    Args:
        empty: tensors that nothing has been written to yet.
    """

    def __init__(self, empty: Iterable[Tensor] = ()) -> None:
        super().__init__()
        self.events: dict[int, list[Write]] = {storage_of(tensor): [] for tensor in empty}
        self._last_call: dict[int, FrameType] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        given = {storage_of(t) for t in tree_leaves((args, kwargs)) if isinstance(t, Tensor)}
        written = [a for a, schema in zip(args, func._schema.arguments, strict=False) if _is_written(schema)]
        written += [v for k, v in (kwargs or {}).items() if k == "out"]
        if written:
            for tensor in tree_leaves(written):
                if isinstance(tensor, Tensor) and tensor.device.type != "meta":
                    self._record(tensor, func, args)
        else:
            for tensor in tree_leaves(out):
                if isinstance(tensor, Tensor) and storage_of(tensor) not in given:
                    name = func._schema.name.removeprefix("aten::")
                    drawn = name in ("randn", "rand", "randn_like", "rand_like", "normal", "bernoulli")
                    random, low, empty = self._lineage(given)
                    random, low = random or drawn, low or (drawn and tensor.dtype.itemsize < 4)
                    empty = empty and not name.startswith(CONSTANTS)
                    made = Write("fill", name, True, True, random, low, {}, uninitialised=empty)
                    self._last_call.pop(storage_of(tensor), None)
                    self.events[storage_of(tensor)] = [] if name.startswith("empty") or name == "new_empty" else [made]
        return out

    def _record(self, tensor: Tensor, func: Any, args: tuple[Any, ...]) -> None:
        key, name = storage_of(tensor), func._schema.name.removeprefix("aten::")
        call, constructing = _callers()
        low = name in RANDOM and tensor.dtype.is_floating_point and tensor.dtype.itemsize < 4
        random, empty = name in RANDOM, False
        if name == "copy_" and isinstance(args[1], Tensor):
            random, low, empty = self._lineage({storage_of(args[1])})
        whole = tensor.numel() * tensor.element_size() == tensor.untyped_storage().nbytes()
        events = self.events.setdefault(key, [])
        if call is not None:
            if self._last_call.get(key) is call:
                events[-1] = replace(
                    events[-1], random=events[-1].random or random, low_precision=events[-1].low_precision or low
                )
                return
            self._last_call[key] = call
            arguments = _arguments(call)
            shown = ", ".join(f"{k}={v:.4g}" if isinstance(v, float) else f"{k}={v}" for k, v in arguments.items())
            events.append(Write("fill", f"{call.f_code.co_name}({shown})", whole, constructing, random, low, arguments))
            return
        self._last_call.pop(key, None)
        if name in SCALES:
            factor = _number(args[1])
            factor = factor ** SCALES[name] if factor else factor
            what = name if factor is None else f"scaled by {factor:.4g}"
            events.append(Write("scale", what, whole, constructing, random, low, {}, factor))
        else:
            kind = "fill" if name in FILLS else "change"
            events.append(Write(kind, name, whole, constructing, random, low, {}, uninitialised=empty))

    def _lineage(self, storages: set[int]) -> tuple[bool, bool, bool]:
        """Whether what is computed from these is random, was drawn in low precision, and has uninitialised numbers."""
        known = [self.events[key] for key in storages if key in self.events]
        events = [write for writes in known for write in writes]
        empty = any(is_uninitialised(writes) for writes in known)
        return any(write.random for write in events), any(write.low_precision for write in events), empty

    def of(self, model: nn.Module) -> dict[str, list[Write]]:
        """What was written to each parameter and buffer; a tied one is listed under each of its names."""
        self._last_call.clear()
        named = (*model.named_parameters(remove_duplicate=False), *model.named_buffers(remove_duplicate=False))
        return {name: self.events.get(storage_of(tensor), []) for name, tensor in named}


def is_random(writes: list[Write]) -> bool:
    """Whether the last numbers written to the whole were drawn at random."""
    fills = [write for write in writes if write.kind == "fill"]
    last = max((i for i, write in enumerate(fills) if write.whole), default=0)
    return any(write.random for write in fills[last:])


def is_uninitialised(writes: list[Write]) -> bool:
    """Whether some of its memory may still be as it was allocated: nothing filled the whole, or such memory did."""
    fills = [write for write in writes if write.kind == "fill" and write.whole]
    return not fills or fills[-1].uninitialised


def initialisations(writes: list[Write]) -> list[Write]:
    """The events that begin a new initialisation of the whole: what PyTorch's own constructors did does not count."""
    return [w for w in writes if w.kind == "fill" and w.whole and not w.provisional]


def repeated_scaling(writes: list[Write]) -> float | None:
    """A factor other than 1 by which the weights were multiplied twice since they were last filled."""
    seen: set[float] = set()
    for write in writes:
        if write.kind == "fill" and write.whole:
            seen.clear()
        elif write.kind == "scale" and write.whole and write.factor not in (None, 1.0, -1.0):
            if any(math.isclose(write.factor, other, rel_tol=1e-6) for other in seen):
                return write.factor
            seen.add(write.factor)
    return None


def tied_names(model: nn.Module) -> Iterator[list[str]]:
    """Names that mean the same parameter."""
    names: dict[int, list[str]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        names.setdefault(id(parameter), []).append(name)
    return (same for same in names.values() if len(same) > 1)


def _is_written(argument: Any) -> bool:
    return argument.alias_info is not None and argument.alias_info.is_write


def _callers() -> tuple[FrameType | None, bool]:
    """The outermost call of a torch.nn.init function on the stack; whether a PyTorch module is being constructed."""
    call, constructing, frame = None, False, sys._getframe(2)
    while frame is not None:
        file = frame.f_code.co_filename
        if file == INIT_FILE:
            call = frame
        elif frame.f_code.co_name == "__init__" and file.startswith(MODULES_FOLDER):
            constructing = True
        frame = frame.f_back
    return call, constructing


def _arguments(call: FrameType) -> dict[str, Any]:
    names = call.f_code.co_varnames[: call.f_code.co_argcount]
    values = {name: call.f_locals.get(name) for name in names if name not in ("tensor", "generator")}
    return {name: value for name, value in values.items() if isinstance(value, int | float | str)}


def _number(x: Any) -> float | None:
    if isinstance(x, Tensor):
        return float(x) if x.numel() == 1 and x.device.type != "meta" else None
    return float(x) if isinstance(x, int | float) else None
