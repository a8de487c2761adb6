"""A model that trains on a generated corpus comes near the floor, and never below it but by chance."""

import numpy as np
import pytest
from rich.console import Console

from isogloss.config.base import UserError
from isogloss.data.opening import open_corpus
from isogloss.data.synthetic.corpus import SyntheticCorpus
from isogloss.data.synthetic.markov import MarkovConfig
from isogloss.data.tokenizers.config import SymbolsConfig
from isogloss.data.tokenizers.loading import load_tokenizer
from isogloss.data.tokenizers.symbols import SymbolsTokenizer
from isogloss.recipe import Recipe, load_recipe
from isogloss.run.train import train
from isogloss.train.display import Display

ROWS, LENGTH = 200, 32


def markov(tmp_path, steps: int) -> Recipe:
    small = [
        f"runs_dir={tmp_path}",
        f"data={{type: markov, n_symbols: 8, concentration: 1.0, seq_len: {LENGTH}, validation_rows: {ROWS}}}",
        "model.d_model=16",
        "model.mixer.head_dim=8",
        "optim.lr=0.02",
        "optim.schedule.warmup=10",
        f"train={{steps: {steps}, batch_size: 16, device: cpu, precision: fp32, compile: 'off'}}",
        "watch.validate_every=1000",
        "watch.sample_tokens=5",
    ]
    return load_recipe("markov-tiny", small)


def test_training_comes_near_the_floor(tmp_path) -> None:
    """Within 0.03 nats after 120 steps; noise: a symbol's loss varies by about 1, over the rows of validation."""
    recipe = markov(tmp_path, 120)
    summary = train(recipe, Display(Console(quiet=True)))
    noise = 1 / np.sqrt(ROWS * LENGTH)
    assert summary["floor"] == SyntheticCorpus(MarkovConfig(n_symbols=8, concentration=1.0, seq_len=LENGTH)).floor > 1
    assert summary["floor"] - 4 * noise < summary["validation"]["loss"] < summary["floor"] + 0.03 + 4 * noise
    assert isinstance(load_tokenizer(recipe.folder / "tokenizer"), SymbolsTokenizer)
    sample = (recipe.folder / "samples.txt").read_text().splitlines()[-1]
    assert all(1 <= int(word) <= 8 for word in sample.split())


def test_generated_data_are_opened_as_any_other() -> None:
    corpus = open_corpus(MarkovConfig(), SymbolsConfig())
    assert isinstance(corpus, SyntheticCorpus)
    assert corpus.facts("train").n_tokens is None
    assert corpus.facts("validation").n_documents == 512
    assert corpus.facts("validation").bytes_per_target is None


@pytest.mark.parametrize(
    ("recipe", "override", "message"),
    [
        ("markov-tiny", "tokenizer={type: bytes}", "set tokenizer.type to symbols"),
        ("stdlib-small", "tokenizer={type: symbols}", "which data.type python_stdlib is not"),
    ],
)
def test_text_and_symbols_do_not_mix(recipe, override, message) -> None:
    with pytest.raises(UserError, match=message):
        load_recipe(recipe, [override])


def test_rows_too_short_for_the_task(tmp_path) -> None:
    recipe = load_recipe("recall-tiny", ["data.n_pairs=20", f"runs_dir={tmp_path}"])
    with pytest.raises(UserError, match="at least 80"):
        train(recipe, Display(Console(quiet=True)))
