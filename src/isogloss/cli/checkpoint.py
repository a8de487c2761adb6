"""The verbs of ``isogloss checkpoint``: what is in one, whether it is whole, and its weights as plain files."""

import math
import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from isogloss.cli.shared import console, expanded, warn
from isogloss.exit_codes import FAILED
from isogloss.streams import say

if TYPE_CHECKING:
    from isogloss.checkpoint.load import Checkpoint

checkpoint_app = typer.Typer(
    name="checkpoint", help="Look into checkpoints, verify them, take their weights out.", no_args_is_help=True
)
Where = Annotated[
    Path,
    typer.Argument(
        parser=expanded, metavar="PATH", help="runs/NAME, whose newest whole one is meant, or a checkpoint's folder."
    ),
]


@checkpoint_app.command("inspect")
def inspect(path: Where) -> None:
    """List the parts of a checkpoint, and which files hold them."""
    from isogloss.terminal import Table

    found = _open(path)
    say(f"{found.folder}: step {found.step}")
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
        say(f"{name}: {text if len(text) <= 120 else text[:117] + '...'}")


@checkpoint_app.command("verify")
def verify(path: Where) -> None:
    """Check every checkpoint of a run, or one, against its manifest; exit code 1 if any is not whole, or not finite."""
    from isogloss.checkpoint.layout import NAME, CorruptCheckpointError, checkpoint_folders
    from isogloss.checkpoint.load import load_checkpoint
    from isogloss.config.base import UserError
    from isogloss.config.quantity import count, size
    from isogloss.models.weights import nonfinite_in_words
    from isogloss.run.load import state_schema

    folders = [path] if NAME.fullmatch(path.name) else [f for _, f in sorted(checkpoint_folders(_root(path)).items())]
    if not folders:
        raise UserError(f"{path} holds no checkpoint; give runs/NAME, or a folder in its checkpoints/")
    damaged = 0
    for folder in folders:
        try:
            found = load_checkpoint(folder, schema=state_schema(folder.parent))
        except CorruptCheckpointError as error:
            damaged += 1
            say(f"DAMAGED {error}")
        else:
            n_bytes = sum(facts.size for facts in found.manifest.files.values())
            say(f"whole   {folder}: {count(len(found.manifest.files), 'file')}, {size(n_bytes)}")
            if counts := found.find_nonfinite():
                damaged += 1
                say(f"NOT FINITE {folder}: {nonfinite_in_words(counts)}; the run has diverged")
    if damaged:
        raise typer.Exit(FAILED)


@checkpoint_app.command("consolidate")
def consolidate_weights(
    path: Where,
    out: Annotated[Path, typer.Argument(parser=expanded, metavar="OUT", help="A new folder.")],
    max_shard_size: Annotated[str, typer.Option(help="Of a file: bytes, or such as 500MB, 5GB, 5GiB.")] = "5GB",
) -> None:
    """Write a checkpoint's weights as plain safetensors files, whatever number of ranks saved it."""
    from isogloss.checkpoint.consolidate import consolidate

    consolidate(_open(path), out, _bytes(max_shard_size))


def _root(path: Path) -> Path:
    return path / "checkpoints" if (path / "checkpoints").is_dir() else path


def _open(path: Path) -> "Checkpoint":
    from isogloss.config.base import UserError
    from isogloss.run.load import open_checkpoint

    found = open_checkpoint(path, warn)
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
