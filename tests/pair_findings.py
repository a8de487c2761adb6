"""What is compared of the runs of a case: bit for bit, or by the tolerances that docs/parallel.md states."""

import json
import math
from pathlib import Path
from typing import Any

import equality
import torch
from safetensors.torch import load, load_file

from isogloss.checkpoint.consolidate import consolidate
from isogloss.checkpoint.layout import checkpoint_folders
from isogloss.checkpoint.load import load_checkpoint
from isogloss.models.weights import load_weights
from isogloss.run.load import load_run
from isogloss.train.metrics import read_metrics
from pair_choices import LR, SPIKE_FACTOR, Case

TIMED = ("tokens_per_second", "share_of_peak", "seconds")

Key = tuple[int, str, str]
"""Of a record: step, kind and prompt."""


def records(folder: Path) -> dict[Key, dict[str, Any]]:
    """Of a run, by step and kind, without times."""
    return {
        (r["step"], r["kind"], r.get("prompt", "")): {k: v for k, v in r.items() if k not in TIMED}
        for r in read_metrics(folder / "metrics.jsonl")
    }


def same(a: torch.Tensor, b: torch.Tensor) -> bool:
    """The same bits."""
    return a.dtype == b.dtype and a.shape == b.shape and torch.equal(a, b)


def newest(folder: Path) -> Path:
    found = checkpoint_folders(folder / "checkpoints")
    return found[max(found)]


def unequal(whole: Path, again: Path) -> list[str]:
    """What is not bit for bit the same: weights, moments, counts, records, which checkpoints are kept."""
    found = []
    files = [
        {path.name: load(path.read_bytes()) for path in newest(run).glob("*.safetensors")} for run in (whole, again)
    ]
    for name in sorted(files[0] | files[1]):
        one, two = (parts.get(name, {}) for parts in files)
        if differ := [
            key for key in sorted(one | two) if key not in one or key not in two or not same(one[key], two[key])
        ]:
            found.append(f"{name}: {', '.join(differ[:4])}: {[one.get(differ[0]), two.get(differ[0])]}")
    states = [load_checkpoint(newest(run)).state for run in (whole, again)]
    for state in states:
        state["progress"].pop("seconds")
        for info in state["window"]:
            info |= {"seconds": 0, "warming": False}
    found += [f"{key}: {states[0][key]} and {states[1][key]}" for key in states[0] if states[0][key] != states[1][key]]
    kept = [records(run) for run in (whole, again)]
    for key in sorted(kept[0] | kept[1]):
        if kept[0].get(key) != kept[1].get(key):
            found.append(f"record {key}: {kept[0].get(key)} and {kept[1].get(key)}")
    return found


def differences(alone: Path, split: Path, case: Case) -> list[str]:
    """Where ranks are further from one process than docs/parallel.md states."""
    found = []
    starts = [[row["sha256"] for row in json.loads((run / "init.json").read_text())] for run in (alone, split)]
    if starts[0] != starts[1]:
        found.append("initial weights differ")
    one, many = records(alone), records(split)
    if one.keys() - many.keys() or {key for key in many.keys() - one.keys() if key[1] == "train"}:
        found.append(f"records of {sorted(one.keys() ^ many.keys())}")
    exact = case["precision"] == "fp32"
    for key in sorted(one.keys() & many.keys()):
        found += _far(key, one[key], many[key], _bound(key, case))
    norms = [run.get((1, "train", ""), {}).get("grad_norm") for run in (one, many)]
    if exact and norms[0] and not abs(norms[1] / norms[0] - 1) <= equality.FIRST_NORM:
        found.append(f"norms of step 1: {norms}")
    states = [load_checkpoint(newest(run)).state["progress"] for run in (alone, split)]
    found += [f"{k}: {v} and {states[1][k]}" for k, v in states[0].items() if k != "seconds" and v != states[1][k]]
    weights = [whole(run) for run in (alone, split)]
    kinds = [{name: (tensor.dtype, tensor.shape) for name, tensor in run.items()} for run in weights]
    if kinds[0] != kinds[1]:
        found.append(f"tensors: {kinds[0].items() ^ kinds[1].items()}")
    elif exact:
        off = {
            name: float((weights[0][name] - weights[1][name]).abs().max()) / LR
            for name in weights[0]
            if name.startswith("model/")
        }
        found += [f"{name} is {far} learning rates off" for name, far in off.items() if not far <= equality.WEIGHTS]
    return found


def _bound(key: Key, case: Case) -> float:
    """How far losses of a record may be apart."""
    if case["precision"].startswith("float8"):
        return math.inf  # float8's own precision only
    exact, first = case["precision"] == "fp32", key[:2] == (1, "train")
    if first:
        return equality.FIRST_LOSS if exact else equality.FIRST_LOSS_BF16
    return (SPIKE_FACTOR if key[1] == "rewind" else 1) * (equality.LAST_LOSS if exact else equality.LAST_LOSS_BF16)


def _far(key: Key, a: dict[str, Any], b: dict[str, Any], bound: float) -> list[str]:
    """The values of a record that are further apart; all but losses are to be equal."""
    found = []
    for name in a.keys() & b.keys() - {"grad_norm", "text"}:
        one, two = a[name], b[name]
        if name == "bits_per_byte" and None not in (one, two):  # but for its unit the loss
            one, two = one / a["loss"], two / b["loss"]
        allowed = bound if name.startswith("loss") else 1e-12
        if one != two and (None in (one, two) or not abs(one - two) <= allowed):
            found.append(f"{key[1]} {key[0]} {name}: {one} and {two}")
    return found


def whole(folder: Path) -> dict[str, torch.Tensor]:
    """Weights and moments of the newest checkpoint."""
    checkpoint, found = load_checkpoint(newest(folder)), {}
    for part in ("model", "optimizer"):
        into = {n: torch.empty(tuple(s), dtype=t) for n, (t, s) in checkpoint.shapes(part).items()}
        checkpoint.load_into(part, into)
        found |= {f"{part}/{name}": tensor for name, tensor in into.items()}
    return found


def exported(folder: Path, target: Path) -> list[str]:
    """Whether weights put together for other programs give the logits of the run's model."""
    consolidate(load_checkpoint(newest(folder)), target, 100_000, say=lambda text: None)
    loaded = load_run(folder)
    tokens = torch.arange(32)[None] % 7 + 100
    with torch.no_grad():
        expected = loaded.model(tokens)
        load_weights(loaded.model, {k: v for f in target.glob("*.safetensors") for k, v in load_file(f).items()})
        return [] if torch.equal(loaded.model(tokens), expected) else ["the consolidated weights give other logits"]
