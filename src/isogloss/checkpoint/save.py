"""How a checkpoint comes to be: all ranks write under another name, and one renames.

1. prepare  rank 0 sweeps and makes a temporary folder; all agree on who writes what
2. write    each rank writes its files and flushes them to the disk
3. verify   each rank reads the next one's files back and compares sizes and checksums with what was meant
4. commit   rank 0 writes index, state and manifest, flushes, renames, flushes the parent; only now it exists
5. rotate   rank 0 deletes what is no longer kept

A failure on any rank, at any stage, is raised on all of them, and what was there before is untouched.
"""

import errno
import json
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel
from torch import Tensor

from isogloss.checkpoint.config import CheckpointConfig
from isogloss.checkpoint.layout import (
    ASIDE,
    FORMAT,
    INDEX,
    MANIFEST,
    STATE,
    CorruptCheckpointError,
    FileFacts,
    Index,
    Manifest,
    folder_name,
    plain_size,
)
from isogloss.checkpoint.load import load_checkpoint
from isogloss.checkpoint.peers import ALONE, Peers
from isogloss.checkpoint.plan import OwnPiece, Parts, SharedPlan, plan_save
from isogloss.checkpoint.retention import delete, rotate, sweep
from isogloss.checkpoint.room import free_bytes
from isogloss.checkpoint.storage import file_order, write_bytes, write_tensors
from isogloss.config.base import UserError
from isogloss.durable import DISK_FULL, hash_file, sync_folder

Reached = Callable[[str], None]
"""Hears of each point of the protocol as it is passed; ``committed`` is the one from which a checkpoint stays."""


def unheard(point: str) -> None:
    """Nobody listens."""


class SaveFailedError(UserError):
    """No checkpoint could be written; those that were there are untouched."""


@dataclass(frozen=True)
class Draft:
    """A checkpoint that has been agreed on and is to be written."""

    root: Path
    step: int
    aside: Path
    plan: SharedPlan

    @property
    def final(self) -> Path:
        """Where it will be."""
        return self.root / folder_name(self.step)


def save_checkpoint(
    root: Path,
    step: int,
    parts: Parts,
    state: Mapping[str, Any],
    config: CheckpointConfig,
    peers: Peers = ALONE,
    reached: Reached = unheard,
) -> Path:
    """Write a checkpoint of ``step``, unless a whole one is there, and then delete those no longer kept. Collective.

    Args:
        root: the folder that holds a run's checkpoints, the same for all ranks.
        step: steps completed.
        parts: part name -> named tensors, plain or DTensors; plain ones are the same on all ranks.
        state: what else a resume needs, of JSON's types; rank 0's is kept.
        config: which checkpoints are kept.
        peers: who saves together.
        reached: hears of each point of the protocol.

    Raises:
        SaveFailedError: the disk is full or the folder cannot be written; what was there before is untouched.
    """
    draft = prepare(root, step, parts, peers, reached)
    if draft is not None:
        write(draft, draft.plan.own, json.dumps(state, indent=1), config, peers, reached)
    return root / folder_name(step)


def prepare(
    root: Path,
    step: int,
    parts: Parts,
    peers: Peers,
    reached: Reached,
    former: SharedPlan | None = None,
    schema: type[BaseModel] | None = None,
) -> Draft | None:
    """Make the temporary folder and agree on who writes what; ``None`` if a whole checkpoint is there. Collective.

    Args:
        root: the folder that holds a run's checkpoints.
        step: steps completed.
        parts: part name -> named tensors.
        peers: who save together.
        reached: hears of each point of the protocol.
        former: the plan of the last save, if there was one.
        schema: of the states, as of `load_checkpoint`.

    Raises:
        SaveFailedError: the folder cannot be made.
    """
    folder = root / folder_name(step)
    if any(peers.gather(folder.exists() if peers.rank == 0 else False)):
        try:
            load_checkpoint(folder, peers, schema)
        except CorruptCheckpointError:  # the run fell back from it to an earlier step; it will be replaced
            pass
        else:
            return None
    name = ""
    with peers.together(SaveFailedError), _explained(root, None):
        if peers.rank == 0:
            root.mkdir(parents=True, exist_ok=True)
            sweep(root)
            name = f"{ASIDE}{folder.name}-{os.getpid()}"
            (root / name).mkdir()
            reached("folder made")
    aside = root / peers.gather(name)[0]
    return Draft(root, step, aside, plan_save(parts, peers, former))


def write(
    draft: Draft, own: Iterable[OwnPiece], state: str, config: CheckpointConfig, peers: Peers, reached: Reached
) -> None:
    """Write, verify, commit and rotate. Collective.

    Args:
        draft: what was agreed on.
        own: this rank's pieces: those of the draft's plan, or copies of them.
        state: JSON.
        config: which checkpoints are kept.
        peers: who saves together.
        reached: hears of each point of the protocol.

    Raises:
        SaveFailedError: a rank failed; nothing of it is visible.
    """
    own, size = list(own), draft.plan.n_bytes
    written: dict[str, FileFacts] = {}
    try:
        with peers.together(SaveFailedError), _explained(draft.root, size):
            for file in dict.fromkeys(piece.file for piece in own):
                pieces = {piece.key: piece.tensor for piece in own if piece.file == file}
                written[file] = _write_file(draft, file, pieces)
                reached("file written")
            sync_folder(draft.aside)
        everyone = peers.gather({name: facts.model_dump() for name, facts in written.items()})
        with peers.together(SaveFailedError), _explained(draft.root, size):
            for name, facts in everyone[(peers.rank + 1) % peers.n_ranks].items():
                _read_back(draft.aside / name, FileFacts(**facts))
            reached("read back")
        with peers.together(SaveFailedError), _explained(draft.root, size):
            if peers.rank == 0:
                files = {name: FileFacts(**facts) for found in everyone for name, facts in found.items()}
                _commit(draft, files, state, reached)
                rotate(draft.root, draft.step, config)
                reached("rotated")
    except Exception:
        shutil.rmtree(draft.aside, ignore_errors=True)  # on every rank: rank 0 may be the one that is gone
        raise


def _write_file(draft: Draft, file: str, tensors: Mapping[str, Tensor]) -> FileFacts:
    shapes = file_order({key: (tensor.dtype, tuple(tensor.shape)) for key, tensor in tensors.items()})
    metadata = {"format": "pt", "step": str(draft.step)}
    return write_tensors(draft.aside / file, shapes, (tensors[key] for key in shapes), metadata)


def _read_back(path: Path, meant: FileFacts) -> None:
    """What another rank wrote must be seen from here: a folder that is not shared, or a bad disk, shows."""
    if plain_size(path) != meant.size or hash_file(path) != meant.sha256:
        raise SaveFailedError(f"{path} does not read back as it was written; check the disk and its folder")


def _commit(draft: Draft, files: dict[str, FileFacts], state: str, reached: Reached) -> None:
    for name, facts in files.items():
        if plain_size(draft.aside / name) != facts.size:
            raise SaveFailedError(
                f"{draft.aside / name} is not what its rank wrote; runs_dir must be one folder shared by all ranks"
            )
    index = Index(format=FORMAT, step=draft.step, parts=draft.plan.parts)
    files[INDEX] = write_bytes(draft.aside / INDEX, index.model_dump_json().encode())
    files[STATE] = write_bytes(draft.aside / STATE, state.encode())
    reached("index written")
    manifest = Manifest(format=FORMAT, step=draft.step, files=files)
    write_bytes(draft.aside / MANIFEST, manifest.model_dump_json(indent=1).encode())
    sync_folder(draft.aside)
    reached("manifest written")
    if draft.final.exists():  # a damaged one
        delete(draft.final)
        reached("damaged one deleted")
    draft.aside.rename(draft.final)
    reached("renamed")
    sync_folder(draft.root)
    reached("committed")


@contextmanager
def _explained(root: Path, size: int | None) -> Iterator[None]:
    try:
        yield
    except CorruptCheckpointError as error:
        raise SaveFailedError(str(error)) from error
    except OSError as error:
        raise SaveFailedError(_explain(error, root, size)) from error


def _explain(error: OSError, root: Path, size: int | None) -> str:
    if error.errno in DISK_FULL:
        free = free_bytes(root)
        known = "" if free is None else f", {free:,} bytes are free"
        needed = "" if size is None else f", a checkpoint needs {size:,}"
        why = f"{DISK_FULL[error.errno]}{known}{needed}. Free some space"
    elif error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        why = "the folder cannot be written. Change its permissions, or choose another with runs_dir="
    else:
        why = f"{error}. Mend that"
    return (
        f"no checkpoint could be written to {root}: {why}, then run the same command: it goes on from the newest one."
    )
