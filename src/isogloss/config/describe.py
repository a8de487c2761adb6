"""What a config type offers and what a config says: its JSON schema, keys explained, differences, leaves."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args, get_origin

from pydantic.fields import FieldInfo

from isogloss.config.base import Config, UserError
from isogloss.config.draft import to_data
from isogloss.config.problems import did_you_mean, show
from isogloss.config.shape import Option, Shape, places
from isogloss.config.wording import unknown_key
from isogloss.config.yaml import write_value


class _Absent:
    def __repr__(self) -> str:
        return "absent"


ABSENT: Any = _Absent()
"""Stands in a difference for a key that one of the two configs does not have."""

_BOUNDS = {"gt": "> {}", "ge": ">= {}", "lt": "< {}", "le": "<= {}", "multiple_of": "multiple of {}",
           "min_length": "at least {} long", "max_length": "at most {} long", "pattern": "matching {}"}  # fmt: skip
_WORDS = {int: "whole number", float: "number", bool: "true or false", str: "text", Any: "anything"}


def schema(model: type[Config]) -> dict[str, Any]:
    """The JSON schema of a config type, for editors that check and complete YAML as it is written."""
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **model.model_json_schema()}


def leaf_paths(model: type[Config]) -> list[str]:
    """All fields that hold values, in order.

    A branch of a union stands in brackets and the items of a list or mapping are a star:
    ``optim.schedule[cosine].warmup``, ``data.sources.*.weight``.
    """
    return [place.path for place in places(model) if place.is_leaf]


def diff(a: Config, b: Config) -> list[tuple[str, Any, Any]]:
    """The dotted leaves in which two configs differ, in order, with both values (plain data, or ``ABSENT``)."""
    left, right = dict(_leaves(to_data(a), "")), dict(_leaves(to_data(b), ""))
    pairs = [(key, left.get(key, ABSENT), right.get(key, ABSENT)) for key in {**left, **right}]
    # By text, so that nan equals nan and 1 differs from true.
    return [(key, old, new) for key, old, new in pairs if repr(old) != repr(new)]


def in_words(change: tuple[str, Any, Any]) -> str:
    """An item of ``diff`` as ``key: old -> new``, with YAML's words for nothing, true and false."""
    key, old, new = change
    old, new = (show(value) if value is None or isinstance(value, bool) else value for value in (old, new))
    return f"{key}: {old} -> {new}"


def explain(model: type[Config], key: str = "", current: Config | None = None) -> str:
    """Tell what a key means: its type and range, default, present value and documentation; a section lists its fields.

    Args:
        model: the config type.
        key: dotted, as in overrides; a branch may be named as in ``leaf_paths``; empty for the whole.
        current: a config of that type, whose values are then shown.

    Raises:
        UserError: there is no such key.
    """
    spots = [_Spot(key, Shape.of(model), ABSENT if current is None else current)]
    if key:
        spots = _find(model, key, current)
    return "\n\n".join(_explain_spot(spot) for spot in spots)


@dataclass(frozen=True)
class _Spot:
    """A place with the present value there."""

    path: str
    shape: Shape
    value: Any


def _find(model: type[Config], key: str, current: Config | None) -> list[_Spot]:
    spots = [_Spot("", Shape.of(model), ABSENT if current is None else current)]
    for part in key.split("."):
        match = re.fullmatch(r"([^\[\]]+)(?:\[([^\[\]]*)\])?", part)
        name, tag = (match[1], match[2]) if match else (part, None)
        below = [child for spot in spots for child in _children(spot, name)]
        if tag is not None:
            tags = dict.fromkeys(tag for spot in below for tag in spot.shape.tags())
            if below and tag not in tags:
                raise UserError(f"{key}: there is no type {tag}; one of {', '.join(tags)}{did_you_mean(tag, tags)}")
            below = [_Spot(f"{spot.path}[{tag}]", spot.shape.narrow(tag), spot.value) for spot in below
                     if tag in spot.shape.tags()]  # fmt: skip
        if not below:
            sections = [section for spot in spots for _, section in spot.shape.sections()]
            siblings = dict.fromkeys(field for section in sections for field in section.model_fields)
            raise UserError(f"{key}: {unknown_key(model, name, siblings)}")
        spots = below
    return spots


def _children(spot: _Spot, name: str) -> Iterator[_Spot]:
    """The places called ``name`` below one: a field in each branch that has it, or an item."""
    value = spot.value
    collections = [option for option in spot.shape.options if option.is_mapping or option.is_list]
    if collections and (collections[0].is_mapping or name == "*" or name.isdecimal()):
        if isinstance(value, list | tuple) and name.isdecimal() and int(name) < len(value):
            value = value[int(name)]
        else:
            value = value.get(name, ABSENT) if isinstance(value, Mapping) else ABSENT
        if inner := spot.shape.step(name):
            yield _Spot(f"{spot.path}.{name}".removeprefix("."), inner, value)
        return
    for suffix, section in spot.shape.sections():
        if name in section.model_fields:
            inner = Shape.of_field(section.model_fields[name])
            path = f"{spot.path}{suffix}.{name}".removeprefix(".").replace("].[", "][")
            yield _Spot(path, inner, getattr(value, name) if isinstance(value, section) else ABSENT)


def _explain_spot(spot: _Spot) -> str:
    field = spot.shape.field
    lines = [f"{spot.path}: {_name_shape(spot.shape)}"] if spot.path else []
    if field is not None:
        lines.append(f"  default: {_show_default(field)}")
    if spot.value is not ABSENT and spot.path:
        lines.append(f"  now: {_show_value(spot.value)}")
    if field is not None and field.description:
        lines += ["", *(f"  {line}".rstrip() for line in field.description.splitlines())]
    for suffix, section in spot.shape.sections():
        title = f"  {spot.path}{suffix}: {_summary(section.__doc__)}" if spot.path else _summary(section.__doc__)
        lines += ["", title.rstrip(" :")]
        value = spot.value if isinstance(spot.value, section) else ABSENT
        lines += _field_lines(section, value)
    return "\n".join(lines).strip("\n")


def _field_lines(section: type[Config], value: Any) -> Iterator[str]:
    """One line a field: name, type, what it is now or by default, the first line of its documentation."""
    rows = []
    for name, field in section.model_fields.items():
        shown = _show_default(field) if value is ABSENT else _show_value(getattr(value, name))
        rows.append((name, _name_shape(Shape.of_field(field)), shown, _summary(field.description)))
    widths = [min(max((len(row[column]) for row in rows), default=0), 32) for column in range(3)]
    for row in rows:
        cells = [cell.ljust(width) for cell, width in zip(row, widths, strict=False)]
        yield "    " + "  ".join([*cells, row[3]]).rstrip()


def _name_shape(shape: Shape) -> str:
    sections = [option for option in shape.options if option.section]
    names = [_name_option(option) for option in shape.options if not option.section]
    if shape.tags():
        names.insert(0, f"section with {shape.discriminator}: {' | '.join(shape.tags())}")
    elif sections:
        names.insert(0, "section")
    return " or ".join([*names, *(["null"] if shape.nullable else [])])


def _name_option(option: Option) -> str:
    origin = get_origin(option.annotation)
    if origin is Literal:
        name = " | ".join(write_value(value) for value in get_args(option.annotation))
    elif option.is_list and origin is tuple and Ellipsis not in get_args(option.annotation):
        items = [_name_shape(Shape.of(item)) for item in get_args(option.annotation)]
        name = f"list of {len(items)}: {', '.join(items)}"
    elif item := option.item():
        name = f"{'list' if option.is_list else 'mapping'} of: {_name_shape(item)}"
    else:
        name = _WORDS.get(option.annotation) or getattr(option.annotation, "__name__", str(option.annotation)).lower()
    bounds = [
        template.format(bound)
        for constraint in option.constraints
        for attribute, template in _BOUNDS.items()
        if (bound := getattr(constraint, attribute, None)) is not None
    ]
    return f"{name} {', '.join(bounds)}" if bounds else name


def _show_default(field: FieldInfo) -> str:
    if field.is_required():
        return "none, it must be given"
    if field.default_factory_takes_validated_data:
        return "follows from other fields"
    return _show_value(field.get_default(call_default_factory=True, validated_data=None))


def _show_value(value: Any) -> str:
    """A value on one line; of a section only what sets it apart, for its own fields are told elsewhere."""
    if isinstance(value, Config):
        given = to_data(value, only_set=True)
        return write_value(given) if given else "its own defaults"
    return write_value(to_data(value))


def _summary(text: str | None) -> str:
    return (text or "").strip().split("\n\n")[0].replace("\n", " ")


def _leaves(data: Any, path: str) -> Iterator[tuple[str, Any]]:
    """Dotted leaves of plain data; a list counts as one value unless it holds sections."""
    if isinstance(data, dict) and data:
        items: list[tuple[str, Any]] = list(data.items())
    elif isinstance(data, list) and data and all(isinstance(item, dict) for item in data):
        items = [(str(i), item) for i, item in enumerate(data)]
    else:
        yield path, data
        return
    for name, item in items:
        yield from _leaves(item, f"{path}.{name}" if path else name)
