"""What may stand at each place of a config type: the walk shared by error messages, overrides and explanations."""

import collections.abc
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cache
from pathlib import PurePath
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import Discriminator
from pydantic.fields import FieldInfo

from isogloss.config.base import Config

_LISTS = (list, tuple, set, frozenset, collections.abc.Sequence, collections.abc.Iterable)
_MAPPINGS = (dict, collections.abc.Mapping)


@dataclass(frozen=True)
class Option:
    """One alternative for a value: a type (``int``, a config, ``list[float]``) with its constraints (``Gt(0)``)."""

    annotation: Any
    constraints: tuple[Any, ...] = ()

    @property
    def section(self) -> type[Config] | None:
        """The type, where it is a config."""
        return self.annotation if isinstance(self.annotation, type) and issubclass(self.annotation, Config) else None

    @property
    def is_list(self) -> bool:
        """Whether its children are numbered."""
        return (get_origin(self.annotation) or self.annotation) in _LISTS

    @property
    def is_mapping(self) -> bool:
        """Whether its children bear free names."""
        return (get_origin(self.annotation) or self.annotation) in _MAPPINGS

    def item(self, index: int = 0) -> "Shape | None":
        """What a list or a mapping holds; ``None`` for a scalar or a section."""
        args = get_args(self.annotation)
        if self.is_mapping:
            return Shape.of(args[1] if args else Any)
        if not self.is_list:
            return None
        if get_origin(self.annotation) is tuple and args[-1] is not Ellipsis:
            return Shape.of(args[index]) if index < len(args) else None
        return Shape.of(args[0] if args else Any)


@dataclass(frozen=True)
class Shape:
    """What may stand at one place.

    Args:
        options: the alternatives, ``None`` left out.
        nullable: whether ``None`` is one.
        discriminator: the key whose value chooses among the sections.
        field: the field this is the shape of, where it is one.
    """

    options: tuple[Option, ...]
    nullable: bool = False
    discriminator: str | None = None
    field: FieldInfo | None = None

    @classmethod
    def of(cls, annotation: Any, constraints: tuple[Any, ...] = ()) -> "Shape":
        """The shape of a type annotation."""
        if get_origin(annotation) is Annotated:
            inner, *metadata = get_args(annotation)
            discriminator = None
            for item in metadata:
                if isinstance(item, FieldInfo):
                    constraints = (*constraints, *item.metadata)
                    discriminator = item.discriminator or discriminator
                elif isinstance(item, Discriminator):
                    discriminator = item.discriminator
                else:
                    constraints = (*constraints, item)
            shape = cls.of(inner, constraints)
            return replace(shape, discriminator=discriminator) if isinstance(discriminator, str) else shape
        if get_origin(annotation) in (Union, UnionType):
            parts = [cls.of(arg, constraints) for arg in get_args(annotation)]
            return cls(
                options=tuple(option for part in parts for option in part.options),
                nullable=any(part.nullable for part in parts),
                discriminator=next((part.discriminator for part in parts if part.discriminator), None),
            )
        if annotation is None or annotation is type(None):
            return cls((), nullable=True)
        return cls((Option(annotation, constraints),))

    @classmethod
    def of_field(cls, field: FieldInfo) -> "Shape":
        """The shape of a config's field."""
        shape = cls.of(field.annotation, tuple(field.metadata))
        chosen_by = field.discriminator if isinstance(field.discriminator, str) else shape.discriminator
        return replace(shape, discriminator=chosen_by, field=field)

    def tags(self) -> dict[str, type[Config]]:
        """The sections that the discriminator chooses among, by its values."""
        if self.discriminator is None:
            return {}
        return {
            str(tag): option.section
            for option in self.options
            if option.section and self.discriminator in option.section.model_fields
            for tag in get_args(option.section.model_fields[self.discriminator].annotation)
        }

    def narrow(self, tag: Any) -> "Shape":
        """The shape once the discriminator's value is known; unchanged where it is none of the known values."""
        section = self.tags().get(tag) if isinstance(tag, str) else None
        return self if section is None else replace(self, options=(Option(section),), discriminator=None)

    def step(self, key: str | int) -> "Shape | None":
        """The shape of a child: a field's name, a list's index or ``"*"``, a mapping's key."""
        for option in self.options:
            if option.section and key in option.section.model_fields:
                return Shape.of_field(option.section.model_fields[str(key)])
            if option.is_mapping or (option.is_list and (isinstance(key, int) or key == "*" or key.isdecimal())):
                return option.item(0 if key == "*" or option.is_mapping else int(key))
        return None

    def sections(self) -> Iterator[tuple[str, type[Config]]]:
        """The configs that can stand here, each with its suffix: ``""``, ``"[cosine]"``, ``".*"`` (an item)."""
        for option in self.options:
            if option.section:
                tags = [tag for tag, section in self.tags().items() if section is option.section]
                yield from ((f"[{tag}]", option.section) for tag in tags) if tags else [("", option.section)]
            elif item := option.item():
                yield from ((f".*{suffix}", section) for suffix, section in item.sections())

    @property
    def is_text(self) -> bool:
        """Whether every value is free text or a path."""
        types = [option.annotation for option in self.options]
        return bool(types) and all(isinstance(kind, type) and issubclass(kind, str | PurePath) for kind in types)

    def literals(self) -> list[Any]:
        """The values that the type lists one by one."""
        listed = [option.annotation for option in self.options if get_origin(option.annotation) is Literal]
        return [value for annotation in listed for value in get_args(annotation)]


@dataclass(frozen=True)
class Place:
    """A field somewhere below a config type.

    Args:
        path: its key with the branches it lies in: ``optim.schedule[cosine].warmup``.
        shape: what may stand there.
        is_leaf: whether a value, and not only a section, can stand there.
    """

    path: str
    shape: Shape
    is_leaf: bool

    @property
    def parent(self) -> str:
        """The path of the section it belongs to, branch included; empty at the top."""
        return self.path.rpartition(".")[0]

    @property
    def name(self) -> str:
        """The field's own name."""
        return self.path.rpartition(".")[2]


@cache
def places(model: type[Config]) -> tuple[Place, ...]:
    """All fields of a config type and of the sections below it, in order; a section inside itself is a leaf."""
    return tuple(_places(Shape.of(model), "", ()))


def _places(shape: Shape, prefix: str, above: tuple[type[Config], ...]) -> Iterator[Place]:
    for suffix, section in shape.sections():
        if section in above:
            continue
        for name, field in section.model_fields.items():
            inner = Shape.of_field(field)
            path = f"{prefix}{suffix}.{name}".removeprefix(".")
            below = {found for _, found in inner.sections()}
            only_sections = all(list(Shape((option,)).sections()) for option in inner.options)
            yield Place(path, inner, is_leaf=not only_sections or below <= {*above, section})
            yield from _places(inner, path, (*above, section))
