"""Pydantic's errors in plain words, at the keys that the user wrote."""

import re
from collections.abc import Callable, Iterable, Iterator
from itertools import groupby
from typing import Any

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from isogloss.config.base import Config
from isogloss.config.foreign import FOREIGN, fields_of
from isogloss.config.problems import Path, Problem, did_you_mean, dotted, show
from isogloss.config.shape import Shape, places
from isogloss.config.yaml import resolve

_NEEDS = {
    "a whole number": ("int_type", "int_parsing", "int_from_float", "int_parsing_size"),
    "a number": ("float_type", "float_parsing"),
    "true or false": ("bool_type", "bool_parsing"),
    "text": ("string_type", "string_sub_type"),
    "a path": ("path_type",),
    "a list": ("list_type", "tuple_type", "set_type", "frozen_set_type", "iterable_type"),
    "a section (keys with values)": ("dict_type", "mapping_type", "model_type", "model_attributes_type"),
    "null": ("none_required",),
    "a finite number": ("finite_number",),
    "greater than {gt}": ("greater_than",),
    "at least {ge}": ("greater_than_equal",),
    "less than {lt}": ("less_than",),
    "at most {le}": ("less_than_equal",),
    "a multiple of {multiple_of}": ("multiple_of",),
    "{expected}": ("literal_error", "enum"),
    "at least {min_length} long": ("too_short", "string_too_short"),
    "at most {max_length} long": ("too_long", "string_too_long"),
    "text that matches {pattern}": ("string_pattern_mismatch",),
}
_NEED_OF = {kind: need for need, kinds in _NEEDS.items() for kind in kinds}
_BOOLEAN_WORDS = {"yes": True, "on": True, "true": True, "no": False, "off": False, "false": False}
_MAX_PLACES = 3  # a key found in more sections than this says nothing about where it belongs


def word_errors(model: type[Config], error: ValidationError, where: Callable[[Path], str]) -> list[Problem]:
    """Translate a validation error.

    Args:
        model: the config type that was validated.
        error: what pydantic raised.
        where: tells the file and line, or the override, that a path came from.
    """
    problems = []
    located = [(*locate(model, details["loc"]), details) for details in error.errors(include_url=False)]
    # The alternatives of a plain union (``int | Literal["auto"]``) fail one by one, in a row, at one path.
    for (path, shape), group in groupby(located, key=lambda item: item[:2]):
        problems += _word(model, path, shape, [details for _, _, details in group], where)
    return problems


def locate(model: type[Config], location: Iterable[str | int]) -> tuple[Path, Shape | None]:
    """Where a pydantic location lies in what the user wrote: without the names of union members and of branches."""
    path: list[str | int] = []
    shape: Shape | None = Shape.of(model)
    labelled = False
    for part in location:
        if part == "[key]":
            continue
        if shape and part in shape.tags():
            shape = shape.narrow(part)
        elif shape and len(shape.options) > 1 and not labelled:
            labelled = True
        else:
            path.append(part)
            shape = shape.step(part) if shape else None
            labelled = False
    return tuple(path), shape


def unknown_key(model: type[Config], name: str, siblings: Iterable[str]) -> str:
    """What to say of a key that its section does not have: where it belongs, or which sibling was meant."""
    siblings = list(siblings)
    homes = dict.fromkeys(place.parent for place in places(model) if place.name == name)
    suggestion = did_you_mean(name, siblings)
    if ours := called_here(model, name):
        elsewhere = f" (or it belongs {_plain_place(next(iter(homes)))})" if homes else ""
        return f"unknown key; here it is {ours}{elsewhere}"
    if homes and (len(homes) <= _MAX_PLACES or not suggestion):
        shown = [_plain_place(home) for home in list(homes)[:_MAX_PLACES]]
        return f"unknown key; it belongs {' or '.join(shown)}"
    if suggestion or not siblings:
        return f"unknown key{suggestion}"
    return f"unknown key; the keys here are {', '.join(siblings)}"


def called_here(model: type[Config], name: str) -> str:
    """The fields that another trainer's name for a setting means; empty for none of this config type."""
    ours = FOREIGN.get(name.lower().replace("-", "_"), "")
    known = {plain(place.path) for place in places(model)} if ours else set()
    return ours if set(fields_of(ours)) <= known else ""


def plain(path: str) -> str:
    """A path without the branches that it lies in."""
    return re.sub(r"\[[^\]]*\]", "", path)


def _inside(model: type[Config], given: Any) -> str:
    """What the keys of an unknown section are called here."""
    names = given if isinstance(given, dict) else {}
    found = [f"{name} is {ours}" for name in names if (ours := called_here(model, str(name)))]
    return f"; of its keys {'; '.join(found)}" if found else ""


def _plain_place(home: str) -> str:
    """``optim.schedule[cosine]`` as ``under optim.schedule with type: cosine``."""
    tag = re.search(r"\[([^\]]*)\]$", home)
    name = plain(home)
    return (f"under {name}" if name else "at the top") + (f" with type: {tag[1]}" if tag else "")


def _word(
    model: type[Config], path: Path, shape: Shape | None, errors: list[ErrorDetails], where: Callable[[Path], str]
) -> Iterator[Problem]:
    needs: dict[str, Any] = {}
    hints: dict[str, None] = {}
    for error in errors:
        place = path
        given, context = error["input"], error.get("ctx", {})
        kind = error["type"]
        match kind:
            case "missing":
                what = "required, but not given"
            case "extra_forbidden":
                place, what = path, unknown_key(model, str(path[-1]), _siblings(model, error["loc"]))
                what += _inside(model, given)
            case "union_tag_not_found" | "union_tag_invalid" if shape and shape.discriminator:
                place = (*path, shape.discriminator)
                what = _word_tag(shape, given)
            case "value_error" | "assertion_error":
                what = str(context["error"]) or "is refused"
            case _ if kind in _NEED_OF:
                needs[_NEED_OF[kind].format(**{name: _plain(value) for name, value in context.items()})] = given
                hints |= dict.fromkeys(_hint(kind, given, shape))
                continue
            case _:
                what = f"{error['msg'][:1].lower()}{error['msg'][1:]}; got {show(given)}"
        yield Problem(dotted(place), where(place), what)
    if needs:
        given = next(iter(needs.values()))
        what = f"must be {' or '.join(needs)}, got {show(given)}{''.join(hints)}"
        yield Problem(dotted(path), where(path), what)


def _siblings(model: type[Config], location: tuple[str | int, ...]) -> Iterable[str]:
    _, section = locate(model, location[:-1])
    sections = [option.section for option in section.options if option.section] if section else []
    return [name for found in sections for name in found.model_fields]


def _word_tag(shape: Shape, given: Any) -> str:
    tags, name = list(shape.tags()), str(shape.discriminator)
    keys = given if isinstance(given, dict) else {}
    tag, choices = keys.get(name), ", ".join(tags)
    if tag is None:
        misspelt = next((f", unless {key} is meant to be it" for key in keys if did_you_mean(str(key), [name])), "")
        return f"required, but not given{misspelt}; one of {choices}"
    return f"must be one of {choices}, got {show(tag)}{did_you_mean(str(tag), tags)}"


def _hint(kind: str, given: Any, shape: Shape | None) -> Iterator[str]:
    """What to write instead, where it can be guessed."""
    if kind in ("literal_error", "enum"):
        known = [str(value) for value in shape.literals()] if shape else []
        if not isinstance(given, str) and str(given) in known:
            yield "; put it in quotes"
        elif isinstance(given, str) and given not in known:
            yield did_you_mean(given, known)
    elif kind == "string_type" and isinstance(given, bool | int | float):
        yield "; put it in quotes"
    elif kind == "bool_type" and isinstance(given, str) and given.lower() in _BOOLEAN_WORDS:
        yield f"; write {show(_BOOLEAN_WORDS[given.lower()])}"
    elif kind in ("int_type", "float_type") and isinstance(given, str):
        if isinstance(_number(given), int | float):
            yield "; take the quotes off"
        elif isinstance(_number(given.replace("_", "")), int | float):
            yield "; write it without underscores"


def _plain(bound: Any) -> Any:
    return int(bound) if isinstance(bound, float) and bound.is_integer() else bound


def _number(text: str) -> Any:
    try:
        return resolve(text)
    except ValueError:
        return None
