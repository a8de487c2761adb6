"""Checkpoints: atomic, verified, free of pickle.

A checkpoint is a folder ``step-0000001000`` of safetensors files, a ``state.json`` and a ``manifest.json`` with the
size and SHA-256 of each. It is written under another name, flushed to the disk and renamed, so a folder of that name is
whole unless the disk itself has failed; loading verifies the checksums and falls back to the newest whole one.
"""

import errno
import hashlib
import json
import os
import re
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors.torch
from pydantic import Field
from torch import Tensor

from isogloss.config.base import Config, UserError
from isogloss.durable import DISK_FULL, hash_file, sync, sync_folder

FORMAT = 1
_NAME = re.compile(r"step-(\d{10})")
_ASIDE = ".aside-"  # what is being written or deleted


class CheckpointConfig(Config):
    """When checkpoints are written and which are kept."""

    every: int = Field(default=100, gt=0)
    """Steps between checkpoints; the last step always writes one."""
    minutes: float = Field(default=10.0, gt=0)
    """Also after this many minutes without one: a slow machine loses no more than that and a step."""
    keep_last: int = Field(default=2, gt=0)
    """How many of the newest are kept."""
    keep_every: int | None = Field(default=None, gt=0)
    """Checkpoints at multiples of this step are kept for good."""


class CorruptCheckpointError(UserError):
    """A checkpoint is not what was written."""


@dataclass(frozen=True)
class Checkpoint:
    """A verified checkpoint on disk."""

    folder: Path
    step: int
    state: dict[str, Any]

    def tensors(self, part: str) -> dict[str, Tensor]:
        """The tensors of one part, such as ``model``, on the CPU."""
        return safetensors.torch.load_file(self.folder / f"{part}.safetensors")


def save_checkpoint(
    root: Path,
    step: int,
    parts: Mapping[str, Mapping[str, Tensor]],
    state: Mapping[str, Any],
    config: CheckpointConfig,
) -> Path:
    """Write a checkpoint of ``step``, unless a whole one is there, and then delete those no longer kept.

    Args:
        root: the folder that holds a run's checkpoints.
        step: steps completed.
        parts: part name -> named tensors; one safetensors file each.
        state: what else a resume needs; becomes ``state.json``.
        config: which checkpoints are kept.

    Raises:
        UserError: the disk is full or the folder cannot be written; what was there before is untouched.
    """
    final = root / f"step-{step:010d}"
    if final.exists() and _whole(final):
        return final
    aside = root / f"{_ASIDE}{final.name}-{os.getpid()}"
    try:
        root.mkdir(parents=True, exist_ok=True)
        sweep(root)
        aside.mkdir()
        manifest: dict[str, Any] = {"format": FORMAT, "files": {}}
        for part, tensors in parts.items():
            data = safetensors.torch.save({name: t.detach().cpu().contiguous() for name, t in tensors.items()})
            manifest["files"][f"{part}.safetensors"] = _write(aside / f"{part}.safetensors", data)
        manifest["files"]["state.json"] = _write(aside / "state.json", json.dumps(state, indent=1).encode())
        _write(aside / "manifest.json", json.dumps(manifest, indent=1).encode())
        sync_folder(aside)
        if final.exists():  # a damaged one: after it, the run fell back to an earlier step
            _delete(final)
        aside.rename(final)
        sync_folder(root)
        _rotate(root, step, config)
    except OSError as error:
        shutil.rmtree(aside, ignore_errors=True)
        size = sum(t.numel() * t.element_size() for tensors in parts.values() for t in tensors.values())
        raise UserError(_explain(error, root, size)) from error
    return final


def _rotate(root: Path, newest: int, config: CheckpointConfig) -> None:
    """Delete what is not kept. Steps past ``newest`` are damaged ones that the run fell back from: they go first."""
    found = _steps(root)
    for later in sorted(step for step in found if step > newest):
        _delete(found.pop(later))
    for old in sorted(found)[: -config.keep_last]:
        if config.keep_every is None or old % config.keep_every:
            _delete(found[old])


def newest_checkpoint(root: Path, warn: Callable[[str], None]) -> Checkpoint | None:
    """The newest whole checkpoint, or ``None`` if there has been none; ``warn`` hears of each that is not whole.

    Raises:
        CorruptCheckpointError: there are checkpoints, and none of them is whole.
    """
    steps = _steps(root)
    for step in sorted(steps, reverse=True):
        try:
            return load_checkpoint(steps[step])
        except CorruptCheckpointError as error:
            warn(str(error))
    if steps:
        raise CorruptCheckpointError(
            f"none of the {len(steps)} checkpoints in {root} is whole; start afresh with --fresh, or restore a backup"
        )
    return None


def load_checkpoint(folder: Path) -> Checkpoint:
    """Verify every file of a checkpoint against its manifest.

    Raises:
        CorruptCheckpointError: a file is missing, has another size or checksum, or the manifest cannot be read.
    """
    match = _NAME.fullmatch(folder.name)
    try:
        manifest = json.loads((folder / "manifest.json").read_bytes())
        if manifest["format"] != FORMAT:
            raise CorruptCheckpointError(
                f"{folder} has checkpoint format {manifest['format']!r}, this version reads {FORMAT}"
            )
        expected: dict[str, dict[str, Any]] = dict(manifest["files"])
        if "state.json" not in expected:
            raise CorruptCheckpointError(f"{folder / 'manifest.json'} is damaged: it lists no state.json")
        for name, facts in expected.items():
            if Path(name).name != name:
                raise CorruptCheckpointError(f"{folder / 'manifest.json'} names a file outside its folder: {name!r}")
            path = folder / name
            if path.stat().st_size != facts["size"] or hash_file(path) != facts["sha256"]:
                raise CorruptCheckpointError(f"{path} is damaged: its size or checksum is not the manifest's")
        state = json.loads((folder / "state.json").read_bytes())
    except FileNotFoundError as error:
        raise CorruptCheckpointError(f"{error.filename} is missing: {folder} is not a whole checkpoint") from error
    except OSError as error:
        raise CorruptCheckpointError(f"{folder} cannot be read: {error}") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        if isinstance(error, CorruptCheckpointError):
            raise
        raise CorruptCheckpointError(f"{folder / 'manifest.json'} is damaged: {error}") from error
    if match is None:
        raise CorruptCheckpointError(f"{folder} is not named like a checkpoint (step-0000001000)")
    return Checkpoint(folder, int(match[1]), state)


def _whole(folder: Path) -> bool:
    try:
        load_checkpoint(folder)
    except CorruptCheckpointError:
        return False
    return True


def sweep(root: Path) -> None:
    """Remove what a killed process left half written or half deleted."""
    for left in root.glob(f"{_ASIDE}*"):
        shutil.rmtree(left, ignore_errors=True)


def has_checkpoints(root: Path) -> bool:
    """Whether there are any, whole or not.

    Raises:
        UserError: there is something else in the folder's place.
    """
    return bool(_steps(root))


def _steps(root: Path) -> dict[int, Path]:
    if not root.is_dir():
        if root.exists() or root.is_symlink():
            raise UserError(f"{root} is not a folder, where the checkpoints should be; move it away")
        return {}
    return {int(match[1]): path for path in root.iterdir() if (match := _NAME.fullmatch(path.name)) and path.is_dir()}


def _write(path: Path, data: bytes) -> dict[str, Any]:
    with path.open("wb") as stream:
        stream.write(data)
        sync(stream)
    return {"size": len(data), "sha256": hashlib.sha256(data).hexdigest()}


def _delete(folder: Path) -> None:
    """Rename first: a folder with a checkpoint's name is never half deleted."""
    aside = folder.with_name(f"{_ASIDE}{folder.name}-old")
    shutil.rmtree(aside, ignore_errors=True)
    folder.rename(aside)
    shutil.rmtree(aside, ignore_errors=True)


def _explain(error: OSError, root: Path, size: int) -> str:
    if error.errno in DISK_FULL:
        why = f"the disk is full; a checkpoint needs {size / 2**20:.1f} MiB. Free some space"
    elif error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        why = "the folder cannot be written. Change its permissions, or choose another with runs_dir="
    else:
        why = f"{error}. Mend that"
    return (
        f"no checkpoint could be written to {root}: {why}, then run the same command: it goes on from the newest one."
    )
