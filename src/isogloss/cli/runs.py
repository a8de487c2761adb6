"""The verbs of a run: train it, sample it, evaluate it, take it elsewhere."""

import itertools
import sys
from pathlib import Path
from typing import Annotated

import typer

from isogloss.cli.shared import Device, RecipeArguments, expanded, split_words, warn
from isogloss.streams import emit, say, say_error


def train(
    arguments: RecipeArguments = None,
    fresh: Annotated[bool, typer.Option("--fresh", help="Set a former run of that name aside and begin anew.")] = False,
) -> None:
    """Train a recipe (the default one if none is named), or go on where it stopped."""
    from isogloss.recipe import load_recipe
    from isogloss.run.train import train as train_run
    from isogloss.terminal import open_console
    from isogloss.train.display import Display

    recipe = load_recipe(*split_words(arguments))
    train_run(recipe, Display(open_console()), fresh=fresh)


def generate(
    run: Annotated[Path, typer.Argument(parser=expanded, help="A run's folder, such as runs/stdlib-small.")],
    prompt: Annotated[str, typer.Argument(help="What the text begins with; - reads standard input.")] = "",
    max_tokens: Annotated[int, typer.Option(help="Stop after this many tokens.", min=1)] = 200,
    temperature: Annotated[float, typer.Option(help="0 takes the likeliest token.", min=0)] = 0.8,
    top_k: Annotated[int | None, typer.Option(help="Sample among the k likeliest tokens.", min=1)] = None,
    top_p: Annotated[
        float | None, typer.Option(help="Sample among the fewest tokens that have this probability.")
    ] = None,
    min_p: Annotated[
        float | None, typer.Option(help="Leave out tokens below this share of the likeliest one's.")
    ] = None,
    stop: Annotated[list[str] | None, typer.Option(help="End before this text; may be given again.")] = None,
    max_context: Annotated[int | None, typer.Option(help="Refuse to read and write more tokens.", min=1)] = None,
    seed: Annotated[int, typer.Option(help="Equal seeds give equal text.", min=0)] = 0,
    device: Device = "cpu",
) -> None:
    """Let a trained model go on with a prompt."""
    from isogloss.config.load import load_config
    from isogloss.data.tokenizers.base import well_formed
    from isogloss.generate.engine import generate as generate_text
    from isogloss.generate.sampling import SamplingConfig
    from isogloss.run.load import load_run

    given = {"max_tokens": max_tokens, "temperature": temperature, "top_k": top_k, "top_p": top_p, "min_p": min_p}
    given |= {"max_context": max_context, "seed": seed, "stop": stop or []}
    sampling = load_config(SamplingConfig, None, [(key, value) for key, value in given.items() if value is not None])
    loaded = load_run(run, device, warn)
    if prompt == "-":
        prompt = _read_standard_input()
    prompt = well_formed(prompt)  # an argument may be bytes that are no text, which could not be printed
    pieces = generate_text(loaded.model, loaded.tokenizer, prompt, sampling)
    first = next(pieces, "")  # what is wrong with the prompt is said before it is repeated
    for piece in itertools.chain((prompt, first), pieces):
        emit(piece, end="")
    emit("")


def evaluate(
    run: Annotated[Path, typer.Argument(parser=expanded, help="A run's folder, such as runs/stdlib-small.")],
    texts: Annotated[
        list[str],
        typer.Argument(
            metavar="PATH... [KEY=VALUE]...",
            help="Files, folders, globs and - (standard input), as data prepare reads them; then settings of reading.",
        ),
    ],
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    max_bad: Annotated[int | None, typer.Option(help="Bad records that may be left out and counted.", min=0)] = None,
    format_: Annotated[
        str, typer.Option("--format", help="Of standard input: auto, txt, json, jsonl, jsonl.gz, csv, parquet, ...")
    ] = "auto",
    device: Device = "cpu",
) -> None:
    """Loss, perplexity and bits per byte of a trained model on any text."""
    import json
    from dataclasses import asdict
    from tempfile import TemporaryDirectory

    from isogloss.cli.data import is_setting, keep_stdin
    from isogloss.config.load import load_config
    from isogloss.data.prepare import ReadConfig
    from isogloss.data.sources import Account, read_documents
    from isogloss.data.sources.account import count_in_words
    from isogloss.evaluate.loss import evaluate_text
    from isogloss.models.weights import check_finite
    from isogloss.run.load import load_run

    settings = [word for word in texts if is_setting(word)]
    settings += [] if max_bad is None else [f"max_bad={max_bad}"]
    config = load_config(ReadConfig, None, settings)
    account = Account(config.max_bad)
    loaded = load_run(run, device, warn)
    check_finite(loaded.model, "give an earlier checkpoint, runs/NAME/checkpoints/step-...")
    with TemporaryDirectory() as folder:
        named = [word for word in texts if not is_setting(word)]
        paths = [keep_stdin(Path(folder), format_) if word == "-" else word for word in named]
        documents = [document.text for document in read_documents(paths, config.read_settings(), account)]
    for line in account.sentences():
        say_error(line)
    cut = loaded.recipe.data.cut()
    found = evaluate_text(loaded.model, loaded.tokenizer, documents, cut.seq_len, within_document=cut.within_document)
    if as_json:
        rates = {key: getattr(found, key) for key in ("loss", "perplexity", "bits_per_byte")}
        emit(json.dumps(asdict(found) | rates | {"n_documents": len(documents), "left_out": account.left_out}))
        return
    left_out = f", {count_in_words(account.left_out)} left out" if account.left_out else ""
    say(f"documents       {len(documents):,}{left_out}")
    say(f"loss            {found.loss:.4f} nats a token ({found.n_targets:,} tokens)")
    say(f"perplexity      {found.perplexity:.2f}")
    say(f"bits per byte   {found.bits_per_byte:.4f} ({found.n_bytes:,} bytes)")


def export(
    run: Annotated[Path, typer.Argument(parser=expanded, help="A run's folder, such as runs/stdlib-small.")],
    folder: Annotated[
        Path, typer.Argument(parser=expanded, help="Where to write config.json, model.safetensors and the tokenizer.")
    ],
) -> None:
    """Write a trained model as Hugging Face's Llama or Qwen 3, for transformers and what reads its files."""
    from isogloss.interop.hf import export_hf
    from isogloss.run.load import load_run

    loaded = load_run(run, "cpu", warn)
    written = export_hf(loaded.model, loaded.tokenizer, folder, loaded.recipe.data.seq_len)
    say(f"wrote {', '.join(path.name for path in written)} to {folder}")
    say(f"AutoModelForCausalLM.from_pretrained({str(folder)!r}) reads it (pip install transformers)")
    if not (folder / "tokenizer.json").exists():
        say("no tokenizer was written: this one has no tokenizer.json; bring its own file along")


def recipes() -> None:
    """The recipes that come with the package."""
    from isogloss.recipe import DEFAULT, shipped_recipes

    for name, path in shipped_recipes().items():
        comment = path.read_text(encoding="utf-8").splitlines()[0].lstrip("# ")
        say(f"{name + (' (default)' if name == DEFAULT else ''):<28}{comment}")


def _read_standard_input() -> str:
    from isogloss.config.base import UserError

    try:
        return sys.stdin.buffer.read().decode()
    except UnicodeDecodeError as error:
        raise UserError(f"the prompt on standard input is not UTF-8 (byte {error.start})") from None
