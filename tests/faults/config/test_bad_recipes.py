"""Recipes with one mistake of a kind at a place drawn: refused in words that name it, and nothing is written.

``ISOGLOSS_FAULTS`` times five says how many; ``make faults`` asks for 500.
"""

import os
import random
import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from isogloss.config.base import UserError
from isogloss.config.load import dump_config
from isogloss.config.yaml import _Builder
from isogloss.recipe import load_recipe

N_MISTAKES = 5 * int(os.environ.get("ISOGLOSS_FAULTS", "4"))
LEAF = re.compile(r"( *)(\w+): (\S.*)")
NUMBER = re.compile(r"[-+]?[0-9.]+(e[-+]?[0-9]+)?")
Mistake = Callable[[str, str, random.Random], tuple[list[str], str] | None]
"""The lines that a key and its value become, and a word that must be said; ``None`` where that cannot be done wrong."""


def typo(key: str, value: str, generator: random.Random) -> tuple[list[str], str]:
    place = generator.randrange(len(key))
    wrong = generator.choice([key[:place] + key[place + 1 :], key[:place] + key[place] + key[place:], key + "s"])
    return [f"{wrong}: {value}"], wrong


def negative(key: str, value: str, generator: random.Random) -> tuple[list[str], str] | None:
    return ([f"{key}: -{generator.randrange(1, 9)}"], key) if NUMBER.fullmatch(value) else None


def text(key: str, value: str, generator: random.Random) -> tuple[list[str], str] | None:
    return ([f"{key}: '{value}'"], key) if NUMBER.fullmatch(value) or value in ("true", "false") else None


def too_exact(key: str, value: str, generator: random.Random) -> tuple[list[str], str] | None:
    return ([f"{key}: {generator.choice(['1e-4', '2.5'])}"], key) if value.isdecimal() else None


def section(key: str, value: str, generator: random.Random) -> tuple[list[str], str]:
    return [f"{key}: {generator.choice(['{zz: 1}', '[[{zz: 1}]]'])}"], key


def twice(key: str, value: str, generator: random.Random) -> tuple[list[str], str]:
    return [f"{key}: {value}"] * 2, "given twice"


def tag(key: str, value: str, generator: random.Random) -> tuple[list[str], str]:
    kind = generator.choice(["!!python/object/apply:os.system [touch canary]", "!!python/name:os.system x", "!x 1"])
    return [f"{key}: {kind}"], "tag"


def bomb(key: str, value: str, generator: random.Random) -> tuple[list[str], str]:
    parts = ["b0: &b0 [x, x, x, x, x, x, x, x, x, x]"]
    parts += [f"b{n}: &b{n} [{', '.join([f'*b{n - 1}'] * 10)}]" for n in range(1, 9)]
    return [f"{key}: {{{', '.join(parts)}}}"], "aliases"


def no_text(key: str, value: str, generator: random.Random) -> tuple[list[str], str]:
    return [f"{key}: \udcff{value}"], "UTF-8"


def uneven_heads(key: str, value: str, generator: random.Random) -> tuple[list[str], str] | None:
    return ([f"{key}: {generator.choice([3, 5, 7])}"], "n_heads") if key == "n_heads" else None


MISTAKES: list[Mistake] = [
    typo, negative, text, too_exact, section, twice, tag, bomb, no_text, uneven_heads,
]  # fmt: skip


def whole_recipe(tiny: Path) -> str:
    """The tiny recipe with each of its settings written out."""
    return dump_config(load_recipe(str(tiny)))


def wrong_recipe(whole: str, generator: random.Random) -> tuple[str, str, str]:
    """A recipe with a mistake, its kind, and what must be said of it."""
    lines = whole.splitlines()
    while True:
        number, mistake = generator.randrange(len(lines)), generator.choice(MISTAKES)
        leaf = LEAF.fullmatch(lines[number])
        made = leaf and mistake(leaf[2], leaf[3], generator)
        if not leaf or not made or (mistake is typo and re.search(rf"\b{made[1]}:", whole)):  # another setting's name
            continue
        changed = [leaf[1] + line for line in made[0]]
        return "\n".join([*lines[:number], *changed, *lines[number + 1 :]]), mistake.__name__, made[1]


@pytest.mark.campaign(16)
def test_a_mistake_anywhere_is_named_and_nothing_is_written(call, tiny: Path, monkeypatch, capfd) -> None:
    monkeypatch.chdir(tiny.parent)
    whole, generator = whole_recipe(tiny), random.Random(0)
    before = sorted(tiny.parent.rglob("*"))
    kinds: Counter[str] = Counter()
    for _ in range(N_MISTAKES):
        wrong, kind, word = wrong_recipe(whole, generator)
        tiny.write_bytes(wrong.encode(errors="surrogateescape"))
        code, _, errors = call("train", tiny)
        assert code == 2, wrong
        assert errors.startswith(("isogloss: tiny.yaml:", f"isogloss: {tiny}:")), errors
        assert word in errors, (kind, errors)
        assert "Traceback" not in errors
        kinds[kind] += 1
    assert sorted(tiny.parent.rglob("*")) == before
    with capfd.disabled():
        print(f"\n{N_MISTAKES} recipes with a mistake ({', '.join(f'{n} {k}' for k, n in kinds.items())}), all refused")


@pytest.mark.control(16)
def test_the_recipe_without_a_mistake_is_none(tiny: Path) -> None:
    whole = whole_recipe(tiny)
    tiny.write_text(whole)
    assert dump_config(load_recipe(str(tiny))) == whole


@pytest.mark.control(16)
@pytest.mark.parametrize("twice", ["seed: 3\nseed: 4", "  steps: 10\n  steps: 11"])
def test_without_the_check_of_keys_the_last_would_win_in_silence(tiny: Path, monkeypatch, twice: str) -> None:
    tiny.write_text(tiny.read_text().replace(twice.partition("\n")[0], twice))
    with pytest.raises(UserError, match="given twice"):
        load_recipe(str(tiny))
    monkeypatch.setattr(_Builder, "_refuse", lambda *rest: None)
    load_recipe(str(tiny))
