"""Finding, verifying and reading checkpoints; the newest whole one is agreed on by all ranks.

Everything in a folder is checked before any of it is used: the files against the manifest, the tensors' headers against
the index, the index against itself. Ranks share the hashing.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from pydantic import BaseModel
from torch import Tensor

from isogloss.checkpoint.layout import (
    DTYPES,
    INDEX,
    MANIFEST,
    NAME,
    STATE,
    CorruptCheckpointError,
    Index,
    Manifest,
    checkpoint_folders,
    parse_index,
    parse_manifest,
    parse_state,
    piece_key,
    plain_size,
    read_json,
    refuse_pickles,
)
from isogloss.checkpoint.peers import ALONE, Peers
from isogloss.checkpoint.plan import Read, plan_load
from isogloss.checkpoint.storage import Shape, open_tensors
from isogloss.config.base import UserError
from isogloss.config.problems import did_you_mean
from isogloss.durable import hash_file
from isogloss.headway import advance
from isogloss.models.weights import find_nonfinite


@dataclass(frozen=True)
class Checkpoint:
    """A verified checkpoint on disk."""

    folder: Path
    step: int
    state: dict[str, Any]
    index: Index
    manifest: Manifest
    peers: Peers

    def shapes(self, part: str) -> dict[str, Shape]:
        """Name -> type and shape of the tensors of one part, such as ``model``; whole ones, however they are cut."""
        return {name: (DTYPES[t.dtype], tuple(t.shape)) for name, t in self.index.parts.get(part, {}).items()}

    @torch.no_grad()
    def load_into(self, part: str, tensors: Mapping[str, Tensor]) -> None:
        """Copy a part into tensors of its names and shapes, in place, each rank its share of DTensors. Collective.

        Raises:
            UserError: a name is missing or unexpected, or a shape differs; all are listed and nothing is loaded.
            CorruptCheckpointError: a file cannot be read any more.
        """
        with self.peers.together(UserError):
            check_fit(part, self.shapes(part), tensors)
            reads = plan_load(self.index.parts.get(part, {}), tensors)
            by_file: dict[str, list[Read]] = {}
            for read in reads:
                by_file.setdefault(read.file, []).append(read)
            for file, of_file in by_file.items():
                with open_tensors(self.folder / file) as source:
                    for read in of_file:
                        read.target.copy_(source.read(read.key, read.offsets, read.lengths))
                        advance()

    def find_nonfinite(self) -> dict[str, int]:
        """How many numbers of each tensor are not finite, by part and name, of those that have such."""

        def stored() -> Iterator[tuple[str, Tensor]]:
            names = {
                (piece.file, piece_key(name, tensor.shape, piece.offsets, piece.sizes)): f"{part}: {name}"
                for part, tensors in self.index.parts.items()
                for name, tensor in tensors.items()
                for piece in tensor.pieces
            }
            for file in sorted({file for file, _ in names}):
                with open_tensors(self.folder / file) as source:
                    for key, (_, shape) in source.shapes().items():
                        yield names[file, key], source.read(key, [0] * len(shape), shape)
                        advance()

        return find_nonfinite(stored())

    def tensors(self, part: str) -> dict[str, Tensor]:
        """All of one part in the memory of this process, on the CPU."""
        made = {name: torch.empty(shape, dtype=dtype) for name, (dtype, shape) in self.shapes(part).items()}
        self.load_into(part, made)
        return made


def check_fit(part: str, stored: Mapping[str, Shape], tensors: Mapping[str, Tensor]) -> None:
    """Make sure that names and shapes are the same.

    Raises:
        UserError: they are not; the first ten differences are listed.
    """
    problems = [f"{name} is missing" for name in tensors if name not in stored]
    for name, (_, shape) in stored.items():
        if name not in tensors:
            hint = did_you_mean(name, tensors) if len(problems) < 10 else ""  # looks through all names
            problems.append(f"{name} is unexpected{hint}")
        elif tuple(shape) != tuple(tensors[name].shape):
            problems.append(f"{name} has shape {tuple(shape)}, the run's is {tuple(tensors[name].shape)}")
    if problems:
        more = f"; and {len(problems) - 10} more" if len(problems) > 10 else ""
        raise UserError(f"the checkpoint's {part} does not fit this run: " + "; ".join(problems[:10]) + more)


def newest_checkpoint(
    root: str | Path,
    warn: Callable[[str], None],
    peers: Peers = ALONE,
    schema: type[BaseModel] | None = None,
    wanted: Callable[[Checkpoint], bool] | None = None,
) -> Checkpoint | None:
    """The newest whole checkpoint, or ``None`` if there has been none; the same on all ranks. Collective.

    Args:
        root: the folder that holds a run's checkpoints.
        warn: hears, on each rank, of each checkpoint that is not whole, and of which is taken in its place.
        peers: who loads together.
        schema: as of `load_checkpoint`.
        wanted: whether one will do, by its state; others are passed over. ``None``: any will.

    Raises:
        CorruptCheckpointError: there are checkpoints, and none of them is whole.
    """
    root = Path(root)
    with peers.together(UserError):
        names = [path.name for _, path in sorted(checkpoint_folders(root).items(), reverse=True)]
    names = peers.gather(names)[0]  # rank 0's view counts
    damaged: list[str] = []
    taken = ""
    try:
        for name in names:
            try:
                found = load_checkpoint(root / name, peers, schema)
            except CorruptCheckpointError as error:
                damaged.append(str(error))
            else:
                if wanted is not None and not wanted(found):
                    continue
                taken = f"; step {found.step} is taken instead, from {found.folder}"
                return found
    finally:  # also where something else goes wrong, or it is interrupted
        for text in damaged:
            warn(f"{text}{taken}")
    if damaged and len(damaged) == len(names):
        raise CorruptCheckpointError(
            f"none of the {len(names)} checkpoints in {root} is whole; start afresh with --fresh, or restore a backup"
        )
    return None


def load_checkpoint(folder: str | Path, peers: Peers = ALONE, schema: type[BaseModel] | None = None) -> Checkpoint:
    """Verify every file of a checkpoint: ranks share them. Collective.

    Args:
        folder: the checkpoint.
        peers: who load together.
        schema: of its state; that of runs is ``isogloss.run.state.RunState``.

    Raises:
        CorruptCheckpointError: a file is missing, of another size or checksum, or not what the index says; there is a
            pickle; or the checkpoint is of another format.
    """
    folder = Path(folder)
    with peers.together(CorruptCheckpointError), _readable(folder):
        match = NAME.fullmatch(folder.name)
        if match is None:
            raise CorruptCheckpointError(f"{folder} is not named like a checkpoint (step-0000001000)")
        refuse_pickles(folder)
        step = int(match[1])
        manifest = parse_manifest(folder / MANIFEST, read_json(folder / MANIFEST), step)
        for name in (INDEX, STATE):
            verify_file(folder, name, manifest)
        index = parse_index(folder / INDEX, read_json(folder / INDEX), manifest)
        state = parse_state(folder / STATE, read_json(folder / STATE), step, schema)
        shards = sorted(name for name in manifest.files if name not in (INDEX, STATE))
        for name in shards:  # cheap, and on every rank: a folder that is not shared shows here
            _check_size(folder, name, manifest)
        by_size = sorted(shards, key=lambda name: -manifest.files[name].size)
        meant = _by_file(index)
        for name in by_size[peers.rank :: peers.n_ranks]:
            verify_file(folder, name, manifest)
            _check_header(folder, name, meant.get(name, {}), step)
    return Checkpoint(folder, step, state, index, manifest, peers)


def verify_file(folder: Path, name: str, manifest: Manifest) -> None:
    """Compare a file's size and checksum with the manifest's.

    Raises:
        CorruptCheckpointError: they differ.
    """
    _check_size(folder, name, manifest)
    if hash_file(folder / name) != manifest.files[name].sha256:
        raise CorruptCheckpointError(f"{folder / name} is damaged: its checksum is not the manifest's")


def _check_size(folder: Path, name: str, manifest: Manifest) -> None:
    size, meant = plain_size(folder / name), manifest.files[name].size
    if size != meant:
        raise CorruptCheckpointError(f"{folder / name} is damaged: it has {size:,} bytes, the manifest says {meant:,}")


def _by_file(index: Index) -> dict[str, dict[str, Shape]]:
    """File -> key -> type and shape of what the index places there."""
    found: dict[str, dict[str, Shape]] = {}
    for tensors in index.parts.values():
        for name, tensor in tensors.items():
            for piece in tensor.pieces:
                key = piece_key(name, tensor.shape, piece.offsets, piece.sizes)
                found.setdefault(piece.file, {})[key] = (DTYPES[tensor.dtype], list(piece.sizes))
    return found


def _check_header(folder: Path, name: str, meant: Mapping[str, Shape], step: int) -> None:
    """The tensors in a file must be those that the index places there."""
    with open_tensors(folder / name) as source:
        if (other := source.metadata().get("step")) != str(step):
            raise CorruptCheckpointError(f"{folder / name} is of step {other}, not {step}: it is another's")
        found = {key: (dtype, list(shape)) for key, (dtype, shape) in source.shapes().items()}
    if found != meant:
        wrong = next(key for key in {**meant, **found} if meant.get(key) != found.get(key))
        raise CorruptCheckpointError(f"{folder / name} is not what {INDEX} says: {wrong}")


@contextmanager
def _readable(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise CorruptCheckpointError(f"{error.filename or folder} cannot be read: {error.strerror}") from error
