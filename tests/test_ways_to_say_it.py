"""A recipe's defaults do not depend on how the same thing is said: in the file, as a section, or by its type alone."""

from pathlib import Path

import pytest
import yaml

from isogloss.config.problems import ConfigError
from isogloss.config.shape import places
from isogloss.recipe import Recipe, load_recipe, shipped_recipes


def branches() -> list[tuple[str, str]]:
    """The key and the tags of every union of a recipe."""
    found = {}
    for place in places(Recipe):
        key = ".".join(part.partition("[")[0] for part in place.path.split("."))
        if place.shape.discriminator and "*" not in key:
            found |= {(key, tag): None for tag in place.shape.tags()}
    return list(found)


def read(path: Path, *overrides: str) -> Recipe | None:
    try:
        return load_recipe(str(path), overrides)
    except ConfigError:
        return None


@pytest.mark.parametrize(("key", "tag"), branches())
def test_a_type_means_the_same_however_it_is_given(tiny: Path, key: str, tag: str) -> None:
    data = yaml.safe_load(tiny.read_text())
    *above, last = key.split(".")
    section = data
    for part in above:
        section = section.setdefault(part, {"type": "attention"} if part == "mixer" else {})
    section.pop(last, None)
    tiny.write_text(yaml.safe_dump(data))
    by_type, by_section = read(tiny, f"{key}.type={tag}"), read(tiny, f"{key}={{type: {tag}}}")
    again = read(tiny, f"{key}.type={tag}", f"{key}.type={tag}")
    section[last] = {"type": tag}
    tiny.write_text(yaml.safe_dump(data))
    in_file = read(tiny)
    assert by_type == by_section == again == in_file
    assert read(tiny, f"{key}.type={tag}") == in_file


def test_lingua_alone_is_linguas_own_rule(tiny: Path) -> None:
    for overrides in (["init.type=lingua"], ["init={type: lingua}"], ["init.type=gpt2", "init.type=lingua"]):
        assert load_recipe(str(tiny), overrides).init.model_dump()["embedding_std"] is None
        assert load_recipe("markov-tiny", overrides).init.model_dump()["embedding_std"] is None
    for order in (1, -1):
        found = load_recipe(str(tiny), ["init.type=lingua", "init.cut=2.0"][::order]).init.model_dump()
        assert (found["embedding_std"], found["cut"]) == (None, 2.0)


@pytest.mark.parametrize("name", shipped_recipes())
def test_a_recipe_that_says_nothing_names_its_embedding(name: str) -> None:
    """In what is shown and kept of it."""
    assert load_recipe(name).init.model_dump()["embedding_std"] == 1.0
    assert load_recipe(name, ["init.cut=2.0"]).init.model_dump()["embedding_std"] == 1.0
