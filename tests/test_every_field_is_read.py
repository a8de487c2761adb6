"""Every field of a recipe is read: varying it alone changes something that a run does, beside the recipe it saves.

A field that is missing from the table fails the test, so none can be added without a word on what it changes.
"""

import base64
import functools
import hashlib
import json
import shutil
import threading
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from rich.console import Console

import isogloss.build
import isogloss.checkpoint.asynchronous
from isogloss.config.base import UserError
from isogloss.config.describe import leaf_paths
from isogloss.config.load import load_config
from isogloss.data import mixture
from isogloss.data.mixture import MixtureConfig, MixtureSource, open_mixture
from isogloss.data.prepare import FilesConfig, FilesText, PythonStdlibText, inputs
from isogloss.data.prepare.inputs import open_inputs
from isogloss.data.prepared import PreparedCorpus
from isogloss.data.sources import Document
from isogloss.data.sources.filters import MEASURES, FilterConfig, Text
from isogloss.data.tokenizers.config import BytesConfig
from isogloss.models.block import Block
from isogloss.models.decoder import Decoder
from isogloss.recipe import Recipe, load_recipe
from isogloss.run import finish
from isogloss.run.plan import plan_recipe
from isogloss.run.train import train
from isogloss.train.display import Display
from isogloss.train.signals import Interrupted


@dataclass(frozen=True)
class Vary:
    """A change, and what must be set on both sides for it to matter."""

    change: str
    given: list[str] = field(default_factory=list)


STDLIB = ["data={type: python_stdlib, seq_len: 24, validation_bytes: 400, prepared_dir: prepared}"]
NEAR = ["data.near_duplicates={threshold: 0.2}"]
LLAMA3 = ["model.mixer.rotary.scaling={type: llama3, original_seq_len: 64, factor: 8.0}"]
YARN = ["model.mixer.rotary.scaling={type: yarn, original_seq_len: 1000, factor: 4.0, beta_fast: 2.0, beta_slow: 0.5}"]
# The loss goes up and down.
RISING = ["optim.lr=0.3", "optim.clip=.inf", "optim.schedule={type: constant, warmup: 2}", "checkpoint.every=1"]
SOARING = ["optim.lr=1.0", *RISING[1:]]
WSD = ["optim.schedule={type: wsd, warmup: 2, decay: 0.5, final: 0.1}"]
FILES = "data: {{type: files, train: [{0}], validation_bytes: 200, prepared_dir: prepared}}"
ONE, OTHER = FILES.format("'corpus/0[0-2]*.txt'"), FILES.format("'corpus/0[3-5]*.txt'")
MIXTURE = [f"data={{type: mixture, seq_len: 24, sources: {{a: {{weight: 3.0, {ONE}}}, b: {{weight: 1.0, {OTHER}}}}}}}"]
UNWEIGHTED = [
    f"data={{type: mixture, seq_len: 24, sources: {{a: {{{ONE}}}, b: {{{FILES.format('corpus/030.txt')}}}}}}}"
]
SCHEDULED = [MIXTURE[0][:-1] + ", schedule: [{at: 0.5, weights: {b: 30.0}}]}"]
ON_THE_FLY = ["data={type: on_the_fly, train: [corpus], validation_bytes: 400, seq_len: 24}"]
SIZES = ["train.batch_size_warmup=[{until: 2, batch_size: 2}]"]
LENGTHS = ["train.seq_len_warmup=[{until: 2, divisor: 2}]"]


def schedule(kind: str) -> list[str]:
    return [f"optim.schedule={{type: {kind}, warmup: 2}}"]


def generated(kind: str) -> list[str]:
    return [
        f"data={{type: {kind}, seq_len: 70, validation_rows: 4}}",
        "tokenizer={type: symbols}",
        "model.n_layers=1",
        "optim.schedule.warmup=1",
        "train.steps=2",
        "watch.sample_tokens=0",
    ]


GENERATED = {
    "markov": {"n_symbols": 9, "order": 2, "concentration": 1.0},
    "pcfg": {"n_nonterminals": 3, "n_terminals": 20, "n_rules": 4, "branching": 0.5, "concentration": 9.0},
    "copy": {"n_symbols": 9, "min_length": 30, "max_length": 9},
    "induction": {"n_symbols": 40, "min_period": 30, "max_period": 9},
    "associative_recall": {"n_keys": 90, "n_values": 90, "n_pairs": 4, "power": 1.0},
    "selective_copy": {"n_symbols": 9, "n_data": 9},
    "modular_arithmetic": {"modulus": 7, "n_operands": 3, "operations": "[multiply]", "train_fraction": 0.9},
    "needle": {"n_symbols": 9, "length": 2, "depth": "[0.5, 0.6]"},
}
"""What each generated corpus takes beside the fields that all of them have."""

VARIATIONS = {
    "name": Vary("name=other"),
    "runs_dir": Vary("runs_dir=elsewhere"),
    "seed": Vary("seed=4"),
    "data[python_stdlib].seq_len": Vary("data.seq_len=20", STDLIB),
    "data[python_stdlib].validation_bytes": Vary("data.validation_bytes=50", STDLIB),
    "data[python_stdlib].within_document": Vary("data.within_document=false", STDLIB),
    "data[python_stdlib].prepared_dir": Vary("data.prepared_dir=elsewhere", STDLIB),
    "data[python_stdlib].include_tests": Vary("data.include_tests=true", STDLIB),
    "data[files].seq_len": Vary("data.seq_len=20"),
    "data[files].validation_bytes": Vary("data.validation_bytes=700"),
    "data[files].within_document": Vary("data.within_document=false"),
    "data[files].prepared_dir": Vary("data.prepared_dir=elsewhere"),
    "data[files].train": Vary("data.train=[corpus/000.txt, corpus/001.txt, corpus/002.txt]"),
    "data[files].validation": Vary("data.validation=[corpus/003.txt]"),
    **{
        f"data[{kind}].{name}": Vary(f"data.{name}={value}", generated(kind))
        for kind, fields in GENERATED.items()
        for name, value in {"seq_len": 68, "validation_rows": 5, "seed": 1, **fields}.items()
    },
    "data[python_stdlib].packing": Vary("data.packing=best_fit", STDLIB),
    "data[files].packing": Vary("data.packing=document"),
    "data[mixture].seq_len": Vary("data.seq_len=20", MIXTURE),
    "data[mixture].within_document": Vary("data.within_document=false", MIXTURE),
    "data[mixture].packing": Vary("data.packing=document", MIXTURE),
    "data[mixture].sources.*.weight": Vary("data.sources.b.weight=3.0", MIXTURE),
    "data[mixture].sources.*.max_epochs": Vary("data.sources.b.max_epochs=0.01", MIXTURE),
    "data[mixture].sources.*.max_tokens": Vary("data.sources.b.max_tokens=48", MIXTURE),
    "data[mixture].temperature": Vary("data.temperature=100.0", UNWEIGHTED),
    "data[mixture].schedule.*.at": Vary("data.schedule.0.at=0.1", SCHEDULED),
    "data[mixture].schedule.*.weights": Vary("data.schedule.0.weights={b: 3.0}", SCHEDULED),
    "data[on_the_fly].seq_len": Vary("data.seq_len=20", ON_THE_FLY),
    "data[on_the_fly].within_document": Vary("data.within_document=false", ON_THE_FLY),
    "data[on_the_fly].train": Vary("data.train=[corpus/003.txt, corpus/004.txt, corpus/005.txt, corpus]", ON_THE_FLY),
    "data[on_the_fly].validation_bytes": Vary("data.validation_bytes=700", ON_THE_FLY),
    "data[on_the_fly].min_train_share": Vary("data.min_train_share=0.0", [*ON_THE_FLY, "data.validation_bytes=4000"]),
    "train.batch_size_warmup.*.until": Vary("train.batch_size_warmup.0.until=3", SIZES),
    "train.batch_size_warmup.*.batch_size": Vary("train.batch_size_warmup.0.batch_size=3", SIZES),
    "train.seq_len_warmup.*.until": Vary("train.seq_len_warmup.0.until=3", LENGTHS),
    "train.seq_len_warmup.*.divisor": Vary("train.seq_len_warmup.0.divisor=3", LENGTHS),
    "data[files].validation_fraction": Vary("data.validation_fraction=0.3"),
    "data[files].min_train_share": Vary("data.min_train_share=0.0", ["data.validation_fraction=0.9"]),
    "data[files].text_field": Vary("data.text_field=other", ["data.train=[records.jsonl]"]),
    "data[files].format": Vary("data.format=text", ["data.train=[records.jsonl]"]),
    "data[files].encoding": Vary("data.encoding=cp500"),
    "data[files].separator": Vary("data.separator=e"),
    "data[files].max_document_bytes": Vary("data.max_document_bytes=130", ["data.max_bad=100"]),
    "data[files].max_bad": Vary("data.max_bad=3", ["data.train=[corpus, bad.jsonl]"]),
    "data[files].near_duplicates.threshold": Vary("data.near_duplicates.threshold=0.05", NEAR),
    "data[files].near_duplicates.n_words": Vary("data.near_duplicates.n_words=1", NEAR),
    "tokenizer[bpe].vocab_size": Vary("tokenizer.vocab_size=280", ["tokenizer={type: bpe, vocab_size: 270}"]),
    "tokenizer[file].path": Vary("tokenizer.path=b.tiktoken", ["tokenizer={type: file, path: a.tiktoken}"]),
    "tokenizer[file].pattern": Vary("tokenizer.pattern='.'", ["tokenizer={type: file, path: a.tiktoken}"]),
    "tokenizer[file].end_of_text": Vary(
        "tokenizer.end_of_text=300", ["tokenizer={type: file, path: a.tiktoken, end_of_text: 299}"]
    ),
    "model.d_model": Vary("model.d_model=20"),
    "model.n_layers": Vary("model.n_layers=1"),
    "model.mixer.n_heads": Vary("model.mixer.n_heads=4"),
    "model.mixer.n_kv_heads": Vary("model.mixer.n_kv_heads=1"),
    "model.mixer.head_dim": Vary("model.mixer.head_dim=4"),
    "model.mixer.rotary.theta": Vary("model.mixer.rotary.theta=100.0"),
    "model.mixer.rotary.scaling[linear].factor": Vary(
        "model.mixer.rotary.scaling.factor=3.0", ["model.mixer.rotary.scaling={type: linear, factor: 2.0}"]
    ),
    "model.mixer.rotary.scaling[llama3].factor": Vary("model.mixer.rotary.scaling.factor=2.0", LLAMA3),
    "model.mixer.rotary.scaling[llama3].low_freq_factor": Vary(
        "model.mixer.rotary.scaling.low_freq_factor=0.1", LLAMA3
    ),
    "model.mixer.rotary.scaling[llama3].high_freq_factor": Vary(
        "model.mixer.rotary.scaling.high_freq_factor=20.0", LLAMA3
    ),
    "model.mixer.rotary.scaling[llama3].original_seq_len": Vary(
        "model.mixer.rotary.scaling.original_seq_len=32", LLAMA3
    ),
    "model.mixer.rotary.scaling[yarn].factor": Vary("model.mixer.rotary.scaling.factor=2.0", YARN),
    "model.mixer.rotary.scaling[yarn].beta_fast": Vary("model.mixer.rotary.scaling.beta_fast=32.0", YARN),
    "model.mixer.rotary.scaling[yarn].beta_slow": Vary("model.mixer.rotary.scaling.beta_slow=0.01", YARN),
    "model.mixer.rotary.scaling[yarn].original_seq_len": Vary("model.mixer.rotary.scaling.original_seq_len=50", YARN),
    "model.mixer.qk_norm": Vary("model.mixer.qk_norm=true"),
    "model.mixer.window": Vary("model.mixer.window=3"),
    "model.mixer.softcap": Vary("model.mixer.softcap=0.1"),
    "model.mixer.backend": Vary("model.mixer.backend=plain"),
    "model.ffn[swiglu].d_ff": Vary("model.ffn.d_ff=32"),
    "model.ffn[gelu].d_ff": Vary("model.ffn.d_ff=32", ["model.ffn.type=gelu"]),
    "model.ffn[relu2].d_ff": Vary("model.ffn.d_ff=32", ["model.ffn.type=relu2"]),
    "model.vocab_size": Vary("model.vocab_size=300"),
    "model.tied_head": Vary("model.tied_head=true"),
    "model.norm": Vary("model.norm=sandwich"),
    "model.norm_eps": Vary("model.norm_eps=0.1"),
    "model.logit_softcap": Vary("model.logit_softcap=1.0"),
    "model.z_loss": Vary("model.z_loss=0.1"),
    **{
        f"init[{scheme}].{name}": Vary(f"init.{name}={value}", [f"init.type={scheme}"])
        for scheme in ("lingua", "lingua_before")
        for name, value in {
            "depth_factor": "current",
            "base_std": 0.1,
            "embedding_std": 0.5,
            "cut": 2.0,
            "compensated": "true",
        }.items()
    },
    "init[megatron].std": Vary("init.std=0.1", ["init.type=megatron"]),
    "init[megatron].embedding_std": Vary("init.embedding_std=0.1", ["init.type=megatron"]),
    **{
        f"init[{scheme}].{name}": Vary(f"init.{name}={value}", [f"init.type={scheme}"])
        for scheme in ("mup", "mup_depth", "completep")
        for name, value in {
            "base_width": 32,
            "base_head_dim": 4,
            "base_std": 0.1,
            "embedding_std": 0.5,
            "output_multiplier": 2.0,
            "zero_head": "true",
            "base_layers": 1,
            "alpha": 0.5,
        }.items()
        if (name != "base_layers" or scheme != "mup") and (name != "alpha" or scheme == "completep")
    },
    "init[u_mup].residual_ratio": Vary("init.residual_ratio=2.0", ["init.type=u_mup"]),
    "optim.lr": Vary("optim.lr=0.02"),
    "optim.beta1": Vary("optim.beta1=0.5"),
    "optim.beta2": Vary("optim.beta2=0.5"),
    "optim.eps": Vary("optim.eps=0.01"),
    "optim.weight_decay": Vary("optim.weight_decay=0.5"),
    "optim.moments": Vary("optim.moments=bf16"),
    "optim.clip": Vary("optim.clip=0.01", ["optim.eps=0.01"]),
    "optim.schedule[constant].warmup": Vary("optim.schedule.warmup=4", schedule("constant")),
    "optim.schedule[linear].warmup": Vary("optim.schedule.warmup=4", schedule("linear")),
    "optim.schedule[linear].steps": Vary("optim.schedule.steps=3", schedule("linear")),
    "optim.schedule[cosine].steps": Vary("optim.schedule.steps=3", schedule("cosine")),
    "optim.schedule[wsd].steps": Vary("optim.schedule.steps=4", WSD),
    "optim.schedule[linear].final": Vary("optim.schedule.final=0.5", schedule("linear")),
    "optim.schedule[cosine].warmup": Vary("optim.schedule.warmup=4", schedule("cosine")),
    "optim.schedule[cosine].final": Vary("optim.schedule.final=0.5", schedule("cosine")),
    "optim.schedule[inverse_sqrt].warmup": Vary("optim.schedule.warmup=4", schedule("inverse_sqrt")),
    "optim.schedule[inverse_sqrt].final": Vary("optim.schedule.final=0.9", schedule("inverse_sqrt")),
    "optim.schedule[wsd].warmup": Vary("optim.schedule.warmup=4", WSD),
    "optim.schedule[wsd].decay": Vary("optim.schedule.decay=0.8", WSD),
    "optim.schedule[wsd].shape": Vary("optim.schedule.shape=cosine", WSD),
    "optim.schedule[wsd].final": Vary("optim.schedule.final=0.5", WSD),
    "train.steps": Vary("train.steps=7"),
    "train.batch_size": Vary("train.batch_size=5"),
    "train.micro_batch_size": Vary("train.micro_batch_size=1"),
    "train.recompute": Vary("train.recompute=full"),
    "train.device": Vary("train.device=cuda"),
    "train.precision": Vary("train.precision=bf16"),
    "train.float8": Vary("train.float8=rowwise", ["train.precision=bf16", "data.seq_len=32", "model.ffn.d_ff=32"]),
    "train.compile": Vary("train.compile='on'"),
    "train.max_skipped": Vary("train.max_skipped=2", ["optim.lr=1e30", "optim.clip=.inf"]),
    "train.max_minutes": Vary("train.max_minutes=1e-9"),
    "train.spike.deviations": Vary(
        "train.spike.deviations=1e-3", [*RISING, "train.spike={deviations: 1e9, window: 2}"]
    ),
    "train.spike.window": Vary("train.spike.window=3", [*RISING, "train.spike={deviations: 1e-3, window: 2}"]),
    "train.spike.max_rewinds": Vary(
        "train.spike.max_rewinds=1", [*SOARING, "train.spike={deviations: 1e-3, window: 2, max_rewinds: 50}"]
    ),
    "parallel.replicate": Vary("parallel.replicate=2"),
    "parallel.shard": Vary("parallel.shard=2"),
    "parallel.context": Vary("parallel.context=2"),
    "parallel.tensor": Vary("parallel.tensor=2"),
    "watch.log_every": Vary("watch.log_every=2"),
    "watch.validate_every": Vary("watch.validate_every=2"),
    "watch.validation_rows": Vary("watch.validation_rows=4"),
    "watch.sample_every": Vary("watch.sample_every=2"),
    "watch.prompts": Vary("watch.prompts=[if]"),
    "watch.sample_tokens": Vary("watch.sample_tokens=9"),
    "watch.temperature": Vary("watch.temperature=0.0"),
    "checkpoint.every": Vary("checkpoint.every=4"),
    "checkpoint.keep_last": Vary("checkpoint.keep_last=1"),
    "checkpoint.minutes": Vary("checkpoint.minutes=1e-9", ["checkpoint.every=100"]),
    "checkpoint.keep_every": Vary("checkpoint.keep_every=2", ["checkpoint.every=1"]),
    "checkpoint.asynchronous": Vary("checkpoint.asynchronous=false"),
    "trackers.tensorboard": Vary("trackers.tensorboard=true"),
    "trackers.wandb": Vary("trackers.wandb=project"),
}
FILTER = "data[files].filters."
# Whose change is meant to end the run here: no GPU, no account, steps skipped or done again, no time, a single rank.
AXES = ("parallel.replicate", "parallel.shard", "parallel.context", "parallel.tensor")
STOPPING = ("train.max_skipped", "train.spike.max_rewinds", "train.max_minutes")
ENDING = ("train.device", "trackers.wandb", *STOPPING, *AXES)
# What a single rank has no use for: tests/parallel/test_choices.py, and for the timeout tests/faults/launch, show what
# each changes.
OF_MANY_RANKS = {f"parallel.{name}" for name in ("unit", "reshard", "reduce", "offload", "timeout")}
PART = "data[mixture].sources.*."
LEAVES = [path for path in leaf_paths(Recipe) if not path.endswith("type") and path not in OF_MANY_RANKS]
FILTERS = [path.removeprefix(FILTER) for path in LEAVES if path.startswith(FILTER)]
PARTS = [path.removeprefix(PART) for path in LEAVES if path.startswith(f"{PART}data[")]
PATHS = [path for path in LEAVES if not path.startswith((FILTER, f"{PART}data["))]


def test_the_table_has_every_field() -> None:
    assert set(PATHS) == set(VARIATIONS)


def test_a_source_of_a_mixture_is_prepared_by_its_whole_config(monkeypatch: pytest.MonkeyPatch) -> None:
    """So its fields, which are those of a text that stands alone, need no lines of their own."""
    assert PARTS
    assert set(PARTS) <= set(LEAVES)
    handed: list[object] = []

    def prepare(data, *rest, **more) -> PreparedCorpus:
        handed.append(data)
        return object.__new__(PreparedCorpus)

    monkeypatch.setattr(mixture, "prepare", prepare)
    texts = [FilesText(train=("x",), max_bad=3), PythonStdlibText(include_tests=True)]
    sources = {name: MixtureSource(data=text, weight=1.0) for name, text in zip("ab", texts, strict=True)}
    open_mixture(MixtureConfig(sources=sources), BytesConfig(), print)
    assert handed == texts


PLAIN = "The number 0 is followed by another one, which is as long as this line is.\n"
ODD = "- ## naïvely 7 ... 0 ...\n\n" * 20 + "- a b\n" * 9 + "0\n"


@pytest.fixture(scope="module")
def two_kinds(tmp_path_factory) -> Path:
    """A folder with two documents that differ in every measure."""
    folder = tmp_path_factory.mktemp("kinds")
    (folder / "plain.txt").write_text(PLAIN)
    (folder / "odd.txt").write_text(ODD)
    return folder


@pytest.mark.parametrize("path", FILTERS)
def test_varying_a_filter_changes_what_is_kept(two_kinds: Path, path: str) -> None:
    """Of two documents that differ in every measure, the one on the wrong side of the middle is dropped."""
    name, bound = path.split(".")
    plain, odd = (MEASURES[name](Text(text)) for text in (PLAIN, ODD))
    assert plain != odd
    filters = load_config(FilterConfig, None, [f"{path}={(plain + odd) / 2}"])
    config = FilesConfig(train=(str(two_kinds),), prepared_dir=two_kinds / "prepared", filters=filters)
    (source,) = open_inputs(config).sources  # what preparing reads
    kept = PLAIN if (plain > odd) == (bound == "min") else ODD
    documents = [record for record in source.content.read() if isinstance(record, Document)]
    assert [document.text for document in documents] == [kept]


@pytest.fixture(scope="module")
def observe(tmp_path_factory, tiny_factory):
    """What a run of some overrides does: files, weights, numbers, words; not the recipe it saves, nor times."""
    root = tmp_path_factory.mktemp("fields")
    recipe = str(tiny_factory(root))
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.chdir(root)
        yield _observer(root, recipe, monkeypatch)


def _observer(root: Path, recipe: str, monkeypatch: pytest.MonkeyPatch):
    ranks = [bytes([b]) for b in range(256)] + [b"re", b"tu"]
    for name, tokens in (("a", ranks), ("b", [*ranks, b"pr"])):
        lines = [base64.b64encode(token) + f" {rank}".encode() for rank, token in enumerate(tokens)]
        (root / f"{name}.tiktoken").write_bytes(b"\n".join(lines))
    texts = [path.read_text() for path in sorted((root / "corpus").iterdir())]
    records = [json.dumps({"text": text, "other": text[::-1]}) for text in texts]
    (root / "records.jsonl").write_text("\n".join(records))
    (root / "bad.jsonl").write_text("no JSON\n")
    monkeypatch.setattr(isogloss.build, "compile_model", lambda model: None)
    # Pictures are not compared, and drawing them takes time.
    monkeypatch.setattr(finish, "plot_loss", lambda *rest, **more: None)

    def stdlib(include_tests: bool, skipped) -> list[Document]:
        paths = sorted((root / "corpus").iterdir())
        return [Document(path.name, path.read_text()) for path in (paths if include_tests else paths[:-3])]

    monkeypatch.setattr(inputs, "python_stdlib", stdlib)
    shapes: list[tuple[int, ...]] = []
    loss = Decoder.loss
    monkeypatch.setattr(
        Decoder, "loss", lambda self, batch: (shapes.append(tuple(batch.tokens.shape)), loss(self, batch))[1]
    )

    writers: set[bool] = set()
    write = isogloss.checkpoint.asynchronous.write
    monkeypatch.setattr(
        isogloss.checkpoint.asynchronous,
        "write",
        lambda *rest: (writers.add(threading.current_thread() is threading.main_thread()), write(*rest))[1],
    )
    forward = Block.forward
    monkeypatch.setattr(
        Block, "forward", lambda self, *given: (kept.add(self.recompute is None), forward(self, *given))[1]
    )
    kept: set[bool] = set()

    def run(*overrides: str) -> dict[str, object]:
        seen: dict[str, object] = {}
        shapes.clear()
        writers.clear()
        kept.clear()
        try:
            seen["plan"] = plan_recipe(recipe, overrides)
            train(load_recipe(recipe, overrides), Display(Console(quiet=True)))
        except (UserError, Interrupted) as error:
            seen["error"] = str(error)
        seen["shapes"] = list(shapes)
        seen["checkpoints are written by the training's thread"] = set(writers)
        seen["shapes"], seen["kept"] = list(shapes), set(kept)
        for path in sorted(root.rglob("*")):
            name = path.relative_to(root).as_posix()
            if not path.is_file() or name.startswith("corpus/") or path.suffix in (".tiktoken", ".yaml", ".png"):
                continue
            if "events.out" in name:  # named by the time
                name = "events.out"
            if "runs" in path.parts and path.suffix == ".jsonl":
                records = [json.loads(line) for line in path.read_text().splitlines()]
                timed = ("tokens_per_second", "share_of_peak", "seconds")
                seen[name] = [{k: v for k, v in record.items() if k not in timed} for record in records]
            elif path.suffix == ".safetensors":
                seen[name] = hashlib.sha256(path.read_bytes()).hexdigest()
            elif path.name == "machine.json":
                seen[name] = path.read_text()
            else:
                seen[name] = None
        for name in ("runs", "prepared", "elsewhere"):
            shutil.rmtree(root / name, ignore_errors=True)
        return seen

    return functools.cache(run)


@pytest.mark.parametrize("path", PATHS)
def test_varying_it_changes_something(observe, path: str) -> None:
    vary = VARIATIONS[path]
    given = ["train.steps=6", *vary.given]
    plain, varied = observe(*given), observe(*given, vary.change)
    assert plain != varied, f"{path} is not read"
    assert "error" not in varied or path in ENDING, f"{path}: the change was refused, which says nothing"


def test_repeating_changes_nothing(observe) -> None:
    """The control: what is observed is the same for the same recipe."""
    for given in ([], STDLIB, ["optim.lr=1e30", "optim.clip=.inf"]):
        assert observe.__wrapped__("train.steps=6", *given) == observe.__wrapped__("train.steps=6", *given)
