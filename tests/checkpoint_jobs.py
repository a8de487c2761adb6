"""What ranks do in the tests of checkpoints; here and not in the tests, so that other processes can import it."""

import errno
import hashlib
import itertools
import json
import mmap
import os
import resource
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from rich.console import Console
from torch import Tensor
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor, Shard, distribute_tensor

import gates
import isogloss.checkpoint.asynchronous
import isogloss.run.finish
import isogloss.run.state
import isogloss.run.steps
import isogloss.train.machine
from isogloss.checkpoint.asynchronous import Saver
from isogloss.checkpoint.config import CheckpointConfig
from isogloss.checkpoint.layout import checkpoint_folders
from isogloss.checkpoint.load import Checkpoint, newest_checkpoint
from isogloss.checkpoint.peers import Peers, join_peers
from isogloss.checkpoint.retention import delete
from isogloss.checkpoint.save import Draft, SaveFailedError, save_checkpoint
from isogloss.init.apply import initialise
from isogloss.init.plan import plan_init
from isogloss.init.schemes import LinguaConfig
from isogloss.mixers.attention import AttentionConfig
from isogloss.models.decoder import Decoder, DecoderConfig
from isogloss.models.registry import create_model
from isogloss.models.weights import model_tensors
from isogloss.nn.feed_forward import SwiGLUConfig
from isogloss.nn.multipliers import Multipliers
from isogloss.optim.state import allot_optimizer_tensors
from isogloss.recipe import load_recipe
from isogloss.run.train import train
from isogloss.train.display import Display
from layouts import by_roles, by_rows

# Odd sizes: the vocabulary and the hidden width divide by no number of ranks.
CONFIG = DecoderConfig(
    d_model=36, n_layers=2, mixer=AttentionConfig(n_heads=2), ffn=SwiGLUConfig(d_ff=49), vocab_size=101
)
KEEP = CheckpointConfig(keep_last=3)
STAGES = ("start", "load", "step", "save", "end")


def plain(model: Decoder, n: int) -> None:
    """As DDP holds them."""


def fsdp(model: Decoder, n: int) -> None:
    by_rows(model, init_device_mesh("cpu", (n,)))


def hsdp(model: Decoder, n: int) -> None:
    by_rows(model, init_device_mesh("cpu", (2, n // 2), mesh_dim_names=("replicate", "shard")))


def tensor_parallel(model: Decoder, n: int) -> None:
    by_roles(model, init_device_mesh("cpu", (n,)))


def fsdp_and_tensor_parallel(model: Decoder, n: int) -> None:
    mesh = init_device_mesh("cpu", (2, n // 2), mesh_dim_names=("fsdp", "tensor"))
    by_roles(model, mesh["tensor"])
    by_rows(model, mesh["fsdp"])


LAYOUTS = {layout.__name__: layout for layout in (plain, fsdp, hsdp, tensor_parallel, fsdp_and_tensor_parallel)}


def build(layout: str, n_ranks: int, seed: int = 5) -> Decoder:
    with torch.device("meta"):
        model = create_model(CONFIG, Multipliers())
    plan = plan_init(model, LinguaConfig(), CONFIG)
    LAYOUTS[layout](model, n_ranks)
    model.to_empty(device="cpu")
    initialise(model, plan, seed=seed)
    return model


def local(tensor: Tensor) -> Tensor:
    return tensor.detach().to_local() if isinstance(tensor, DTensor) else tensor.detach()


def whole_moments(seed: int = 7) -> dict[str, Tensor]:
    """Moments of every parameter, whole; as AdamW names them."""
    generator = torch.Generator().manual_seed(seed)
    found: dict[str, Tensor] = {}
    for name, tensor in model_tensors(build("plain", 1)).items():
        found[f"{name}/exp_avg"] = torch.randn(tensor.shape, generator=generator)
        found[f"{name}/step"] = torch.tensor(3.0)
    return found


def cut_as(parameter: Tensor, whole: Tensor) -> Tensor:
    if not isinstance(parameter, DTensor) or whole.ndim == 0:
        return whole.clone()
    return distribute_tensor(whole, parameter.device_mesh, parameter.placements, src_data_rank=None)


def save_layouts(rank: int, n_ranks: int, roots: dict[str, str]) -> None:
    """Save a model and moments that follow from a seed alone, once in each layout."""
    peers = join_peers()
    for layout, root in roots.items():
        own = model_tensors(build(layout, n_ranks))
        moments = {key: cut_as(own[key.rpartition("/")[0]], value) for key, value in whole_moments().items()}
        save_checkpoint(Path(root), 1, {"model": own, "optimizer": moments}, {"rank": rank}, KEEP, peers)


def load_layouts(rank: int, n_ranks: int, roots: list[str], layouts: list[str]) -> None:
    """Load what others have saved, and compare with what each layout should hold."""
    peers = join_peers()
    for layout in layouts:
        load_layout(build(layout, n_ranks), roots, layout, peers)


def load_layout(model: Decoder, roots: list[str], layout: str, peers: Peers) -> None:
    own = model_tensors(model)
    expected = {name: local(tensor).clone() for name, tensor in own.items()}
    optimizer = torch.optim.AdamW(model.parameters())
    for root in roots:
        for tensor in own.values():
            local(tensor).fill_(float("nan"))
        found = newest_checkpoint(Path(root), pytest.fail, peers)
        assert found is not None
        assert found.state == {"rank": 0}
        found.load_into("model", own)
        moments = allot_optimizer_tensors(model, optimizer, found.shapes("optimizer"))
        found.load_into("optimizer", moments)
        for name, tensor in own.items():
            assert torch.equal(local(tensor), expected[name]), f"{name}: {root} -> {layout}"
        for key, value in whole_moments().items():
            meant = local(cut_as(own[key.rpartition("/")[0]], value))
            assert torch.equal(local(moments[key]), meant), f"{key}: {root} -> {layout}"


def train_recipe(
    rank: int,
    n_ranks: int,
    recipe: str,
    overrides: list[str],
    watched: str | None = None,
    held: tuple[int, str] | None = None,
) -> None:
    """``isogloss train`` as a launcher starts it.

    Args:
        rank: this one.
        n_ranks: of the run.
        recipe: its file.
        overrides: of the recipe.
        watched: a folder in which it shows where it is, a byte a rank.
        held: a step, and the file before whose end it goes no further.
    """
    if watched is not None:
        show_stages(rank, Path(watched))
    if held is not None:
        gates.hold(held[0], Path(held[1]))
    # What takes a third of so short a run, and is not looked at: the machine's peak, the picture of the loss.
    isogloss.train.machine._measure_peak = lambda device, precision: 1e11
    isogloss.run.finish.plot_loss = lambda *rest, **more: None
    train(load_recipe(recipe, overrides), Display(Console(quiet=True)))


def show_stages(rank: int, folder: Path) -> None:
    """Wrap what the run calls: it shows where it is, writes down what is announced, and takes a little longer."""
    with (folder / "stage").open("r+b") as stream:
        stage = mmap.mmap(stream.fileno(), 2)  # one byte a rank
    announced = os.open(folder / "announced", os.O_WRONLY | os.O_APPEND)
    promised = max((int(line) for line in (folder / "announced").read_text().split()), default=0)

    def at(name: str) -> None:
        stage[rank] = STAGES.index(name)
        time.sleep(0.002)

    class WatchedSaver(Saver):
        def __init__(self, root: Path, config: CheckpointConfig, **watching: Any) -> None:
            super().__init__(root, config, self.reached, **watching)
            self.root = root

        def poll(self) -> None:
            at("step")
            super().poll()

        def reached(self, point: str) -> None:
            at("save")
            if point == "committed":
                os.write(announced, b"%d\n" % max(checkpoint_folders(self.root)))

    def watched_newest(root: Path, warn: Callable[[str], None], *rest: Any) -> Checkpoint | None:
        at("load")
        found = newest_checkpoint(root, warn, *rest)
        done = 0 if found is None else found.step
        assert done >= promised, f"{promised} had been announced, {done} was found"
        at("load")
        return found

    isogloss.run.steps.Saver = WatchedSaver
    isogloss.run.state.newest_checkpoint = watched_newest


def save_and_die(rank: int, n_ranks: int, root: str, step: int, victim: int, fatal: str) -> None:
    """Save, and let one rank die at a point of the protocol."""

    def reached(point: str) -> None:
        if (rank, point) == (victim, fatal):
            os._exit(9)

    parts = {"model": {"w": share(rank, n_ranks, step)}}
    save_checkpoint(Path(root), step, parts, {}, CheckpointConfig(keep_last=2), join_peers(), reached)


def share(rank: int, n_ranks: int, step: int) -> Tensor:
    whole = torch.arange(64.0).reshape(16, 4) + 100 * step
    return distribute_tensor(whole, init_device_mesh("cpu", (n_ranks,)), [Shard(0)], src_data_rank=None)


def save_steps(rank: int, n_ranks: int, root: str, steps: list[int], mark: float = 0) -> None:
    peers = join_peers()
    for step in steps:
        parts = {"model": {"w": share(rank, n_ranks, step) + mark}, "optimizer": {"w/step": torch.tensor(float(step))}}
        save_checkpoint(Path(root), step, parts, {"step": step}, KEEP, peers)


def failures(rank: int, n_ranks: int, root: str) -> None:
    """One rank fails, in several ways; all hear of it, at the same step, and the checkpoint before stays."""
    folder, peers = Path(root), join_peers()
    parts = {"model": {"w": share(rank, n_ranks, 1)}}
    save_checkpoint(folder, 1, parts, {}, KEEP, peers)

    def names() -> list[str]:
        dist.barrier()
        return sorted(path.name for path in folder.iterdir())

    def fail(kind: Callable[[], Exception], where: str) -> Callable[[str], None]:
        def reached(point: str) -> None:
            if rank == n_ranks - 1 and point == where:
                raise kind()

        return reached

    full = fail(lambda: OSError(errno.ENOSPC, "No space left on device"), "file written")
    with pytest.raises(SaveFailedError, match="disk is full"):
        save_checkpoint(folder, 2, parts, {}, KEEP, peers, full)
    assert names() == ["step-0000000001"]
    # A defect of ours on one rank: it keeps its own error, the others must not wait for it.
    defect = fail(lambda: ZeroDivisionError("a defect"), "file written")
    with pytest.raises(ZeroDivisionError if rank == n_ranks - 1 else SaveFailedError, match="a defect"):
        save_checkpoint(folder, 2, parts, {}, KEEP, peers, defect)
    assert names() == ["step-0000000001"]
    # The file size limit is a real error of the system's, in the middle of a write.
    large = {"model": {"w": distribute_tensor(torch.zeros(256, 1024), init_device_mesh("cpu", (n_ranks,)), [Shard(0)])}}
    former = resource.getrlimit(resource.RLIMIT_FSIZE)
    if rank == n_ranks - 1:
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, former[1]))
    with pytest.raises(SaveFailedError, match=r"ulimit -f\), .* a checkpoint needs 1,048,576"):
        save_checkpoint(folder, 2, large, {}, KEEP, peers)
    resource.setrlimit(resource.RLIMIT_FSIZE, former)
    assert names() == ["step-0000000001"]
    # What one rank writes is not what the next one reads: a disk that lies, a folder that is not shared.
    reread = fail(lambda: OSError(errno.EIO, "Input/output error"), "read back")
    with pytest.raises(SaveFailedError, match="Input/output error"):
        save_checkpoint(folder, 2, parts, {}, KEEP, peers, reread)
    save_checkpoint(folder, 2, large, {}, KEEP, peers)
    assert names() == ["step-0000000001", "step-0000000002"]
    # Other shapes in the run than in the checkpoint, on one rank: no rank loads.
    found = newest_checkpoint(folder, pytest.fail, peers)
    assert found is not None
    target = large["model"] if rank == 0 else {"other": torch.zeros(3)}
    with pytest.raises(ValueError, match="does not fit"):
        found.load_into("model", target)


def fail_in_the_background(rank: int, n_ranks: int, root: str) -> None:
    """A save that fails while training goes on is heard of between two steps, by all ranks between the same two."""
    polled = threading.Event()

    def reached(point: str) -> None:
        if point == "file written":
            assert polled.wait(60), "nobody asked how it gets on"
        time.sleep(0.02 * rank)
        if rank == 1 and point == "file written":
            raise OSError(errno.ENOSPC, "No space left on device")

    heard, said = -1, ""
    saver = Saver(Path(root), KEEP, reached)
    saver.save(1, {"model": {"w": share(rank, n_ranks, 1)}}, {})
    for step in itertools.count():
        dist.all_reduce(torch.zeros(1))  # a step of training
        time.sleep(0.001)
        try:
            saver.poll()
            polled.set()
        except SaveFailedError as error:
            heard, said = step, str(error)
            break
    everyone = join_peers().gather(heard)
    assert everyone == [everyone[0]] * n_ranks
    assert "disk is full" in said
    assert everyone[0] > 0


def save_in_the_background(rank: int, n_ranks: int, root: str) -> None:
    """What is saved is what was there at the call; one save is in flight at most; leaving waits for it."""
    in_flight: list[int] = []
    returned = threading.Event()

    def reached(point: str) -> None:
        if point == "file written":
            assert returned.wait(30), "save waits for what it should leave to the background"
            in_flight.append(1)
            assert sum(in_flight) == 1
            time.sleep(0.02)
        if point == "read back":
            in_flight.append(-1)

    with Saver(Path(root), CheckpointConfig(keep_last=9), reached) as saver:
        groups = {saver._peers._group, saver._between_steps._group, dist.group.WORLD}
        assert len(groups) == 3, "messages of the thread, of polling and of the training are kept apart"
        weight = share(rank, n_ranks, 0)
        for step in range(1, 5):
            weight.to_local().add_(100)
            saver.save(step, {"model": {"w": weight}}, {})
            returned.set()
        weight.to_local().fill_(float("nan"))
    assert sum(in_flight) == 0
    found = newest_checkpoint(Path(root), pytest.fail, join_peers())
    assert found is not None
    assert found.step == 4


def digest(folder: Path) -> dict[str, str]:
    """SHA-256 of each file of tensors of the newest checkpoint, and its name."""
    newest = max(path for path in folder.iterdir() if path.name.startswith("step-"))
    files = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in newest.glob("*.safetensors")}
    return files | {"name": newest.name, "index": hashlib.sha256((newest / "index.json").read_bytes()).hexdigest()}


def manifest_anew(folder: Path) -> None:
    """Make a manifest that agrees with the files as they are: what one who means harm would do."""
    path = folder / "manifest.json"
    values = json.loads(path.read_text())
    names = {p.name for p in folder.iterdir()} - {"manifest.json"}
    for name in names | set(values["files"]):
        data = (folder / name).read_bytes()
        values["files"][name] = {"size": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    path.write_text(json.dumps(values))


def agree_on_the_newest(rank: int, n_ranks: int, root: str, step: int) -> None:
    """All ranks load the same one, though only one of them has read the damaged file."""
    warnings: list[str] = []
    found = newest_checkpoint(Path(root), warnings.append, join_peers())
    assert found is not None
    assert found.step == step
    assert len(warnings) == 1
    assert "model-00002-of-00002.safetensors" in warnings[0]


def save_many(rank: int, n_ranks: int, root: str, n_saves: int, guard_taken_out: str = "") -> None:
    """Train, with collective calls of its own, while one checkpoint after the other is written."""
    if guard_taken_out:
        isogloss.checkpoint.asynchronous.join_peers = lambda *rest, **others: Peers(dist.group.WORLD)
    weight = share(rank, n_ranks, 0)
    with Saver(Path(root), CheckpointConfig(keep_last=1000)) as saver:
        for step in range(1, n_saves + 1):
            weight.to_local().add_(100)
            saver.save(step, {"model": {"w": weight}}, {})
            for n in range(5):
                total = torch.full((3,), float(n))
                dist.all_reduce(total)
                assert torch.equal(total, torch.full((3,), float(n * n_ranks)))
                saver.poll()


def delete_first(commit: Callable[..., None]) -> Callable[..., None]:
    """The commit of a save, for controls: with the order of the last two stages turned round."""

    def deleting(draft: Draft, *rest: object) -> None:
        for folder in checkpoint_folders(draft.root).values():
            delete(folder)
        commit(draft, *rest)

    return deleting
