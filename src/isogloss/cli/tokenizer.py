"""The verbs of ``isogloss tokenizer``."""

from pathlib import Path
from typing import Annotated

import typer

from isogloss.cli.shared import expanded
from isogloss.streams import say, say_error

tokenizer_app = typer.Typer(help="Train and look at tokenizers.", no_args_is_help=True)


@tokenizer_app.command("train")
def tokenizer_train(
    folder: Annotated[Path, typer.Argument(parser=expanded, help="Where to write tokenizer.json.")],
    texts: Annotated[
        list[Path], typer.Argument(parser=expanded, help="Text files, or folders and .jsonl files of documents.")
    ],
    vocab_size: Annotated[int, typer.Option(help="Tokens, special ones included.", min=257, max=2**31)] = 2048,
) -> None:
    """Train a byte-level BPE on any text."""
    from isogloss.data.sources import Account, read_documents
    from isogloss.data.tokenizers.bpe_training import train_bpe

    account = Account()
    tokenizer = train_bpe((document.text for document in read_documents(texts, account=account)), vocab_size)
    for line in account.sentences():
        say_error(line)
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(folder)
    short = "; the text has no more pairs to merge" if tokenizer.n_tokens < vocab_size else ""
    say(f"{folder}: {tokenizer.n_tokens} tokens{short}")


@tokenizer_app.command("show")
def tokenizer_show(
    path: Annotated[Path, typer.Argument(parser=expanded, help="A tokenizer's folder or file, or a run's folder.")],
    text: Annotated[str, typer.Argument(help="Text to cut; the vocabulary's facts alone if not given.")] = "",
) -> None:
    """How a tokenizer cuts a text."""
    from isogloss.data.tokenizers.description import describe
    from isogloss.data.tokenizers.loading import load_tokenizer

    tokenizer = load_tokenizer(path / "tokenizer" if (path / "tokenizer").is_dir() else path)
    found = describe(tokenizer, text)
    say(f"{found.n_tokens} tokens, end of text {found.end_of_text}, encoded by {found.backend}")
    say(f"fingerprint {found.fingerprint}")
    for piece in found.pieces:
        say(f"{piece.id:>7}  {piece.text}")
    if found.pieces:
        say(f"{found.n_bytes} bytes, {len(found.pieces)} tokens: {found.bytes_per_token:.2f} bytes a token")
