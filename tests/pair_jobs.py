"""What ranks do in the test of a run's choices taken together: tiny runs alone, on ranks, stopped, gone on with, moved.

Four processes go through all cases. Of each case: the run of one process; the same on ranks; the same stopped after a
step and gone on with on these ranks, and on others. What differs by more than `docs/parallel.md` states is a finding.
"""

import io
import json
import math
import os
import shutil
import signal
import socket
import sys
import traceback
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any
from unittest.mock import patch

import equality
import torch
import torch.distributed as dist
from rich.console import Console
from safetensors.torch import load, load_file

import isogloss.evaluate.loss
import isogloss.nn.loss
import isogloss.run.finish
import isogloss.run.state
import isogloss.run.steps
import isogloss.run.train
import isogloss.train.loop
import isogloss.train.machine
from isogloss.checkpoint.consolidate import consolidate
from isogloss.checkpoint.layout import checkpoint_folders
from isogloss.checkpoint.load import load_checkpoint
from isogloss.config.base import UserError
from isogloss.models.weights import load_weights
from isogloss.recipe import Recipe, load_recipe
from isogloss.run.load import load_run
from isogloss.run.train import train
from isogloss.train.display import Display
from isogloss.train.metrics import read_metrics
from isogloss.train.signals import Interrupted

STEPS, LR, RANKS = 6, 1e-3, 4
BAD, SPIKE = 1, 4
"""Batches, from 0, that are made to have a loss that is not finite on one rank, and one that spikes."""

MESHES: dict[str, tuple[int, list[str]]] = {
    "alone": (1, []),
    "FSDP 2": (2, []),
    "FSDP 4": (4, []),
    "HSDP 2x2": (4, ["parallel.replicate=2"]),
    "copies 2": (2, ["parallel.replicate=2"]),
    "tensor 2": (2, ["parallel.tensor=2"]),
    "context 2": (2, ["parallel.context=2"]),
    "FSDP x tensor 2x2": (4, ["parallel.tensor=2"]),
    "FSDP x context 2x2": (4, ["parallel.context=2"]),
    "context x tensor 2x2": (4, ["parallel.context=2", "parallel.tensor=2"]),
}
"""Ranks and settings."""
MOVES = ("alone", "FSDP 4", "copies 2", "tensor 2", "context 2")

FILES = "{{type: files, train: ['ROOT/corpus/0[{0}]*.txt'], validation_bytes: 400, prepared_dir: ROOT/prepared}}"
SOURCES = f"{{a: {{weight: 1.0, data: {FILES.format('0-2')}}}, b: {{weight: 2.0, data: {FILES.format('3-5')}}}}}"
MIXED = f"data={{type: mixture, seq_len: 32, sources: {SOURCES}"
SETTINGS: dict[str, dict[str, list[str]]] = {
    "unit": {"block": ["parallel.unit=1"], "two": ["parallel.unit=15000"], "all": []},
    "reshard": {"always": [], "never": ["parallel.reshard=never"]},
    "recompute": {"none": [], "selective": ["train.recompute=selective"], "full": ["train.recompute=full"]},
    "micro": {"all": [], "one": ["train.micro_batch_size=1"], "two": ["train.micro_batch_size=2"]},
    "precision": {
        "fp32": [],
        "bf16": ["train.precision=bf16"],
        "bf16, gathered in fp32": ["train.precision=bf16", "parallel.gather=fp32"],
        "bf16, reduced in bf16": ["train.precision=bf16", "parallel.reduce=bf16"],
        "float8 by tensor": ["train.precision=bf16", "train.float8=tensorwise"],
        "float8 by row": ["train.precision=bf16", "train.float8=rowwise"],
    },
    "moments": {"fp32": [], "bf16": ["optim.moments=bf16"]},
    "offload": {"no": [], "yes": ["parallel.offload=true"]},
    "z": {"no": [], "yes": ["model.z_loss=0.001"]},
    "clip": {"at 0.1": ["optim.clip=0.1"], "no": ["optim.clip=.inf"]},
    "head": {"own": [], "tied": ["model.tied_head=true"], "capped": ["model.logit_softcap=5.0"]},
    "heads": {"four": [], "grouped": ["model.mixer.n_kv_heads=2"]},
    "qk_norm": {"no": [], "yes": ["model.mixer.qk_norm=true"]},
    "norm": {name: [f"model.norm={name}"] for name in ("pre", "post", "output", "sandwich")},
    "attention": {"whole": [], "window": ["model.mixer.window=5"], "capped": ["model.mixer.softcap=5.0"]},
    "ffn": {"swiglu": [], "relu2": ["model.ffn.type=relu2"]},
    "data": {
        "concatenated": [],
        "across documents": ["data.within_document=false"],
        "documents": ["data.packing=document"],
        "best fit": ["data.packing=best_fit"],
        "mixture": [f"{MIXED}}}"],
        "mixture, best fit": [f"{MIXED}, packing: best_fit}}"],
    },
    "vocabulary": {"tokenizer's": [], "larger": ["model.vocab_size=301"]},
    "rows": {"same": [], "rising": ["train.batch_size_warmup=[{until: 2, batch_size: 4}]"]},
    "length": {"same": [], "rising": ["train.seq_len_warmup=[{until: 3, divisor: 2}]"]},
    "schedule": {
        name: [f"optim.schedule={{type: {name}, warmup: {warmup}}}"]
        for name, warmup in (("constant", 0), ("cosine", 2), ("wsd", 1), ("inverse_sqrt", 2))
    },
    "init": {"lingua": [], "mup": ["init={type: mup, base_width: 16}"]},
    "validation": {
        "each step": ["watch.validate_every=1", "watch.validation_rows=5"],
        "each second": ["watch.validate_every=2", "watch.validation_rows=8"],
        "at the end": ["watch.validate_every=100"],
    },
    "samples": {"none": ["watch.sample_tokens=0"], "each second": ["watch.sample_every=2", "watch.sample_tokens=4"]},
    "saving": {name: [f"checkpoint.every={every}"] for name, every in (("each step", 1), ("by 2", 2), ("by 3", 3))},
    "in background": {"yes": [], "no": ["checkpoint.asynchronous=false"]},
    "kept": {
        "one": ["checkpoint.keep_last=1"],
        "three": ["checkpoint.keep_last=3"],
        "every second": ["checkpoint.keep_last=1", "checkpoint.keep_every=2"],
    },
    "lines": {"each step": ["watch.log_every=1"], "by 4": ["watch.log_every=4"]},
    "spikes": {"passed": [], "gone back": ["train.spike={window: 2, deviations: 6.0}"]},
    "seed": {"3": [], "2**62": [f"seed={2**62}"]},
}
"""Choices that are settings of the recipe; the others are the meshes and what happens to the run."""
CHOICES: dict[str, list[str]] = {
    "mesh": [name for name in MESHES if name != "alone"],
    "moved to": list(MOVES),
    "stopped after": ["1", "2", "3", "4", "5"],
    "stopped by": ["signal", "kill"],
    "not finite": ["no", "on one rank"],
    "loss": ["in one chunk", "in many"],
    **{name: list(options) for name, options in SETTINGS.items()},
}
BASE = [
    "tokenizer.type=bytes",
    "init={type: lingua}",
    "data.seq_len=32",
    "model.d_model=32",
    "model.n_layers=3",
    "model.mixer.n_heads=4",
    "model.ffn.d_ff=64",
    f"optim.lr={LR}",
    f"train.steps={STEPS}",
    "train.batch_size=8",
    "parallel.timeout=0.5",
]
TIMED = ("tokens_per_second", "share_of_peak", "seconds")

Case = dict[str, str]


def settings(case: Case, mesh: str, name: str, root: Path) -> list[str]:
    """What the recipe of a case is given for a run."""
    given = [setting for choice, options in SETTINGS.items() for setting in options[case[choice]]]
    given += [*MESHES[mesh][1], f"name={name}", f"train.compile={'on' if case.get('compiled') else 'off'}"]
    # data= comes first: it replaces all of it.
    return sorted((s.replace("ROOT", str(root)) for s in [*BASE, *given]), key=lambda s: not s.startswith("data="))


def recipe(case: Case, mesh: str, name: str, root: Path) -> Recipe:
    """Of a case, for a run; refused if the ranks cannot share it."""
    chosen = settings(case, mesh, name, root)
    mixed = chosen[0].startswith("data={type: mixture")
    found = load_recipe(str(root / "tiny.yaml"), [s for s in chosen if not (mixed and s.startswith("data.seq_len"))])
    assert found.init.type == case["init"]
    found.check_float8(found.axes(MESHES[mesh][0]), "cpu")
    return found


def can_be_had(case: Case, root: Path) -> bool:
    """Whether nothing in it is refused, and its end does not depend on where it is stopped."""
    # The tolerances of bf16 are for logits of order 1 (docs/parallel.md): a tied head has them under one scheme only.
    if case["head"] == "tied" and case["init"] != "lingua" and case["precision"] != "fp32":
        return False
    # A spike goes back to the newest checkpoint: one that a signal asks for would be another.
    if (case["spikes"], case["stopped by"]) == ("gone back", "signal") and case["saving"] != "each step":
        return False
    try:
        for mesh in ("alone", case["mesh"], case["moved to"]):
            recipe(case, mesh, "any", root)
    except UserError:
        return False
    return True


class Pool:
    """The four processes: each run has a port of its own, and is made by the first so many of them."""

    def __init__(self, rank: int, port: int) -> None:
        self.rank, self._n = rank, 0
        self._store = dist.TCPStore(  # pyright: ignore[reportPrivateImportUsage]
            "127.0.0.1", port, RANKS, rank == 0, timedelta(minutes=10)
        )

    def told(self, make: Callable[[], str]) -> str:
        """What rank 0 makes, on all."""
        self._n += 1
        if self.rank == 0:
            self._store.set(f"told/{self._n}", make())
        return self._store.get(f"told/{self._n}").decode()

    def wait(self) -> None:
        """Until all are here."""
        self._n += 1
        if self._store.add(f"here/{self._n}", 1) == RANKS:
            self._store.set(f"all/{self._n}", "")
        self._store.wait([f"all/{self._n}"])

    def become(self, n_ranks: int) -> bool:
        """Take the variables of a launcher of so many ranks; whether this is one of them."""
        port = int(self.told(_free_port))
        if self.rank < n_ranks:
            be(self.rank, n_ranks, port)
        return self.rank < n_ranks


def be(rank: int, n_ranks: int, port: int) -> None:
    if n_ranks > 1:
        equality.become(rank, n_ranks, port)
    else:
        for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"):
            os.environ.pop(name, None)


def _free_port() -> str:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return str(found.getsockname()[1])


@dataclass(frozen=True)
class Stop:
    """How a run is stopped: after a step, by a signal; or its folder copied, as a kill would leave it."""

    after: int
    copies: Sequence[Path] = ()


def run(case: Case, mesh: str, name: str, root: Path, stop: Stop | None = None) -> str:
    """One run in this process, which is one of its ranks; what was said that should not have been."""
    n_ranks = MESHES[mesh][0]
    last = int(os.environ.get("RANK", "0")) == n_ranks - 1
    shown = io.StringIO()
    heard = root / f"heard-{os.getpid()}"
    with ExitStack() as stack:
        said = stack.enter_context(_listening(heard))
        for patched in _patches(case, last, stop):
            stack.enter_context(patched)
        try:
            train(recipe(case, mesh, name, root), Display(Console(file=shown, width=200)))
            assert stop is None or stop.copies, "it was to be stopped"
        except Interrupted:
            assert stop is not None
            if dist.is_initialized():
                dist.destroy_process_group()
    lines = [line for line in shown.getvalue().splitlines() if "warning" in line.lower()]
    return "\n".join([*lines, said()]).strip()


@contextmanager
def _listening(path: Path) -> Iterator[Callable[[], str]]:
    """Keep what goes to the standard error, each warning each time."""
    former = os.dup(2)
    with path.open("wb") as stream, warnings.catch_warnings():
        for kind in (UserWarning, FutureWarning, RuntimeWarning):
            warnings.simplefilter("always", kind)
        sys.stderr.flush()
        os.dup2(stream.fileno(), 2)
        try:
            yield path.read_text
        except BaseException:
            sys.stderr.flush()
            os.write(former, path.read_bytes())
            raise
        finally:
            sys.stderr.flush()
            os.dup2(former, 2)
            os.close(former)


def _patches(case: Case, last: bool, stop: Stop | None) -> Iterator[Any]:
    """What is done to a run: nothing of it is looked at but what is meant to happen to it."""
    yield patch.object(isogloss.train.machine, "_measure_peak", lambda device, precision: 1e11)
    yield patch.object(isogloss.run.finish, "plot_loss", lambda *rest, **more: None)
    yield patch.object(os, "fsync", lambda handle: None)
    if case["loss"] == "in many":
        yield patch.object(isogloss.nn.loss, "LOGITS_PER_CHUNK", 2000)
    if case.get("without") == "letting go":
        yield patch.object(isogloss.evaluate.loss, "let_go", lambda model: None)
    if case.get("without") == "moments":
        allot = isogloss.run.state.allot_optimizer_tensors
        elsewhere = lambda *rest: {key: tensor.clone() for key, tensor in allot(*rest).items()}  # noqa: E731
        yield patch.object(isogloss.run.state, "allot_optimizer_tensors", elsewhere)
    factors = {}
    if case["not finite"] != "no" and last:
        factors[BAD] = math.nan
    if case["spikes"] == "gone back":
        factors[SPIKE] = 3.0
    at, made = [0], [0]
    batch = isogloss.run.steps.Prefetcher.batch
    step = isogloss.train.loop.train_step

    def noting(ahead: Any, number: int) -> Any:
        at[0] = number
        return batch(ahead, number)

    def spoilt(model: Any, *rest: Any, **others: Any) -> Any:
        made[0] += 1
        if stop is not None and not stop.copies and made[0] == stop.after and last:
            os.kill(os.getpid(), signal.SIGUSR1)
        factor, kernel = factors.get(at[0]), model.loss_kernel
        if factor is None:
            return step(model, *rest, **others)
        model.loss_kernel = lambda *arguments: tuple(part * factor for part in kernel(*arguments))
        try:
            return step(model, *rest, **others)
        finally:
            model.loss_kernel = kernel

    yield patch.object(isogloss.run.steps.Prefetcher, "batch", noting)
    yield patch.object(isogloss.train.loop, "train_step", spoilt)
    if stop is None or not stop.copies:
        return
    poll = isogloss.run.steps.Saver.poll

    def stopping(saver: Any) -> None:  # between a step and its save
        poll(saver)
        if made[0] == stop.after + 1:
            saver.finish()
            for copy in stop.copies if int(os.environ.get("RANK", "0")) == 0 else ():
                shutil.copytree(saver._root.parent, copy, ignore=shutil.ignore_patterns("lock", "holder.json"))

    yield patch.object(isogloss.run.steps.Saver, "poll", stopping)


def go_through(pool: Pool, number: int, case: Case, root: Path) -> list[str]:
    """All runs of a case; what was found."""
    said: dict[str, str] = {}
    names = {kind: f"{number}-{kind}" for kind in ("alone", "split", "again", "moved")}
    folders = {kind: root / "runs" / name for kind, name in names.items()}
    copies = [folders["again"], folders["moved"]]
    after, killed = int(case["stopped after"]), case["stopped by"] == "kill"

    def together(kind: str, mesh: str, stop: Stop | None = None) -> None:
        if pool.become(MESHES[mesh][0]):
            said[kind] = run(case, mesh, names[kind], root, stop)
        pool.wait()

    together("alone", "alone")
    together("split", case["mesh"], Stop(after, copies) if killed else None)
    if not killed:
        together("again", case["mesh"], Stop(after))
        if pool.rank == 0:
            shutil.copytree(folders["again"], folders["moved"])
    together("again", case["mesh"])
    together("moved", case["moved to"])
    if pool.rank:
        return [f"rank {pool.rank} of {kind} said: {text}" for kind, text in said.items() if text]
    found = [f"{kind} said: {text}" for kind, text in said.items() if text]
    found += [f"ranks: {text}" for text in differences(folders["alone"], folders["split"], case)]
    found += [f"gone on with: {text}" for text in unequal(folders["split"], folders["again"])]
    found += [f"moved: {text}" for text in differences(folders["alone"], folders["moved"], case)]
    return found + exported(folders["split"], root / f"{number}-plain")


def records(folder: Path) -> dict[tuple[Any, ...], dict[str, Any]]:
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
    first_loss = equality.FIRST_LOSS if exact else equality.FIRST_LOSS_BF16
    last_loss = equality.LAST_LOSS if exact else equality.LAST_LOSS_BF16
    if case["precision"].startswith("float8"):
        first_loss = last_loss = math.inf  # its own precision only
    for key in sorted(one.keys() & many.keys()):
        a, b = one[key], many[key]
        limit = first_loss if key[0] == 1 and key[1] == "train" else last_loss
        for name in a.keys() & b.keys() - {"grad_norm", "text", "prompt"}:
            limit = 3 * limit if key[1] == "rewind" else limit  # that loss was made three times as large
            bound = limit if name.startswith(("loss", "bits")) else 1e-12
            if a[name] != b[name] and (None in (a[name], b[name]) or not abs(a[name] - b[name]) <= bound):
                found.append(f"{key[1]} {key[0]} {name}: {a[name]} and {b[name]}")
        if (
            key[0] == 1
            and exact
            and a.get("grad_norm")
            and not off(a["grad_norm"], b["grad_norm"]) <= (equality.FIRST_NORM)
        ):
            found.append(f"norm of step 1: {a['grad_norm']} and {b['grad_norm']}")
    states = [load_checkpoint(newest(run)).state["progress"] for run in (alone, split)]
    found += [f"{k}: {v} and {states[1][k]}" for k, v in states[0].items() if k != "seconds" and v != states[1][k]]
    weights = [whole(run) for run in (alone, split)]
    shapes = [{name: tensor.shape for name, tensor in one.items()} for one in weights]
    if shapes[0] != shapes[1]:
        found.append(f"tensors: {sorted(shapes[0].items() ^ shapes[1].items())[:4]}")
    elif exact:
        furthest = max(
            (float((weights[0][name] - weights[1][name]).abs().max()) / LR, name)
            for name in weights[0]
            if name.startswith("model/")
        )
        if not furthest[0] <= equality.WEIGHTS:
            found.append(f"weights: {furthest}")
    return found


def off(a: float, b: float) -> float:
    return abs(b / a - 1)


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


def work(rank: int, n_ranks: int, cases: dict[int, Case], root: str) -> None:
    """A process of the pool: writes what it finds of each case as a line."""
    port, folder = int(os.environ["MASTER_PORT"]), Path(root)
    pool = Pool(rank, port)
    for number, case in cases.items():
        try:
            _write(folder, number, go_through(pool, number, case, folder))
        except BaseException:
            _write(folder, number, [f"rank {rank}: {traceback.format_exc()}"])
            raise
        pool.wait()
        if rank == 0:
            for path in (folder / "runs").glob(f"{number}-*"):
                shutil.rmtree(path)


def _write(folder: Path, number: int, found: list[str]) -> None:
    with (folder / "found").open("a") as stream:
        stream.write(json.dumps({"case": number, "found": found}) + "\n")
