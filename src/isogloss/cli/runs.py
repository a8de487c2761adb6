"""The verbs of a run: train it, sample it, evaluate it, take it elsewhere."""

import itertools
import sys
from pathlib import Path
from typing import Annotated

import typer

from isogloss.cli.shared import Device, RecipeArguments, expanded, split_words, warn


def train(
    arguments: RecipeArguments = None,
    fresh: Annotated[bool, typer.Option("--fresh", help="Set a former run of that name aside and begin anew.")] = False,
) -> None:
    """Train a recipe (the default one if none is named), or go on where it stopped."""
    from rich.console import Console

    from isogloss.recipe import load_recipe
    from isogloss.run.train import train as train_run
    from isogloss.train.display import Display

    recipe = load_recipe(*split_words(arguments))
    train_run(recipe, Display(Console()), fresh=fresh)


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
    import json

    from isogloss.config.load import load_config
    from isogloss.data.tokenizers.base import well_formed
    from isogloss.generate.engine import generate as generate_text
    from isogloss.generate.sampling import SamplingConfig
    from isogloss.run.load import load_run

    given = {"max_tokens": max_tokens, "temperature": temperature, "top_k": top_k, "top_p": top_p, "min_p": min_p}
    given |= {"max_context": max_context, "seed": seed, "stop": json.dumps(stop) if stop else None}
    overrides = [f"{key}={value}" for key, value in given.items() if value is not None]
    sampling = load_config(SamplingConfig, None, overrides)
    loaded = load_run(run, device, warn)
    if prompt == "-":
        prompt = _read_standard_input()
    prompt = well_formed(prompt)  # an argument may be bytes that are no text, which could not be printed
    pieces = generate_text(loaded.model, loaded.tokenizer, prompt, sampling)
    first = next(pieces, "")  # what is wrong with the prompt is said before it is repeated
    for piece in itertools.chain((prompt, first), pieces):
        sys.stdout.write(piece)
        sys.stdout.flush()
    sys.stdout.write("\n")


def evaluate(
    run: Annotated[Path, typer.Argument(parser=expanded, help="A run's folder, such as runs/stdlib-small.")],
    texts: Annotated[
        list[Path], typer.Argument(parser=expanded, help="Text files, or folders and .jsonl files of documents.")
    ],
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    device: Device = "cpu",
) -> None:
    """Loss, perplexity and bits per byte of a trained model on any text."""
    import json
    from dataclasses import asdict

    from isogloss.data.sources import read_documents
    from isogloss.evaluate.loss import evaluate_text
    from isogloss.run.load import load_run

    loaded = load_run(run, device, warn)
    documents = [document.text for document in read_documents(texts)]
    cut = loaded.recipe.data.cut()
    found = evaluate_text(loaded.model, loaded.tokenizer, documents, cut.seq_len, within_document=cut.within_document)
    if as_json:
        rates = {key: getattr(found, key) for key in ("loss", "perplexity", "bits_per_byte")}
        print(json.dumps(asdict(found) | rates))
        return
    print(f"loss            {found.loss:.4f} nats a token ({found.n_targets:,} tokens)")
    print(f"perplexity      {found.perplexity:.2f}")
    print(f"bits per byte   {found.bits_per_byte:.4f} ({found.n_bytes:,} bytes)")


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
    print(f"wrote {', '.join(path.name for path in written)} to {folder}")
    print(f"AutoModelForCausalLM.from_pretrained({str(folder)!r}) reads it (pip install transformers)")
    if not (folder / "tokenizer.json").exists():
        print("no tokenizer was written: this one has no tokenizer.json; bring its own file along")


def recipes() -> None:
    """The recipes that come with the package."""
    from isogloss.recipe import DEFAULT, shipped_recipes

    for name, path in shipped_recipes().items():
        comment = path.read_text().splitlines()[0].lstrip("# ")
        print(f"{name + (' (default)' if name == DEFAULT else ''):<28}{comment}")


def _read_standard_input() -> str:
    from isogloss.config.base import UserError

    try:
        return sys.stdin.buffer.read().decode()
    except UnicodeDecodeError as error:
        raise UserError(f"the prompt on standard input is not UTF-8 (byte {error.start})") from None
