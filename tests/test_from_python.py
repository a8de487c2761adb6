"""What Python code passes: texts for paths, generators for loaders, PyTorch's own optimizers, numpy's numbers.

Either it is taken for what it plainly means, or a message says what is wanted; nothing is read as something else.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

from isogloss.build import build_model, materialise, plan_model
from isogloss.checkpoint.consolidate import consolidate
from isogloss.checkpoint.load import load_checkpoint, newest_checkpoint
from isogloss.config.base import UserError
from isogloss.config.load import dump_config, load_config, with_overrides
from isogloss.data.loader import Loader
from isogloss.data.named.fetch import fetch
from isogloss.data.prepare import FilesConfig, prepare
from isogloss.data.prepared import find_prepared, open_prepared
from isogloss.data.sources import read_documents
from isogloss.data.synthetic.corpus import SyntheticCorpus
from isogloss.data.synthetic.markov import MarkovConfig
from isogloss.data.tokenizers.bpe_training import train_bpe
from isogloss.data.tokenizers.bytes import BytesTokenizer
from isogloss.data.tokenizers.config import BytesConfig
from isogloss.data.tokenizers.loading import load_tokenizer
from isogloss.evaluate.loss import evaluate_batches, evaluate_text
from isogloss.generate.sampling import SamplingConfig
from isogloss.init.schemes import LinguaConfig
from isogloss.interop.hf import export_hf, import_hf
from isogloss.mixers.attention import AttentionConfig
from isogloss.models.decoder import Decoder, DecoderConfig
from isogloss.models.protocol import Batch, as_batch, as_ids
from isogloss.nn.precision import autocast
from isogloss.optim.groups import AdamWConfig, create_optimizer
from isogloss.optim.schedules import ConstantSchedule, WSDSchedule
from isogloss.recipe import Recipe, load_recipe
from isogloss.run.load import load_run
from isogloss.run.train import train
from isogloss.train.batch_source import as_batch_source
from isogloss.train.display import Display
from isogloss.train.loop import Progress, TrainConfig, training_steps
from isogloss.train.metrics import read_metrics

CONFIG = DecoderConfig(d_model=16, n_layers=1, mixer=AttentionConfig(n_heads=2), vocab_size=257)
OPTIM = AdamWConfig(lr=0.01, schedule=ConstantSchedule())


def make_model() -> Decoder:
    return build_model(CONFIG, LinguaConfig(), seed=0, device="cpu")


def unchecked(function: Callable[..., Any]) -> Callable[..., Any]:
    """A function without the checks of types that tests put around it, as a user has it."""
    return getattr(function, "__wrapped__", function)


def batches(n: int) -> list[Batch]:
    tokens = torch.randint(0, 257, (n, 4, 9), generator=torch.Generator().manual_seed(0))
    return [Batch(rows[:, :-1], rows[:, 1:].contiguous()) for rows in tokens]


def losses(loader, steps: int = 3, optimizer: torch.optim.Optimizer | None = None) -> list[float]:
    planned = plan_model(CONFIG, LinguaConfig())
    model = materialise(planned, seed=0, device="cpu")
    optimizer = optimizer or create_optimizer(model, OPTIM, planned.plan)
    config = TrainConfig(steps=steps, batch_size=4)
    return [i.loss for i in training_steps(model, optimizer, loader, config, OPTIM, Progress(), "fp32")]


class ByStep:
    """A loader of the library's own kind."""

    def batch(self, step: int) -> Batch:
        return batches(3)[step]


@pytest.mark.parametrize(
    "make",
    [
        lambda: batches(3),
        lambda: tuple(batches(3)),
        lambda: iter(batches(3)),
        lambda: (batch for batch in batches(9)),
        lambda: ((batch.tokens, batch.targets) for batch in batches(3)),
        lambda: [[batch.tokens.int(), batch.targets.int()] for batch in batches(3)],
        lambda: [(batch.tokens.numpy().astype(np.uint16), batch.targets.numpy()) for batch in batches(3)],
        lambda: DataLoader(
            TensorDataset(*(torch.cat([getattr(b, x) for b in batches(3)]) for x in ("tokens", "targets"))), 4
        ),
    ],
    ids=["list", "tuple", "iterator", "generator", "pairs", "int32", "numpy", "DataLoader"],
)
def test_a_loader_may_be_anything_that_gives_batches(make) -> None:
    assert losses(make()) == losses(ByStep())


def test_what_can_be_read_again_is_read_again_and_a_generator_that_ends_is_said() -> None:
    assert len(losses(batches(2), steps=5)) == 5
    with pytest.raises(UserError, match=r"has given its 2 batches, and there is none for step 3; lower train\.steps"):
        losses(iter(batches(2)))
    with pytest.raises(UserError, match="has given its 0 batches"):
        losses([])


@pytest.mark.parametrize(
    ("loader", "said"),
    [
        (3, r"a loader has a method batch\(step\), or can be iterated over; a int is neither"),
        ([torch.zeros(4, 9, dtype=torch.long)], "a batch is a Batch.* got a Tensor"),
        ([{"input_ids": 1}], "a batch is a Batch.* got a dict"),
        (
            [(torch.zeros(4, 8), torch.zeros(4, 8))],
            r"tokens must be rows of whole numbers.* got \(4, 8\) of torch.float32",
        ),
        ([(torch.zeros(4, 8).long(), torch.zeros(8).long())], r"targets must be rows of whole numbers.* got \(8,\)"),
    ],
)
def test_a_loader_that_gives_no_batches_is_told_what_is_wanted(loader, said: str) -> None:
    with pytest.raises(UserError, match=said):
        as_batch(as_batch_source(loader).batch(0))


@pytest.mark.parametrize("kind", [torch.optim.AdamW, torch.optim.SGD, torch.optim.RMSprop])
def test_an_optimizer_may_be_pytorchs_own(kind) -> None:
    model = make_model()
    optimizer = kind(model.parameters(), lr=77.0)
    rates = []
    config = TrainConfig(steps=4, batch_size=4)
    optim = AdamWConfig(lr=0.01, schedule=WSDSchedule(warmup=0.5))
    for info in training_steps(model, optimizer, batches(4), config, optim, Progress(), "fp32"):
        assert [group["lr"] for group in optimizer.param_groups] == [info.lr]
        rates.append(info.lr)
    assert rates[:2] == [0.005, 0.01]  # the schedule's, not the optimizer's own
    assert not torch.equal(model.embedding.weight, make_model().embedding.weight)


def test_a_devices_name_is_enough_and_one_that_is_not_here_is_said() -> None:
    whole = build_model(CONFIG, LinguaConfig(), seed=0, device=torch.device("cpu"))
    assert torch.equal(make_model().embedding.weight, whole.embedding.weight)
    for device in ("gpu", "cuda:99"):
        with pytest.raises(UserError, match=f"{device}: no such device.*take cpu"):
            build_model(CONFIG, LinguaConfig(), seed=0, device=device)


def test_numpys_whole_numbers_are_whole_numbers() -> None:
    rows = SyntheticCorpus(MarkovConfig(seq_len=8)).rows("train", 8)
    assert torch.equal(Loader(rows, np.int64(4), seed=0).batch(1).tokens, Loader(rows, 4, seed=0).batch(1).tokens)
    assert load_recipe("markov-tiny", {"train.steps": np.int64(7)}).train.steps == 7


def test_numbers_of_rows_may_be_a_list_or_a_range() -> None:
    for rows in (SyntheticCorpus(MarkovConfig(seq_len=8)).rows("train", 8),):
        wanted = rows.rows(np.arange(3)).tokens
        assert np.array_equal(rows.rows([0, 1, 2]).tokens, wanted)
        assert np.array_equal(rows.rows(range(3)).tokens, wanted)


@pytest.mark.parametrize("overrides", ["train.steps=7", ["train.steps=7"], ("train.steps=7",), {"train.steps": 7}])
def test_overrides_may_be_one_some_or_a_mapping(overrides, tmp_path: Path) -> None:
    assert load_recipe("markov-tiny", overrides).train.steps == 7
    assert with_overrides(load_recipe("markov-tiny"), overrides).train.steps == 7
    (tmp_path / "a.yaml").write_text(dump_config(load_recipe("markov-tiny")))
    assert load_config(Recipe, str(tmp_path / "a.yaml"), overrides).train.steps == 7
    assert load_recipe(tmp_path / "a.yaml", overrides).train.steps == 7


@pytest.mark.parametrize("text", ["5", "true", "null", "a: b", "[x", "😀", "two\nlines", ""])
def test_a_text_of_a_mapping_stays_that_text(text: str) -> None:
    assert load_recipe("markov-tiny", {"watch.prompts": text}).watch.prompts == (text,)


def test_one_text_is_one_document_and_not_its_characters() -> None:
    model, tokenizer = make_model(), BytesTokenizer()
    one = evaluate_text(model, tokenizer, ["hello world"], 16)
    assert evaluate_text(model, tokenizer, "hello world", 16) == one
    assert evaluate_text(model, tokenizer, (text for text in ["hello world"]), 16) == one
    assert train_bpe("abababab", 258).n_tokens == train_bpe(["abababab"], 258).n_tokens == 258


def test_batches_to_evaluate_may_be_pairs() -> None:
    pairs = [(batch.tokens, batch.targets) for batch in batches(2)]
    settings = {"precision": "fp32", "bytes_per_token": None}
    assert evaluate_batches(make_model(), pairs, **settings) == evaluate_batches(make_model(), batches(2), **settings)


@pytest.mark.parametrize("name", ["bf16", "bfloat16", torch.bfloat16])
def test_a_precision_may_be_pytorchs(name) -> None:
    cpu = torch.device("cpu")
    with autocast(cpu, name):
        assert torch.get_autocast_dtype("cpu") == torch.bfloat16
        assert torch.is_autocast_enabled("cpu")
    with autocast(cpu, torch.float32), autocast(cpu, "float32"), autocast(cpu, "fp32"):
        assert not torch.is_autocast_enabled("cpu")


def test_a_precision_that_is_not_known_is_not_taken_for_another() -> None:
    for name in ("fp16", "bf-16", torch.float16):
        with pytest.raises(UserError, match=f"precision {name}: must be fp32 or bf16"):
            evaluate_text(make_model(), BytesTokenizer(), "hello", 16, precision=name)


def test_ids_may_be_of_any_whole_numbers() -> None:
    model = make_model()
    wanted = model(torch.tensor([[5, 6]]))
    assert torch.equal(model(torch.as_tensor(np.array([[5, 6]], dtype=np.uint32))), wanted)
    assert torch.equal(as_ids(np.array([[5, 6]], dtype=np.uint8)), torch.tensor([[5, 6]]))
    assert torch.equal(as_ids([[5, 6]]), torch.tensor([[5, 6]]))
    with pytest.raises(
        UserError, match=r"tokens must be rows.* got \(2,\) of torch.int64; one row alone is tokens\[None\]"
    ):
        as_ids([5, 6])


def test_a_model_that_cannot_be_made_says_why() -> None:
    with pytest.raises(UserError, match="a model needs a vocab_size: that of its tokenizer"):
        plan_model(CONFIG.model_copy(update={"vocab_size": None}), LinguaConfig())
    with pytest.raises(UserError, match=r"such as LinguaConfig\(\), got 'lingua'"):
        unchecked(plan_model)(CONFIG, "lingua")
    planned = plan_model(CONFIG, LinguaConfig())
    materialise(planned, seed=0, device="cpu")
    with pytest.raises(UserError, match="has been materialised: plan_model makes another"):
        materialise(planned, seed=0, device="cpu")


def test_a_stop_string_alone_is_one() -> None:
    assert SamplingConfig(stop="class ").stop == SamplingConfig(stop=["class "]).stop == ("class ",)  # pyright: ignore


@pytest.fixture(scope="module")
def root(tmp_path_factory, tiny_factory) -> Path:
    """A folder with a trained tiny run."""
    from rich.console import Console

    root = tmp_path_factory.mktemp("python")
    train(load_recipe(tiny_factory(root), ["train.steps=3", "watch.sample_tokens=0"]), Display(Console(quiet=True)))
    return root


def test_a_path_may_be_a_text(root: Path, tmp_path: Path) -> None:
    run = f"{root}/runs/tiny"
    loaded = load_run(run)
    assert load_run(f"{run}/checkpoints/step-0000000003").step == load_run(Path(run)).step == loaded.step == 3
    assert load_run(run, torch.device("cpu")).step == 3
    assert load_tokenizer(f"{run}/tokenizer").n_tokens == 257
    assert read_metrics(f"{run}/metrics.jsonl")
    export_hf(loaded.model, None, f"{tmp_path}/hf", 24)
    assert import_hf(f"{tmp_path}/hf")[0].d_model == 16
    loaded.tokenizer.save(f"{tmp_path}")
    assert open_prepared(find_prepared(f"{root}/prepared")).name == open_prepared(find_prepared(root / "prepared")).name
    newest = newest_checkpoint(f"{run}/checkpoints", print)
    assert newest is not None
    assert load_checkpoint(f"{run}/checkpoints/step-0000000003").step == newest.step == 3
    assert consolidate(newest, f"{tmp_path}/weights", 2**30)
    with pytest.raises(UserError, match="no such folder"):
        load_run("runs/nothing")
    with pytest.raises(UserError, match="nothing"):
        fetch("nothing", str(tmp_path), print)


def test_texts_to_prepare_may_be_one_path_or_some(root: Path) -> None:
    corpus = root / "corpus"
    wanted = FilesConfig(train=(str(corpus),))
    for given in (str(corpus), corpus, [str(corpus)], [corpus], (corpus,)):
        assert FilesConfig.model_validate({"train": given}) == wanted
    n = len(list(read_documents([str(corpus)])))
    assert n == len(list(read_documents(str(corpus)))) == len(list(read_documents(corpus))) == 60
    assert n == len(list(read_documents(path for path in [corpus])))
    config = FilesConfig.model_validate({"train": corpus, "prepared_dir": f"{root}/p", "validation_bytes": 400})
    assert prepare(config, BytesConfig()).name == prepare(config, BytesTokenizer()).name
    with pytest.raises(
        UserError, match=r"a tokenizer is one, or the config of one such as BytesConfig\(\), got 'bytes'"
    ):
        unchecked(prepare)(config, "bytes")


def test_one_path_of_a_recipe_is_a_list_of_it(root: Path) -> None:
    recipe = load_recipe(root / "tiny.yaml", ["data.train=some/folder", "watch.prompts=def "])
    assert isinstance(recipe.data, FilesConfig)
    assert (recipe.data.train, recipe.watch.prompts) == (("some/folder",), ("def",))
