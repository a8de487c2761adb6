"""What weights and the writes that made them show: I03 to I08, I10 and I16, and optimizers' groups, I15."""

from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from isogloss.audit.built import Built
from isogloss.audit.findings import Finding, Severity
from isogloss.audit.writes import Write, initialisations, is_uninitialised, repeated_scaling
from isogloss.init.repetition import SKETCH, correlated_pairs, n_repeated, row_hashes, sidak

NO_CUT = 6.0
"""Beyond so many standard deviations one number in a thousand million is cut."""
MIN_ELEMENTS = 64
"""Of a parameter whose correlation is tested: of fewer, chance makes copies."""


def never_written(model: nn.Module, writes: Mapping[str, list[Write]]) -> Iterator[Finding]:
    """I04, I10 and I18: what poison survived in, and what was filled with numbers that are not finite."""
    parameters = {name for name, _ in model.named_parameters()}
    for name, tensor in (*model.named_parameters(), *model.named_buffers()):
        events = writes.get(name, [])
        if tensor.is_floating_point() or tensor.is_complex():
            n = int(torch.isnan(tensor).sum()) if is_uninitialised(events) else 0
            n_odd = 0 if n else _n_not_finite(tensor)
        else:
            n, n_odd = 0 if events else tensor.numel(), 0
        if n:
            share = f"{n:,} of {tensor.numel():,} elements still hold the poison"
            yield _left_out(name, share) if name in parameters else _garbage(name, share)
        if n_odd:
            yield Finding(
                "I18",
                Severity.ERROR,
                name,
                f"{n_odd:,} of {tensor.numel():,} elements are NaN or infinite, after {events[-1].what}",
                "finite numbers",
                "look for a logarithm or a root of what is not positive, and for a division by zero",
            )


def _n_not_finite(tensor: Tensor) -> int:
    """How many; infinity is a value that a mask, which nobody trains, may have."""
    odd = torch.isnan(tensor) if not tensor.requires_grad else ~torch.isfinite(tensor)
    return int(odd.sum())


def _left_out(name: str, share: str) -> Finding:
    return Finding("I04", Severity.ERROR, name, share, "every element has a rule", "initialise it")


def _garbage(name: str, share: str) -> Finding:
    return Finding(
        "I10",
        Severity.ERROR,
        name,
        share,
        "filled by the model's own initialisation",
        "compute it where weights are initialised: after to_empty it holds what memory held",
    )


def written_wrongly(writes: Mapping[str, list[Write]], tied: Mapping[str, list[str]]) -> Iterator[Finding]:
    """I07, I08 and I16: one rule for each weight, applied once, in float32."""
    for name, events in writes.items():
        fills = initialisations(events)
        rules = list(dict.fromkeys(write.what for write in fills))
        if len(fills) > 1 and name in tied:
            severity = Severity.WARNING if len(rules) > 1 else Severity.NOTE
            evidence = f"{len(fills)} times: {', then '.join(write.what for write in fills)}"
            expected = f"one rule for {' = '.join(tied[name])}"
            yield Finding("I07", severity, name, evidence, expected, "initialise it under one of its names")
        elif len(rules) > 1:
            evidence = f"{len(fills)} times: {', then '.join(write.what for write in fills)}"
            yield Finding(
                "I08",
                Severity.NOTE,
                name,
                evidence,
                "one rule",
                "moot while the last is the one meant; the order of modules decides",
            )
        if (factor := repeated_scaling(events)) is not None:
            evidence = f"multiplied by {factor:.4g} twice since it was filled"
            yield Finding("I08", Severity.WARNING, name, evidence, "once", "scale where it is filled")
        if any(write.low_precision for write in events[_last_fill(events) :]):
            yield Finding(
                "I16",
                Severity.WARNING,
                name,
                "drawn in a type of 16 bits or fewer",
                "drawn in float32, then rounded",
                "keep master weights in float32, or round after the draw",
            )


def bounds(writes: Mapping[str, list[Write]]) -> Iterator[Finding]:
    """I03: a truncated normal's bounds in units of its own std, against those of the rest of the model."""
    cuts: dict[str, tuple[float, dict[str, Any]]] = {}
    for name, events in writes.items():
        fills = initialisations(events)
        if fills and fills[-1].what.startswith("trunc_normal_"):
            given = fills[-1].arguments
            if given["std"] > 0:
                cuts[name] = (min(given["mean"] - given["a"], given["b"] - given["mean"]) / given["std"], given)
    sound = Counter(float(f"{cut:.3g}") for cut, _ in cuts.values() if cut <= NO_CUT)
    usual = sound.most_common(1)[0][0] if sound else None
    for name, (cut, given) in cuts.items():
        evidence = f"bounds {given['a']:.4g}, {given['b']:.4g} at std {given['std']:.4g}: {cut:.4g} std"
        if cut > NO_CUT:
            expected = f"{usual:g} std, as elsewhere" if usual else "2 or 3 std"
            said = "nothing is cut: trunc_normal_ takes absolute bounds; write a=-3*std, b=3*std"
        elif usual is not None and float(f"{cut:.3g}") != usual:
            expected, said = f"{usual:g} std, as elsewhere", "scale the bounds with the std"
        else:
            continue
        yield Finding("I03", Severity.WARNING, name, evidence, expected, said)


def repetitions(random: Mapping[str, Tensor]) -> Iterator[Finding]:
    """I05: rows and columns that are equal, in parameters that were drawn at random; rows of zeros are padding."""
    for name, tensor in random.items():
        if tensor.ndim < 2:
            continue
        matrix = tensor.detach().flatten(0, -2)
        for what, x in (("rows", matrix), ("columns", matrix.T)):
            if x.shape[1] < 4:
                continue
            hashes = row_hashes(x)
            if n := n_repeated(hashes[hashes != 0]):
                yield Finding(
                    "I05",
                    Severity.ERROR,
                    name,
                    f"{n} of {len(x)} {what} are repetitions of others",
                    "none",
                    "draw the whole tensor at once, from one generator",
                )
                break


def correlations(random: Mapping[str, Tensor]) -> Iterator[Finding]:
    """I06: parameters that begin alike, up to a factor."""
    sketches = {}
    for name, tensor in random.items():
        if tensor.numel() >= MIN_ELEMENTS:
            sketch = tensor.detach().reshape(-1)[:SKETCH].double()
            sketches[name] = sketch - sketch.mean()
    threshold = sidak(len(sketches) * (len(sketches) - 1) // 2)
    others: dict[str, Any] = {}
    for pair in correlated_pairs(sketches, threshold):
        others.setdefault(pair.parameter, pair)
    for name, pair in others.items():
        yield Finding(
            "I06",
            Severity.ERROR,
            name,
            f"r = {pair.r:.3f} with {pair.other}, z = {pair.z:.1f}",
            "r = 0",
            "a seed or a key is used twice: seed once, before the model is made",
        )


def optimizer_groups(built: Built) -> Iterator[Finding]:
    """I15, where the target brought optimizers."""
    if not built.optimizers:
        return
    held = Counter(id(p) for o in built.optimizers for group in o.param_groups for p in group["params"])
    for name, parameter in built.model.named_parameters():
        n = held.pop(id(parameter), 0)
        if parameter.requires_grad and n == 0:
            yield Finding("I15", Severity.ERROR, name, "in no group", "in one", "it is never trained: add it to one")
        elif n > 1:
            yield Finding("I15", Severity.ERROR, name, f"in {n} groups", "in one", "it is updated twice a step")
    if held:
        evidence = f"{len(held)} tensors in its groups are not parameters of the model"
        yield Finding(
            "I15", Severity.ERROR, "optimizer", evidence, "none", "make the optimizer after the model is final"
        )


def decayed_vectors(built: Built) -> list[str]:
    """Parameters of one dimension (norms, biases) that an optimizer's weight decay shrinks."""
    decayed = {
        id(p)
        for o in built.optimizers
        for group in o.param_groups
        if group.get("weight_decay")
        for p in group["params"]
    }
    return [name for name, p in built.model.named_parameters() if p.ndim < 2 and id(p) in decayed]


def low_precision_dtypes(model: nn.Module) -> list[torch.dtype]:
    """The types of less than 32 bits among a model's parameters."""
    return sorted({p.dtype for p in model.parameters() if p.dtype.itemsize < 4}, key=str)


def _last_fill(events: list[Write]) -> int:
    return max((i for i, write in enumerate(events) if write.kind == "fill" and write.whole), default=0)
