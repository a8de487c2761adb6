"""The verbs of the command line: parsing and printing only, every verb is one call into the library.

This module alone delays its imports, so that ``--help`` does not wait for PyTorch. What a user can mend ends with one
message and exit code 2.
"""

import errno
import sys
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from rich.console import Console

    from isogloss.study.trials import Study

app = typer.Typer(
    name="isogloss",
    help="Pre-train and study language models; every weight starts at a scale the program can state and check.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)
config_app = typer.Typer(help="Look at recipes and their settings.", no_args_is_help=True)
init_app = typer.Typer(help="Plan, verify, compare and audit initial weights.", no_args_is_help=True)
tokenizer_app = typer.Typer(help="Train and look at tokenizers.", no_args_is_help=True)
app.add_typer(config_app, name="config")
app.add_typer(init_app, name="init")
app.add_typer(tokenizer_app, name="tokenizer")

RecipeArguments = Annotated[
    list[str] | None,
    typer.Argument(metavar="[RECIPE] [KEY=VALUE]...", help="A shipped recipe's name or a YAML file, then overrides."),
]


class PlanFormat(StrEnum):
    """How a plan is printed."""

    TABLE = "table"
    JSON = "json"
    CSV = "csv"
    MARKDOWN = "markdown"


class SizeAxis(StrEnum):
    """How models grow in a study."""

    WIDTH = "width"
    DEPTH = "depth"


class AuditFormat(StrEnum):
    """How an audit is printed."""

    TABLE = "table"
    JSON = "json"
    MARKDOWN = "markdown"


Device = Annotated[str, typer.Option(help="Where the model runs: cpu or cuda; in float32.")]


@app.command()
def train(
    arguments: RecipeArguments = None,
    fresh: Annotated[bool, typer.Option("--fresh", help="Set a former run of that name aside and begin anew.")] = False,
) -> None:
    """Train a recipe (the default one if none is named), or go on where it stopped."""
    from rich.console import Console

    from isogloss.recipe import load_recipe
    from isogloss.run.train import train as train_run
    from isogloss.train.display import Display

    recipe = load_recipe(*_split(arguments))
    train_run(recipe, Display(Console()), fresh=fresh)


@app.command()
def generate(
    run: Annotated[Path, typer.Argument(help="A run's folder, such as runs/stdlib-small.")],
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
    seed: Annotated[int, typer.Option(help="Equal seeds give equal text.", min=0)] = 0,
    device: Device = "cpu",
) -> None:
    """Let a trained model go on with a prompt."""
    import json

    from isogloss.config.load import load_config
    from isogloss.generate.engine import generate as generate_text
    from isogloss.generate.sampling import SamplingConfig
    from isogloss.run.load import load_run

    given = {"max_tokens": max_tokens, "temperature": temperature, "top_k": top_k, "top_p": top_p, "min_p": min_p}
    given |= {"seed": seed, "stop": json.dumps(stop) if stop else None}
    overrides = [f"{key}={value}" for key, value in given.items() if value is not None]
    sampling = load_config(SamplingConfig, None, overrides)
    loaded = load_run(run, device, _warn)
    if prompt == "-":
        prompt = _read_standard_input()
    sys.stdout.write(prompt)
    for piece in generate_text(loaded.model, loaded.tokenizer, prompt, sampling):
        sys.stdout.write(piece)
        sys.stdout.flush()
    sys.stdout.write("\n")


@app.command("eval")
def evaluate(
    run: Annotated[Path, typer.Argument(help="A run's folder, such as runs/stdlib-small.")],
    texts: Annotated[list[Path], typer.Argument(help="Text files, or folders and .jsonl files of documents.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    device: Device = "cpu",
) -> None:
    """Loss, perplexity and bits per byte of a trained model on any text."""
    import json
    from dataclasses import asdict

    from isogloss.data.sources import read_documents
    from isogloss.evaluate.loss import evaluate_text
    from isogloss.run.load import load_run

    loaded = load_run(run, device, _warn)
    documents = [document.text for document in read_documents(texts)]
    data = loaded.recipe.data
    found = evaluate_text(loaded.model, loaded.tokenizer, documents, data.seq_len, within_document=data.within_document)
    if as_json:
        rates = {key: getattr(found, key) for key in ("loss", "perplexity", "bits_per_byte")}
        print(json.dumps(asdict(found) | rates))
        return
    print(f"loss            {found.loss:.4f} nats a token ({found.n_targets:,} tokens)")
    print(f"perplexity      {found.perplexity:.2f}")
    print(f"bits per byte   {found.bits_per_byte:.4f} ({found.n_bytes:,} bytes)")


@app.command()
def export(
    run: Annotated[Path, typer.Argument(help="A run's folder, such as runs/stdlib-small.")],
    folder: Annotated[Path, typer.Argument(help="Where to write config.json, model.safetensors and the tokenizer.")],
) -> None:
    """Write a trained model as Hugging Face's Llama or Qwen 3, for transformers and what reads its files."""
    from isogloss.interop.hf import export_hf
    from isogloss.run.load import load_run

    loaded = load_run(run, "cpu", _warn)
    written = export_hf(loaded.model, loaded.tokenizer, folder, loaded.recipe.data.seq_len)
    print(f"wrote {', '.join(path.name for path in written)} to {folder}")
    print(f"AutoModelForCausalLM.from_pretrained({str(folder)!r}) reads it (pip install transformers)")
    if not (folder / "tokenizer.json").exists():
        print("no tokenizer was written: this one has no tokenizer.json; bring its own file along")


@app.command()
def recipes() -> None:
    """The recipes that come with the package."""
    from isogloss.recipe import DEFAULT, shipped_recipes

    for name, path in shipped_recipes().items():
        comment = path.read_text().splitlines()[0].lstrip("# ")
        print(f"{name + (' (default)' if name == DEFAULT else ''):<28}{comment}")


@config_app.command("show")
def config_show(arguments: RecipeArguments = None) -> None:
    """The whole recipe, defaults and overrides included, as YAML."""
    from isogloss.config.load import dump_config
    from isogloss.recipe import load_recipe

    print(dump_config(load_recipe(*_split(arguments))), end="")


@config_app.command("schema")
def config_schema() -> None:
    """The JSON schema of a recipe, for editors."""
    import json

    from isogloss.config.describe import schema
    from isogloss.recipe import Recipe

    print(json.dumps(schema(Recipe), indent=2))


@config_app.command("explain")
def config_explain(
    key: Annotated[
        str, typer.Argument(help="A dotted key, such as optim.lr or model; all sections if not given.")
    ] = "",
    recipe: Annotated[str, typer.Option(help="Whose values are shown.")] = "",
) -> None:
    """What a setting means, what it may be and what it is."""
    from isogloss.config.describe import explain
    from isogloss.recipe import DEFAULT, Recipe, load_recipe

    print(explain(Recipe, key, load_recipe(recipe or DEFAULT)))


@config_app.command("diff")
def config_diff(a: str, b: str) -> None:
    """What differs between two recipes."""
    from isogloss.config.describe import diff, in_words
    from isogloss.recipe import load_recipe

    for change in diff(load_recipe(a), load_recipe(b)):
        print(in_words(change))


@init_app.command("plan")
def init_plan(
    arguments: RecipeArguments = None,
    diff: Annotated[
        list[str] | None,
        typer.Option(help="Show what differs from this recipe, or with this KEY=VALUE; may be repeated."),
    ] = None,
    form: Annotated[PlanFormat, typer.Option("--format", help="How it is printed.")] = PlanFormat.TABLE,
) -> None:
    """The rule and the scale that every weight of a recipe's model starts from, and the signals they will give."""
    import json
    from dataclasses import asdict

    from isogloss.run.plan import as_csv, as_markdown, diff_table, plan_recipe, plan_table, signal_lines

    name, overrides = _split(arguments)
    plan = plan_recipe(name, overrides)
    if diff:
        other, changes = _split(diff)
        other = name if "=" in diff[0] else other
        _console().print(diff_table(plan, plan_recipe(other, [*overrides, *changes])))
    elif form == PlanFormat.JSON:
        print(json.dumps({"parameters": plan.rows, "signals": asdict(plan.signals)}, indent=1))
    elif form == PlanFormat.CSV:
        print(as_csv(plan), end="")
    elif form == PlanFormat.MARKDOWN:
        print(as_markdown(plan), end="")
    else:
        _console().print(plan_table(plan))
        print("\n".join(signal_lines(plan)))


@init_app.command("verify")
def init_verify(
    arguments: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[RECIPE|CHECKPOINT] [KEY=VALUE]...",
            help="A recipe, then overrides; or a checkpoint's folder, whose weights are checked or, trained, compared.",
        ),
    ] = None,
    fingerprint: Annotated[
        bool,
        typer.Option(
            "--fingerprint",
            help="Print a SHA-256 of each initial weight; of a run's folder or a checkpoint, compare with its own.",
        ),
    ] = False,
    weights: Annotated[
        Path | None, typer.Option(help="Check initial weights of this safetensors file instead of those made here.")
    ] = None,
    plot: Annotated[Path | None, typer.Option(help="Draw measured and predicted signals as this PNG.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Make a recipe's model; check its weights against the plan and its first batch against the prediction.

    Exit code 1 where something fails.
    """
    from rich.console import Console

    from isogloss.config.base import UserError
    from isogloss.init.verify import Status
    from isogloss.recipe import load_recipe
    from isogloss.report.signals import plot_signals
    from isogloss.run import fingerprint as fingerprints
    from isogloss.run import verify as verification
    from isogloss.train.display import Display

    name, overrides = _split(arguments)
    path = Path(name)
    run = fingerprints.run_of(path)
    if run != path and (overrides or weights):
        raise UserError(f"{name} is a checkpoint, which has a recipe and weights of its own; leave the rest out")
    if fingerprint and (weights or plot or as_json):
        raise UserError("--fingerprint goes with no other option")
    if plot is not None and not plot.absolute().parent.is_dir():
        raise UserError(f"{plot}: there is no folder {plot.parent} to draw into")
    display = Display(Console(stderr=True) if as_json else _console())
    if fingerprint:
        stored = fingerprints.stored_fingerprint(path)
        made = fingerprints.recipe_fingerprint(load_recipe(str(run), overrides), display)
        if not fingerprints.show_fingerprint(made, stored, display):
            raise typer.Exit(1)
        return
    if run != path:
        found = verification.verify_checkpoint(path, display, _warn)
    else:
        found = verification.verify_recipe(load_recipe(name, overrides), display, weights)
    if as_json:
        print(verification.as_json(found))
    else:
        verification.show_verification(found, display)
    if plot is not None:
        plot_signals(found.measured, found.predicted, f"{name}, step {found.step}", plot)
    if found.status == Status.FAIL:
        raise typer.Exit(1)


Sizes = Annotated[str, typer.Option("--sizes", help="Widths or depths, such as 64,128,256.", show_default=False)]
Seeds = Annotated[int, typer.Option(help="How many seeds, from the recipe's on.", min=1)]
Jobs = Annotated[int | None, typer.Option(help="Processes, sharing the cores; one a core if not given.", min=1)]
Out = Annotated[Path, typer.Option("--out", help="Where trials and results are kept; a stopped study goes on there.")]


@init_app.command("coordinate")
def init_coordinate(
    arguments: RecipeArguments = None,
    axis: Annotated[SizeAxis, typer.Option(help="What grows.")] = SizeAxis.WIDTH,
    sizes: Sizes = "",
    steps: Annotated[int, typer.Option(help="Training steps before what has changed is measured.", min=1)] = 4,
    seeds: Seeds = 3,
    jobs: Jobs = None,
    out: Out = Path("studies"),
) -> None:
    """How activations and their change go with a model's width or depth: does the recipe's scheme keep its promises?

    Exit code 1 where it does not.
    """
    from isogloss.init.verify import Status
    from isogloss.study.coordinates import check_coordinates
    from isogloss.study.families import DEFAULT_SIZES
    from isogloss.study.results import show_slopes
    from isogloss.study.slopes import worst

    study = _open_study(arguments, out, jobs)
    found = check_coordinates(study, axis.value, _integers(sizes) or DEFAULT_SIZES[axis.value], steps, seeds)
    show_slopes(study, axis.value, found, steps)
    if worst(found) == Status.FAIL:
        raise typer.Exit(1)


@init_app.command("lr-sweep")
def init_lr_sweep(
    arguments: RecipeArguments = None,
    axis: Annotated[SizeAxis, typer.Option(help="What grows.")] = SizeAxis.WIDTH,
    sizes: Sizes = "",
    rates: Annotated[str, typer.Option(help="Peak learning rates, such as 1e-3,2e-3,4e-3.", show_default=False)] = "",
    seeds: Seeds = 3,
    jobs: Jobs = None,
    out: Out = Path("studies"),
) -> None:
    """Where the best learning rate lies at each width or depth: does it transfer?

    Rates that are not given: the recipe's, and three halvings and two doublings of it.
    """
    from isogloss.study.families import DEFAULT_SIZES
    from isogloss.study.results import show_sweep
    from isogloss.study.sweep import sweep_rates

    study = _open_study(arguments, out, jobs)
    chosen = _numbers(rates) or [study.recipe.optim.lr * 2.0**k for k in range(-3, 3)]
    show_sweep(study, sweep_rates(study, axis.value, _integers(sizes) or DEFAULT_SIZES[axis.value], chosen, seeds))


@init_app.command("compare")
def init_compare(
    schemes: Annotated[
        list[str], typer.Argument(metavar="SCHEME...", help="NAME, or NAME:KEY=VALUE,... with its settings.")
    ],
    recipe: Annotated[str, typer.Option(help="The recipe that all share; the default one if not given.")] = "",
    settings: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Change the recipe; may be repeated.")
    ] = None,
    rates: Annotated[
        str, typer.Option(help="Peak learning rates; each scheme's best counts. The recipe's, if none is given.")
    ] = "",
    seeds: Seeds = 3,
    jobs: Jobs = None,
    out: Out = Path("studies"),
) -> None:
    """Train with different schemes side by side, on the same batches and random numbers, and compare the losses."""
    from isogloss.study.compare import compare_schemes
    from isogloss.study.results import show_comparison

    study = _open_study([*([recipe] if recipe else []), *(settings or [])], out, jobs)
    show_comparison(study, compare_schemes(study, schemes, _numbers(rates), seeds))


def _open_study(arguments: list[str] | None, out: Path, jobs: int | None) -> "Study":
    from isogloss.recipe import load_recipe
    from isogloss.study.trials import open_study
    from isogloss.train.display import Display

    return open_study(load_recipe(*_split(arguments)), out, jobs, Display(_console()))


def _numbers(text: str) -> list[float]:
    """The numbers of a list such as ``1e-3,2e-3``."""
    from isogloss.config.base import UserError

    try:
        numbers = [float(word) for word in text.split(",") if word.strip()]
    except ValueError:
        raise UserError(f"{text!r} is not a list of numbers, such as 1e-3,2e-3") from None
    if not all(0 < number < float("inf") for number in numbers):
        raise UserError(f"{text!r}: each number must be above 0")
    return numbers


def _integers(text: str) -> list[int]:
    from isogloss.config.base import UserError

    numbers = _numbers(text)
    if any(number != int(number) for number in numbers):
        raise UserError(f"{text!r} is not a list of whole numbers, such as 64,128")
    return [int(number) for number in numbers]


@init_app.command("audit")
def init_audit(
    target: Annotated[
        str,
        typer.Argument(help="package.module:function, hf:TYPE (hf:llama), or a Hugging Face config.json or folder."),
    ],
    settings: Annotated[
        list[str] | None,
        typer.Argument(metavar="[KEY=VALUE]...", help="The function's keywords or the config's fields."),
    ] = None,
    expect: Annotated[str | None, typer.Option(help="Compare its scales with those of this scheme.")] = None,
    form: Annotated[AuditFormat, typer.Option("--format", help="How it is printed.")] = AuditFormat.TABLE,
    max_gib: Annotated[float, typer.Option(help="Refuse a model with more GiB of weights.", min=0)] = 2.0,
) -> None:
    """Find what is wrong with the initialisation of any PyTorch model, by initialising it and running it once.

    Exit code 1 where it finds something graver than a note.
    """
    from isogloss.audit.audit import audit
    from isogloss.audit.expectation import find_scheme
    from isogloss.audit.report import as_json, as_markdown, as_tables
    from isogloss.audit.target import find_target

    scheme = find_scheme(expect) if expect else None
    found = audit(find_target(target, settings or []), scheme, int(max_gib * 2**30))
    match form:
        case AuditFormat.JSON:
            print(as_json(found))
        case AuditFormat.MARKDOWN:
            print(as_markdown(found), end="")
        case AuditFormat.TABLE:
            _console().print(as_tables(found))
    if found.failed:
        raise typer.Exit(1)


@tokenizer_app.command("train")
def tokenizer_train(
    folder: Annotated[Path, typer.Argument(help="Where to write tokenizer.json.")],
    texts: Annotated[list[Path], typer.Argument(help="Text files, or folders and .jsonl files of documents.")],
    vocab_size: Annotated[int, typer.Option(help="Tokens, special ones included.", min=257, max=2**31)] = 2048,
) -> None:
    """Train a byte-level BPE on any text."""
    from isogloss.data.sources import read_documents
    from isogloss.data.tokenizers.bpe_training import train_bpe

    tokenizer = train_bpe((document.text for document in read_documents(texts)), vocab_size)
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(folder)
    short = "; the text has no more pairs to merge" if tokenizer.n_tokens < vocab_size else ""
    print(f"{folder}: {tokenizer.n_tokens} tokens{short}")


@tokenizer_app.command("show")
def tokenizer_show(
    path: Annotated[Path, typer.Argument(help="A tokenizer's folder or file, or a run's folder.")],
    text: Annotated[str, typer.Argument(help="Text to cut; the vocabulary's facts alone if not given.")] = "",
) -> None:
    """How a tokenizer cuts a text."""
    from isogloss.data.tokenizers.description import describe
    from isogloss.data.tokenizers.loading import load_tokenizer

    tokenizer = load_tokenizer(path / "tokenizer" if (path / "tokenizer").is_dir() else path)
    found = describe(tokenizer, text)
    print(f"{found.n_tokens} tokens, end of text {found.end_of_text}, encoded by {found.backend}")
    print(f"fingerprint {found.fingerprint}")
    for piece in found.pieces:
        print(f"{piece.id:>7}  {piece.text}")
    if found.pieces:
        print(f"{found.n_bytes} bytes, {len(found.pieces)} tokens: {found.bytes_per_token:.2f} bytes a token")


@app.callback(invoke_without_command=True)
def version(show: Annotated[bool, typer.Option("--version", help="Print the version.")] = False) -> None:
    """Pre-train and study language models; every weight starts at a scale the program can state and check."""
    if show:
        from isogloss import __version__

        print(__version__)
        raise typer.Exit


def _console() -> "Console":
    """Where tables go: as wide as the terminal, or wide enough for a file."""
    from rich.console import Console

    return Console(width=None if sys.stdout.isatty() else 140)


def _read_standard_input() -> str:
    from isogloss.config.base import UserError

    try:
        return sys.stdin.buffer.read().decode()
    except UnicodeDecodeError as error:
        raise UserError(f"the prompt on standard input is not UTF-8 (byte {error.start})") from None


def _warn(message: str) -> None:
    print(f"isogloss: warning: {message}", file=sys.stderr)


def _split(arguments: list[str] | None) -> tuple[str, list[str]]:
    """The recipe's name, if the first word is not an override, and the overrides."""
    from isogloss.recipe import DEFAULT

    words = list(arguments or [])
    name = words.pop(0) if words and "=" not in words[0] else DEFAULT
    return name, words


def main() -> None:
    """Run the command line; exit 2 with one message for what a user can mend."""
    try:
        app()
    except Exception as error:
        message = _explain(error)
        if message is None:
            raise
        print(f"isogloss: {message}", file=sys.stderr)
        sys.exit(2)
    except BaseException as error:
        if (code := getattr(error, "exit_code", None)) is not None and not isinstance(error, SystemExit):
            sys.exit(code)
        raise


def _explain(error: Exception) -> str | None:
    """What to tell of an error that the user can mend; ``None`` for a defect of ours."""
    from isogloss.config.base import UserError
    from isogloss.durable import DISK_FULL

    if isinstance(error, UserError):
        return str(error)
    if isinstance(error, OSError) and error.errno in DISK_FULL:
        return f"the disk is full ({error.filename or 'while writing'}). Free some space and run the same command again"
    unusable = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EEXIST, errno.EISDIR, errno.ENAMETOOLONG)
    if isinstance(error, OSError) and error.errno in unusable:
        return f"{error.filename}: {error.strerror}. Change its permissions, or choose another place"
    # PyTorch's, by name and text: it may not have been imported, and on a CPU it raises a bare RuntimeError.
    out_of_memory = isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError"
    if out_of_memory or "can't allocate memory" in str(error):
        first_line = str(error).partition("\n")[0]
        return f"out of memory; lower train.micro_batch_size, data.seq_len or the model's size. ({first_line})"
    return None
