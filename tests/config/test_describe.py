"""Explaining, listing and comparing configs."""

from pathlib import Path
from typing import Annotated, Literal

import pytest
from pydantic import Field, PositiveInt

from isogloss.config.base import Config, UserError
from isogloss.config.describe import ABSENT, diff, explain, leaf_paths, schema
from isogloss.config.load import load_config, with_overrides
from isogloss.config.shape import Shape, places


class Cosine(Config):
    """Half a cosine."""

    type: Literal["cosine"] = "cosine"
    warmup: int = Field(100, ge=0)
    """Steps of linear rise.

    More in a second paragraph.
    """


class Linear(Config):
    """A straight line."""

    type: Literal["linear"] = "linear"
    warmup: int = 0
    end: float = 0.0


Schedule = Annotated[Cosine | Linear, Field(discriminator="type")]


class Tree(Config):
    name: str = "leaf"
    children: list["Tree"] = Field(default_factory=list)


class Part(Config):
    path: Path
    """Where it lies."""
    schedules: dict[str, Schedule] = Field(default_factory=dict)


class Whole(Config):
    """Everything."""

    n: PositiveInt | Literal["auto"] | None = "auto"
    pair: tuple[int, float] = (1, 2.0)
    schedule: Schedule = Cosine(warmup=7)
    parts: list[Part] = Field(default_factory=list)
    maybe: Linear | None = None
    plain: list[int] = Field(default_factory=lambda: [1])
    tree: Tree = Tree()


def test_leaf_paths():
    assert leaf_paths(Whole) == [
        "n", "pair", "schedule[cosine].type", "schedule[cosine].warmup", "schedule[linear].type",
        "schedule[linear].warmup", "schedule[linear].end",
        "parts.*.path", "parts.*.schedules.*[cosine].type",
        "parts.*.schedules.*[cosine].warmup", "parts.*.schedules.*[linear].type",
        "parts.*.schedules.*[linear].warmup", "parts.*.schedules.*[linear].end",
        "maybe.type", "maybe.warmup", "maybe.end", "plain", "tree.name", "tree.children",
    ]  # fmt: skip


def test_every_place_can_be_explained_under_its_own_path():
    for place in places(Whole):
        assert explain(Whole, place.path).startswith(f"{place.path}: ")


def test_schema_describes_fields():
    described = schema(Whole)
    assert described["$schema"].startswith("https://json-schema.org")
    assert described["$defs"]["Part"]["properties"]["path"]["description"] == "Where it lies."
    assert described["additionalProperties"] is False


def test_explains_a_field():
    text = explain(Whole, "schedule[cosine].warmup", Whole(schedule=Cosine(warmup=3)))
    assert text == (
        "schedule[cosine].warmup: whole number >= 0\n  default: 100\n  now: 3\n\n"
        "  Steps of linear rise.\n\n  More in a second paragraph."
    )


@pytest.mark.parametrize(
    ("key", "head"),
    [
        ("n", "n: whole number > 0 or auto or null\n  default: auto"),
        ("pair", "pair: list of 2: whole number, number\n  default: [1, 2.0]"),
        ("parts", "parts: list of: section\n  default: []"),
        ("parts.path", "parts.*.path: path\n  default: none, it must be given"),
        ("parts.0.path", "parts.0.path: path"),
        ("parts.0.schedules.wiki[linear].end", "parts.0.schedules.wiki[linear].end: number"),
        ("maybe", "maybe: section or null\n  default: null"),
        ("schedule", "schedule: section with type: cosine | linear\n  default: {type: cosine, warmup: 7}"),
    ],
)
def test_explains_types_and_defaults(key, head):
    assert explain(Whole, key).startswith(head)


def test_explains_a_key_of_several_branches_in_each():
    text = explain(Whole, "schedule.warmup", Whole(schedule=Linear(warmup=5)))
    cosine, linear = text.split("\n\nschedule[linear].warmup: ")
    assert "now" not in cosine
    assert "now: 5" in linear


def test_explains_a_section_field_by_field():
    lines = explain(Whole, "schedule").splitlines()
    assert "  schedule[cosine]: Half a cosine." in lines
    (warmup,) = [line for line in lines if line.endswith("Steps of linear rise.")]
    assert warmup.split() == ["warmup", "whole", "number", ">=", "0", "100", "Steps", "of", "linear", "rise."]
    assert "Everything." in explain(Whole)
    assert all(f"    {name} " in explain(Whole) for name in Whole.model_fields)


@pytest.mark.parametrize(
    ("key", "message"),
    [
        ("schedule.warmpu", "schedule.warmpu: unknown key; did you mean warmup?"),
        ("path", "path: unknown key; it belongs under parts.*"),
        ("schedule[x].warmup", "schedule[x].warmup: there is no type x; one of cosine, linear"),
        ("n.a", "n.a: unknown key"),
        ("a..b", "a..b: unknown key"),
        ("[", "[: unknown key"),
    ],
)
def test_unknown_keys(key, message):
    with pytest.raises(UserError) as caught:
        explain(Whole, key)
    assert str(caught.value).startswith(message)


def test_diff():
    a = Whole(parts=[Part(path=Path("x"))])
    assert diff(a, a) == []
    b = with_overrides(
        a, ["schedule.type=linear", "schedule.warmup=7", "plain=[1, 2]", "parts.0.path=y", "maybe.end=1"]
    )
    assert diff(a, b) == [
        ("schedule.type", "cosine", "linear"),
        ("parts.0.path", "x", "y"),
        ("maybe", None, ABSENT),
        ("plain", [1], [1, 2]),
        ("schedule.end", ABSENT, 0.0),
        ("maybe.type", ABSENT, "linear"),
        ("maybe.warmup", ABSENT, 0),
        ("maybe.end", ABSENT, 1.0),
    ]


def test_diff_of_nan_and_of_unlike_types():
    class Numbers(Config):
        x: float = Field(0.0, allow_inf_nan=True)
        y: int | bool = 1

    assert diff(Numbers(x=float("nan")), Numbers(x=float("nan"))) == []
    assert diff(Numbers(y=1), Numbers(y=True)) == [("y", 1, True)]


def test_overrides_and_messages_work_in_unions_inside_collections():
    config = load_config(Whole, None, ["parts=[{path: p, schedules: {a: {type: cosine, warmup: 3}}}]",
                                       "parts.0.schedules.a.type=linear"])  # fmt: skip
    assert config.parts[0].schedules == {"a": Linear(warmup=3)}
    with pytest.raises(UserError, match=r"schedules\.a\.warmup=x: must be a whole number, got 'x'"):
        with_overrides(config, ["parts.0.schedules.a.warmup=x"])


def test_shapes_see_through_annotations():
    shape = Shape.of(Annotated[int, Field(gt=0)] | None)
    assert shape.nullable
    assert [option.annotation for option in shape.options] == [int]
    assert shape.options[0].constraints[0].gt == 0
    assert set(Shape.of(list[Schedule]).options[0].item().tags()) == {"cosine", "linear"}
