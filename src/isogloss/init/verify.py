"""Weights against their plan, by test, and measured signals against predicted ones.

Per random parameter, with n elements, effective std s and kurtosis k of its rule: its std
(``z = (std/s - 1) / sqrt((k-1)/4n)``), mean (``sqrt(n) mean / s``) and kurtosis (``sqrt(n/24)`` times the difference),
bounds and finiteness; equal rows or columns; equal shards at different places, and unequal ones at the same;
correlation with other parameters (``sqrt(n) r``), which is how a reused key or seed shows; numbers copied from any
place to any other (`isogloss.init.copies`). Constants are compared. All z share one threshold, by Sidak over all tests
of the model, so that a clean model is suspected once in a thousand.

Works on sharded models without gathering them: each rank sends sums and hashes. Standard deviations alone would not
do: ``manual_seed`` and ``nn.init`` on a sharded CPU model give every rank the same numbers, of the right std.
"""

import hashlib
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

import torch
from torch import Tensor, nn

from isogloss.init.apply import from_all_ranks, local_part
from isogloss.init.copies import Runs, find_copies, run_density, sample_runs
from isogloss.init.plan import Entry
from isogloss.init.repetition import CHUNK, corner, correlated_pairs, n_repeated, row_hashes, sidak
from isogloss.init.rules import Constant, Normal
from isogloss.init.signals import SILENT, Signals
from isogloss.nn.roles import declared_tensors


class Status(StrEnum):
    """How bad it is."""

    PASS = "pass"
    WARN = "warn"
    FAIL = "fail"


@dataclass(frozen=True)
class Finding:
    """Something about a parameter that the plan does not say.

    Args:
        parameter: its name.
        test: which test found it.
        what: in words, with the number found and the one expected.
    """

    parameter: str
    test: str
    what: str


@dataclass(frozen=True)
class Piece:
    """What one rank knows of its part of a parameter."""

    offset: tuple[int, ...]
    shape: tuple[int, ...]
    n: int
    n_bad: int
    sums: tuple[float, float, float]
    largest: float
    smallest: float
    digest: bytes
    rows: Tensor
    columns: Tensor
    corner: Tensor
    held: torch.dtype
    runs: Runs
    eps: float


@torch.no_grad()
def verify_weights(model: nn.Module, plan: Mapping[str, Entry]) -> list[Finding]:
    """Everything about the weights that does not agree with the plan; empty for a clean model.

    A collective call in a process group: every rank gets the same findings, and replicas are compared.
    """
    varied = {name: math.prod(entry.site.shape) for name, entry in plan.items() if entry.rule.effective_std > 0}
    density = run_density(sum(varied.values()))
    mine = {
        site.name: _piece(tensor, density if site.name in varied else None) for site, tensor in declared_tensors(model)
    }
    everyone = from_all_ranks(mine)
    names = list(dict.fromkeys(name for ranks in everyone for name in ranks))  # pipeline stages hold some each
    findings: list[Finding] = []
    random = [name for name in names if not isinstance(plan[name].rule, Constant)]
    n_tests = 3 * len(random) + len(random) * (len(random) - 1) // 2
    threshold = sidak(n_tests)
    whole: dict[str, list[Piece]] = {}
    for name in names:
        pieces = [ranks[name] for ranks in everyone if name in ranks and ranks[name].n]
        findings += _replicas(name, pieces)
        whole[name] = list({piece.offset: piece for piece in pieces}.values())
        findings += _moments(plan[name], whole[name], threshold)
    for name in random:
        findings += _repetitions(name, whole[name], plan[name].rule.effective_std)
    findings += _correlations({name: _joined(whole[name]) for name in random}, threshold)
    seen = {found.parameter for found in findings if found.test in ("shards", "rows", "columns", "correlation")}
    findings += [found for found in _copies({name: whole[name] for name in random}) if found.parameter not in seen]
    return findings


def _joined(pieces: Sequence[Piece]) -> Tensor:
    """The corner of a parameter from those of its pieces."""
    found = pieces[0].corner
    for piece in pieces[1:]:
        found = torch.where(found.isnan(), piece.corner, found)
    return found


def _piece(tensor: Tensor, density: float | None) -> Piece:
    """Read the local shard once; runs are sampled at a density, of random parameters."""
    local, offset = local_part(tensor)
    flat = local.detach().reshape(-1)
    n_bad, s1, s2, s4, largest, smallest = 0, 0.0, 0.0, 0.0, -math.inf, math.inf
    digest = hashlib.blake2b(digest_size=16)
    for chunk in flat.split(CHUNK) if flat.numel() else ():  # a rank may hold nothing
        finite = torch.isfinite(chunk)
        n_bad += int((~finite).sum())
        x = torch.where(finite, chunk, 0).double()
        s1, s2, s4 = s1 + float(x.sum()), s2 + float(x.square().sum()), s4 + float(x.square().square().sum())
        largest, smallest = max(largest, float(x.max())), min(smallest, float(x.min()))
        digest.update(chunk.float().cpu().numpy().tobytes())
    return Piece(
        offset,
        tuple(local.shape),
        flat.numel(),
        n_bad,
        (s1, s2, s4),
        largest,
        smallest,
        digest.digest(),
        row_hashes(local),
        row_hashes(local.flatten(0, -2).mT) if local.ndim > 1 else row_hashes(local),
        corner(local, offset),
        _held(flat),
        sample_runs(local if density else local.new_empty(0), density or 1.0),
        torch.finfo(tensor.dtype).eps,
    )


def _held(flat: Tensor) -> torch.dtype:
    """The type that numbers were rounded to: the shortest that holds all of them."""
    for dtype in (torch.bfloat16, torch.float16):
        if all(torch.equal(chunk.to(dtype).to(chunk.dtype), chunk) for chunk in flat.split(CHUNK)):
            return dtype
    return flat.dtype


def _rounded(value: float, piece: Piece) -> float:
    """As the piece holds it. Rounding keeps the order, so that what was within a bound is within the rounded one."""
    return float(torch.tensor(value, dtype=torch.float64).to(piece.held))


def _replicas(name: str, pieces: Sequence[Piece]) -> Iterator[Finding]:
    seen: dict[tuple[int, ...], bytes] = {}
    for piece in pieces:
        if seen.setdefault(piece.offset, piece.digest) != piece.digest:
            yield Finding(name, "replicas", f"ranks that hold the same part (at {piece.offset}) hold different numbers")
            return


def _moments(entry: Entry, pieces: Sequence[Piece], threshold: float) -> Iterator[Finding]:
    name, rule, n = entry.site.name, entry.rule, sum(piece.n for piece in pieces)
    if n_bad := sum(piece.n_bad for piece in pieces):
        yield Finding(name, "finite", f"{n_bad} of {n} elements are not finite")
        return
    largest, smallest = max(piece.largest for piece in pieces), min(piece.smallest for piece in pieces)
    if isinstance(rule, Constant):
        if any(not piece.largest == piece.smallest == _rounded(rule.value, piece) for piece in pieces):
            yield Finding(name, "constant", f"between {smallest:g} and {largest:g}, planned {rule.value:g} everywhere")
        return
    s1, s2, s4 = (sum(piece.sums[i] for piece in pieces) for i in range(3))
    std = math.sqrt(s2 / n)
    if rule.effective_std == 0:
        if largest != 0 or smallest != 0:
            yield Finding(name, "std", f"std {std:.4g}, planned 0")
        return
    if std == 0:
        yield Finding(name, "std", f"all zero, planned std {rule.effective_std:.4g} ({rule.text})")
        return
    z = (std / rule.effective_std - 1) / math.sqrt((rule.kurtosis - 1) / (4 * n))
    if abs(z) > threshold:
        ratio = std / rule.effective_std
        yield Finding(
            name,
            "std",
            f"std {std:.5g}, planned {rule.effective_std:.5g} ({rule.text}): {ratio:.4g} of it, z = {z:.1f}",
        )
    z = s1 / n / (std / math.sqrt(n))
    if abs(z) > threshold:
        yield Finding(name, "mean", f"mean {s1 / n:.3g} with std {std:.3g}, planned 0: z = {z:.1f}")
    kurtosis = n * s4 / s2**2
    uncut = isinstance(rule, Normal) and rule.cut is None
    z = _kurtosis_of_a_normal(kurtosis, n) if uncut else (kurtosis - rule.kurtosis) / math.sqrt(24 / n)
    if abs(z) > threshold:
        yield Finding(
            name, "kurtosis", f"kurtosis {kurtosis:.3f}, planned {rule.kurtosis:.3f}: another distribution, z = {z:.1f}"
        )
    # The bound itself is a product of roundings in float32.
    bounds = [_rounded(rule.bound * (1 + 2 * torch.finfo(torch.float32).eps), piece) for piece in pieces]
    sizes = [max(piece.largest, -piece.smallest) for piece in pieces]
    if any(size > bound for size, bound in zip(sizes, bounds, strict=True)):
        found = max(sizes)
        yield Finding(name, "bounds", f"an element of {found:.5g}, planned within {rule.bound:.5g}")


def _kurtosis_of_a_normal(kurtosis: float, n: int) -> float:
    """The z of a sample kurtosis under normality, whose own distribution is skewed to thousands of elements.

    Anscombe and Glynn 1983, "Distribution of the kurtosis statistic b2 for normal samples". Bounded distributions have
    no such tail: ``sqrt(24 / n)`` is more than their error.
    """
    if n < 20:
        return 0.0
    mean, variance = 3 * (n - 1) / (n + 1), 24 * n * (n - 2) * (n - 3) / ((n + 1) ** 2 * (n + 3) * (n + 5))
    x = (kurtosis - mean) / math.sqrt(variance)
    if x < 0:  # the transformation's lower tail is too long; that of the statistic is short
        return x
    skew = 6 * (n * n - 5 * n + 2) / ((n + 7) * (n + 9)) * math.sqrt(6 * (n + 3) * (n + 5) / (n * (n - 2) * (n - 3)))
    a = 6 + 8 / skew * (2 / skew + math.sqrt(1 + 4 / skew**2))
    below = 1 + x * math.sqrt(2 / (a - 4))
    return (1 - 2 / (9 * a) - ((1 - 2 / a) / below) ** (1 / 3)) / math.sqrt(2 / (9 * a))


def _repetitions(name: str, pieces: Sequence[Piece], std: float) -> Iterator[Finding]:
    if std == 0:
        return
    places: dict[bytes, tuple[int, ...]] = {}
    for piece in pieces:
        if (other := places.setdefault(piece.digest, piece.offset)) != piece.offset:
            yield Finding(name, "shards", f"the parts at {other} and {piece.offset} hold the same numbers")
            return
    # Whole rows stand side by side in the parts of equal columns, whole columns in those of equal rows.
    lines = [("rows", piece.offset[-1:], piece.rows) for piece in pieces]
    lines += [("columns", piece.offset[:-1], piece.columns) for piece in pieces]
    together: dict[tuple[str, tuple[int, ...]], list[Tensor]] = {}
    for what, place, hashes in lines:
        together.setdefault((what, place), []).append(hashes)
    for (what, _), parts in together.items():
        hashes = torch.cat(parts)
        if n_equal := n_repeated(hashes):
            yield Finding(name, what, f"{n_equal} of {len(hashes)} {what} are repetitions of others")
            return


def _correlations(sketches: Mapping[str, Tensor], threshold: float) -> Iterator[Finding]:
    for found in correlated_pairs(sketches, threshold):
        what = f"r = {found.r:.3f} with {found.other}, z = {found.z:.1f}: a seed or a key used twice?"
        yield Finding(found.parameter, "correlation", what)


def _copies(pieces: Mapping[str, Sequence[Piece]]) -> Iterator[Finding]:
    runs = {name: [(piece.runs, piece.offset, piece.shape) for piece in parts] for name, parts in pieces.items()}
    for found in find_copies(runs):
        where = "elsewhere in it" if found.other == found.name else f"in {found.other}"
        what = f"{found.n_common} of {found.n_runs} sampled runs of its numbers stand {where} as well, such as at "
        what += f"{list(found.place)} and {list(found.other_place)}: copied, or a seed used twice?"
        yield Finding(found.name, "copies", what)


@dataclass(frozen=True)
class SignalCheck:
    """One measured signal beside its prediction."""

    what: str
    layer: int | None
    measured: float
    predicted: float
    tolerance: float

    @property
    def ratio(self) -> float:
        """Measured over predicted."""
        if self.predicted <= SILENT and self.measured <= SILENT:
            return 1.0
        return self.measured / self.predicted if self.predicted else math.inf

    @property
    def status(self) -> Status:
        """Within the tolerance, within twice that, or beyond."""
        off = abs(math.log(self.ratio)) if 0 < self.ratio < math.inf else math.inf
        bound = math.log1p(self.tolerance)
        return Status.PASS if off <= bound else Status.WARN if off <= 2 * bound else Status.FAIL


def compare_signals(measured: Signals, predicted: Signals, d_model: int, loss_spread: float = 0.0) -> list[SignalCheck]:
    """Every layer's signals.

    One model is one draw, whose spread goes as width^-1/2: the tolerances are those of a single seed at width 256
    (docs/initialization.md), and wider below.

    Args:
        measured: of a batch.
        predicted: for it.
        d_model: the width; that of the feed-forward networks, where it is less.
        loss_spread: of the loss from one draw to another, relative, beside what the width explains.
    """
    spread = max(1.0, math.sqrt(256 / d_model))
    checks = []
    for name, what, tolerance in (
        ("stream", "stream", 0.12),
        ("mixer_write", "mixer write", 0.15),
        ("ffn_write", "ffn write", 0.15),
        ("attention_logit_std", "attention logits", 0.15),
        ("gradient", "gradient", 0.25),
    ):
        values = zip(getattr(measured, name), getattr(predicted, name), strict=True)
        draws = predicted.attention_logit_spread if name == "attention_logit_std" else ()
        for layer, (m, p) in enumerate(values):
            chance = 2 * draws[layer] if draws else 0.0
            checks.append(SignalCheck(what, layer, m, p, math.hypot(tolerance * spread, chance)))
    checks.append(SignalCheck("logits", None, measured.logit_std, predicted.logit_std, 0.08 * spread))
    checks.append(SignalCheck("loss", None, measured.loss, predicted.loss, 0.01 * spread + 3 * loss_spread))
    return checks
