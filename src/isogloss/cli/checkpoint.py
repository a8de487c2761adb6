"""The verbs of ``isogloss checkpoint``: what is in one, whether it is whole, and its weights as plain files."""

import math
import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from isogloss.cli.shared import console, warn

if TYPE_CHECKING:
    from isogloss.checkpoint.load import Checkpoint

checkpoint_app = typer.Typer(
    name="checkpoint", help="Look into checkpoints, verify them, take their weights out.", no_args_is_help=True
)
Where = Annotated[
    Path, typer.Argument(metavar="PATH", help="runs/NAME, whose newest whole one is meant, or a checkpoint's folder.")
]


@checkpoint_app.command("inspect")
def inspect(path: Where) -> None:
    """List the parts of a checkpoint, and which files hold them."""
    from rich.table import Table

    found = _open(path)
    print(f"{found.folder}: step {found.step}")
    table = Table()
    for heading in ("part", "tensors", "numbers", "types", "files", "MiB"):
        table.add_column(heading, justify="left" if heading in ("part", "types") else "right")
    for part, tensors in found.index.parts.items():
        files = {piece.file for tensor in tensors.values() for piece in tensor.pieces}
        table.add_row(
            part,
            f"{len(tensors):,}",
            f"{sum(math.prod(tensor.shape) for tensor in tensors.values()):,}",
            ", ".join(sorted({tensor.dtype for tensor in tensors.values()})),
            f"{len(files)}",
            f"{sum(found.manifest.files[file].size for file in files) / 2**20:,.1f}",
        )
    console().print(table)
    for name, value in found.state.items():
        text = repr(value)
        print(f"{name}: {text if len(text) <= 120 else text[:117] + '...'}")


@checkpoint_app.command("verify")
def verify(path: Where) -> None:
    """Check every checkpoint of a run, or one, against its manifest; exit code 1 if any is not whole."""
    from isogloss.checkpoint.layout import NAME, CorruptCheckpointError, checkpoint_folders
    from isogloss.checkpoint.load import load_checkpoint
    from isogloss.config.base import UserError
    from isogloss.config.quantity import count, size

    folders = [path] if NAME.fullmatch(path.name) else [f for _, f in sorted(checkpoint_folders(_root(path)).items())]
    if not folders:
        raise UserError(f"{path} holds no checkpoint; give runs/NAME, or a folder in its checkpoints/")
    damaged = 0
    for folder in folders:
        try:
            found = load_checkpoint(folder)
        except CorruptCheckpointError as error:
            damaged += 1
            print(f"DAMAGED {error}")
        else:
            n_bytes = sum(facts.size for facts in found.manifest.files.values())
            print(f"whole   {folder}: {count(len(found.manifest.files), 'file')}, {size(n_bytes)}")
    if damaged:
        raise typer.Exit(1)


@checkpoint_app.command("consolidate")
def consolidate_weights(
    path: Where,
    out: Annotated[Path, typer.Argument(metavar="OUT", help="A new folder.")],
    max_shard_size: Annotated[str, typer.Option(help="Of a file: bytes, or such as 500MB, 5GB, 5GiB.")] = "5GB",
) -> None:
    """Write a checkpoint's weights as plain safetensors files, whatever number of ranks saved it."""
    from isogloss.checkpoint.consolidate import consolidate

    consolidate(_open(path), out, _bytes(max_shard_size))


def _root(path: Path) -> Path:
    return path / "checkpoints" if (path / "checkpoints").is_dir() else path


def _open(path: Path) -> "Checkpoint":
    from isogloss.checkpoint.layout import NAME
    from isogloss.checkpoint.load import load_checkpoint, newest_checkpoint
    from isogloss.config.base import UserError

    found = load_checkpoint(path) if NAME.fullmatch(path.name) else newest_checkpoint(_root(path), warn)
    if found is None:
        raise UserError(f"{path} holds no checkpoint; give runs/NAME, or a folder in its checkpoints/")
    return found


def _bytes(text: str) -> int:
    from isogloss.config.base import UserError

    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*(?:([KMGT])(i?)B|B)?", text.strip(), re.IGNORECASE)
    size = 0
    if match is not None:
        unit = (1024 if match[3] else 1000) ** " KMGT".index((match[2] or " ").upper())
        size = int(float(match[1]) * unit)
    if size <= 0:
        raise UserError(f"--max-shard-size {text}: give bytes, or such as 500MB, 5GB, 5GiB")
    return size
