"""Names that come from other trainers point at the fields of a recipe."""

from collections import Counter

import pytest

from isogloss.config import foreign
from isogloss.config.base import UserError
from isogloss.config.describe import explain
from isogloss.config.foreign import FOREIGN, fields_of
from isogloss.config.shape import places
from isogloss.config.wording import plain
from isogloss.generate.sampling import SamplingConfig
from isogloss.recipe import Recipe, load_recipe

FIELDS = {plain(place.path) for place in places(Recipe)}


@pytest.mark.parametrize("ours", sorted(set(FOREIGN.values())))
def test_each_points_at_fields_that_exist(ours: str) -> None:
    assert set(fields_of(ours)) <= FIELDS


def test_each_name_stands_once_and_is_none_of_ours() -> None:
    written = Counter(name for names in foreign._NAMES.values() for name in names.split())
    assert [name for name, count in written.items() if count > 1] == []
    assert [name for name in written if name != name.lower() or "-" in name] == []
    # Ours too, of a mixture's source and of generated data: elsewhere both are said.
    both = set(written) & {field.rpartition(".")[2] for field in FIELDS}
    assert both <= {"max_epochs", "max_tokens", "max_length", "depth"}


def test_a_name_that_is_ours_elsewhere_is_told_both() -> None:
    with pytest.raises(UserError) as caught:
        load_recipe("stdlib-small", ["model.depth=8", "train.max_epochs=2"])
    assert "here it is model.n_layers (or it belongs under data with type: needle)" in str(caught.value)
    assert "the text (or it belongs under data.sources.*)" in str(caught.value)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("learning_rate", "optim.lr"),
        ("epochs", "train.steps: a run begins by saying how many times that is the text"),
        ("gradient_accumulation_steps", "train.micro_batch_size: rows at a time"),
        ("dtype", "train.precision"),
        ("betas", "optim.beta1, optim.beta2"),
        ("n_layer", "model.n_layers"),
        ("n_head", "model.mixer.n_heads"),
        ("n_embd", "model.d_model"),
        ("hidden_size", "model.d_model"),
        ("block_size", "data.seq_len"),
        ("warmup_iters", "optim.schedule.warmup: steps, or a share"),
        ("Learning-Rate", "optim.lr"),
    ],
)
def test_a_name_from_elsewhere_is_explained_wherever_it_stands(name: str, said: str, tmp_path) -> None:
    for key in (
        name,
        f"train.{name}",
        f"optim.{name}",
        f"model.{name}",
        f"model.mixer.{name}",
        f"optim.schedule.{name}",
    ):
        with pytest.raises(UserError) as caught:
            load_recipe("stdlib-small", [f"{key}=1"])
        assert f"command line: {key}=1: unknown key; here it is {said}" in str(caught.value)
    with pytest.raises(UserError, match="unknown key; here it is"):
        explain(Recipe, f"train.{name}")
    path = tmp_path / "mine.yaml"
    path.write_text(f"name: mine\nmodel:\n  ffn:\n    type: swiglu\n    {name}: 3\n")
    with pytest.raises(UserError) as caught:
        load_recipe(path)
    assert f"mine.yaml:5: model.ffn.{name}: unknown key; here it is {said}" in str(caught.value)


def test_the_keys_of_a_section_from_elsewhere_are_explained() -> None:
    with pytest.raises(UserError) as caught:
        load_recipe("stdlib-small", ["training={global_batch_size: 8, max_steps: 5, odd: 1}"])
    assert "training: unknown key; here it is train; of its keys global_batch_size is train.batch_size" in (
        str(caught.value).replace("={global_batch_size: 8, max_steps: 5, odd: 1}", "")
    )
    assert "max_steps is train.steps" in str(caught.value)
    with pytest.raises(UserError, match=r"optimizer: unknown key; here it is optim"):
        load_recipe("stdlib-small", ["optimizer.lr=1"])


def test_nothing_is_said_of_fields_that_a_config_has_not() -> None:
    with pytest.raises(UserError) as caught:
        explain(SamplingConfig, "learning_rate")
    assert "optim" not in str(caught.value)
