"""A config being put together: plain data, where each part of it came from, and the overrides laid over it."""

import json
import re
from collections.abc import Iterator, Mapping
from copy import deepcopy
from dataclasses import dataclass
from enum import Enum
from functools import reduce
from numbers import Integral
from pathlib import PurePath
from typing import Any, Generic, TypeVar

from pydantic import ValidationError
from pydantic.fields import FieldInfo

from isogloss.config.base import Config
from isogloss.config.problems import ConfigError, Path, Problem, dotted, show
from isogloss.config.shape import Shape
from isogloss.config.wording import locate, word_errors
from isogloss.config.yaml import MAX_DEPTH, YamlError, read_text, read_value, write_value

C = TypeVar("C", bound=Config)
Override = str | tuple[str, Any]
"""``key=value`` as a user writes it, or a key and a value that no parser is to read."""
_WORD = re.compile(r"[A-Za-z_]\w*(?:\.\w+)*")


def to_data(value: Any, *, only_set: bool = False) -> Any:
    """A config, or a part of one, as plain data in field order.

    Args:
        value: a config or the value of a field.
        only_set: leave out what was never given, but keep ``type``, so that the reader's own defaults fill the rest.

    Raises:
        TypeError: a value of a type that a YAML file cannot hold.
    """
    match value:
        case Config():
            names = type(value).model_fields
            kept = [name for name in names if not only_set or name in value.model_fields_set or name == "type"]
            return {name: to_data(getattr(value, name), only_set=only_set) for name in kept}
        case Enum():
            return to_data(value.value)
        case None | bool() | int() | float() | str():
            return value
        case Integral():  # numpy's
            return int(value)
        case PurePath():
            return str(value)
        case Mapping():
            return {str(key): to_data(item, only_set=only_set) for key, item in value.items()}
        case set() | frozenset():
            return sorted(to_data(item) for item in value)
        case list() | tuple():
            return [to_data(item, only_set=only_set) for item in value]
    raise TypeError(f"a config cannot hold {show(value)} of type {type(value).__name__}")


@dataclass(frozen=True)
class Origin:
    """Where a part of the data came from; ``is_default`` where it was put there for an override to reach in."""

    text: str
    is_default: bool = False


class _MisfitError(Exception):
    """An override leads nowhere; the message says why."""


class Draft(Generic[C]):
    """The data of a config before it is validated.

    Args:
        model: the config type.
        data: plain data; the draft owns it and changes it.
        origins: the source of the parts; that of a part not listed is its nearest ancestor's.
        problems: those found already.
    """

    def __init__(self, model: type[C], data: Any, origins: dict[Path, Origin], problems: list[Problem]):
        self.model = model
        self.data = data
        self.origins = origins
        self.problems = problems
        self.applied: list[tuple[list[str], Any, str]] = []

    def override(self, override: Override) -> None:
        """Lay one override over the data; what is wrong with it joins the problems."""
        if isinstance(override, tuple):
            key, value = override[0], to_data(override[1])
            where = f"command line: {key}={write_value(value)}"
            try:
                json.dumps(value, ensure_ascii=False).encode()
            except UnicodeEncodeError:
                self.problems.append(Problem(key, where, "holds bytes that are not UTF-8 (or half a character)"))
            else:
                self._set(key.split("."), value, where)
            return
        where = f"command line: {override}"
        key, equals, written = override.partition("=")
        parts = key.strip().split(".")
        if not equals or "" in parts:
            self.problems.append(Problem("", where, "an override is written key=value, such as train.steps=1000"))
            return
        if len(parts) > MAX_DEPTH:
            self.problems.append(Problem("", where, f"a key of more than {MAX_DEPTH} parts"))
            return
        try:
            document = (read_text if self._is_text(parts, written) else read_value)(written)
        except YamlError as error:
            self.problems.append(Problem(key, where, error.what))
            return
        self.problems += [Problem(".".join([key, *map(str, path)]), where, what) for path, _, what in document.problems]
        self._set(parts, document.data, where)

    def _is_text(self, parts: list[str], written: str) -> bool:
        """Whether nothing but text, such as a path, can stand at a key; ``null`` is none where the key may hold it."""
        shape, node = Shape.of(self.model), self.data
        for part in parts:
            if isinstance(node, dict) and shape.discriminator:
                shape = shape.narrow(node.get(shape.discriminator))
            below = shape.step(part)
            if below is None:
                return False
            shape, node = below, node.get(part) if isinstance(node, dict) else None
        return shape.is_text and not (shape.nullable and written.strip() == "null")

    def build(self) -> C:
        """The validated config.

        Raises:
            ConfigError: all problems at once.
        """
        try:
            config = self._validate()
        except ValidationError as error:
            problems = word_errors(self.model, error, self.where)
            by_name = {dotted(path): path for path in reversed(list(_paths(self.data)))}
            told = [self._with_sources(problem, by_name.get(problem.path)) for problem in problems]
            raise ConfigError([*self.problems, *told]) from None
        if self.problems:
            raise ConfigError(self.problems)
        return config

    def where(self, path: Path) -> str:
        """The file and line, or the override, that decided what stands at a path."""
        return self._origin(path).text

    def _origin(self, path: Path) -> Origin:
        return next(self.origins[path[:n]] for n in range(len(path), -1, -1) if path[:n] in self.origins)

    def _with_sources(self, problem: Problem, section: Path | None) -> Problem:
        """Say of a section that is refused as a whole where the values that the message names came from.

        Where it names none that is known, all overrides inside the section are: one of them may be to blame.
        """
        if section is None or not isinstance(_at(self.data, section), dict):
            return problem
        named = {word: path for word in _WORD.findall(problem.what) if (path := self._named(word, section))}
        sources = {word: self.where(path) for word, path in named.items() if self.where(path) != problem.where}
        if sources:
            told = ", ".join(f"{word} from {where}" for word, where in sources.items())
            return Problem(problem.path, problem.where, f"{problem.what} ({told})")
        prefix = f"{problem.path}." if problem.path else ""
        inside = [where for parts, _, where in self.applied if ".".join(parts).startswith(prefix)]
        if named or problem.where in inside or not inside:
            return problem
        return Problem(problem.path, problem.where, f"{problem.what} (with {', '.join(inside)})")

    def _named(self, word: str, section: Path) -> Path | None:
        """The value that a word of a message about a section names: in it, from the top, or further down in it."""
        parts = tuple(word.split("."))
        there = [path for path in _paths(self.data) if path and not isinstance(_at(self.data, path), dict | list)]
        below = [path for path in there if path[: len(section)] == section and path[-len(parts) :] == parts]
        exact = [path for path in there if path in ((*section, *parts), parts)]
        # Further down plain English words may be meant as such.
        found = exact or (below if len(below) == 1 and re.search(r"[._]", word) else [])
        return found[0] if found else None

    def _validate(self) -> C:
        # As JSON, because pydantic's strict mode then refuses "6" for 6 and yes for true, yet takes text for a path and
        # a list for a tuple. It also refuses 1e5 for a whole number, which people write: mended here, and tried again.
        # A section whose validator runs before its fields can hold no tuple: pydantic then refuses the list for it.
        while True:
            try:
                return self.model.model_validate_json(json.dumps(self.data), strict=True)
            except ValidationError as error:
                not_whole = [details["loc"] for details in error.errors() if details["type"] == "int_type"]
                mended = [self._mend(location) for location in not_whole]
                if not any(mended):
                    raise

    def _mend(self, location: tuple[str | int, ...]) -> bool:
        """Turn a float with a whole value into that whole number."""
        path, _ = locate(self.model, location)
        parent: Any = None
        node: Any = self.data
        for part in path:
            parent = node
            try:
                node = node[part]
            except (KeyError, IndexError, TypeError):  # a validator that ran before the fields has moved things
                return False
        if parent is None or not isinstance(node, float) or not node.is_integer():
            return False
        parent[path[-1]] = int(node)
        return True

    def _set(self, parts: list[str], value: Any, where: str) -> None:
        self.applied = [earlier for earlier in self.applied if earlier[0][: len(parts)] != parts]
        node: Any = self.data
        shape: Shape | None = Shape.of(self.model)
        path: Path = ()
        try:
            for part in parts[:-1]:
                key = self._key(node, part, path)
                if shape and shape.discriminator and isinstance(node, dict):
                    shape = shape.narrow(node.get(shape.discriminator))
                shape = shape.step(key) if shape else None
                path = (*path, key)
                if isinstance(node, dict) and node.get(key) is None:
                    node[key] = _default_data(shape.field if shape else None)
                    self._mark(path, Origin(where, is_default=True))
                node = node[key]
            key = self._key(node, parts[-1], path)
        except _MisfitError as error:
            self.problems.append(Problem(".".join(parts), where, str(error)))
            return
        if shape and key == shape.discriminator:
            self._change_branch(node, path, shape, value)
        node[key] = deepcopy(value)
        self._mark((*path, key), Origin(where))
        self.applied.append((parts, value, where))

    def _key(self, node: Any, part: str, path: Path) -> str | int:
        """The key or the index that a part of an override means in a node."""
        if isinstance(node, dict):
            return part
        if not isinstance(node, list):
            raise _MisfitError(f"{dotted(path)} is {show(node)} ({self.where(path)}), which holds no keys")
        if not (part.isascii() and part.isdecimal()) or len(part) > 6 or int(part) >= len(node):
            raise _MisfitError(f"{dotted(path)} is {show(node)}, numbered from 0; {part} is none of them")
        return int(part)

    def _change_branch(self, node: dict[str, Any], path: Path, shape: Shape, tag: Any) -> None:
        """Drop what does not outlive a choice of ``type``; overrides below do, so that their order is free.

        The branch of the default, too, begins with its own defaults when it is named, as it does in a file.
        """
        old = node.get(str(shape.discriminator))
        new = shape.tags().get(tag) if isinstance(tag, str) else None
        if new is None or old is None:
            return
        for key in list(node):
            if key not in new.model_fields or self._origin((*path, key)).is_default:
                del node[key]
        node[str(shape.discriminator)] = tag
        below = [earlier for earlier in self.applied if earlier[0][: len(path)] == [str(part) for part in path]]
        for parts, value, where in below:
            if len(parts) > len(path):
                self._set(parts, value, where)

    def _mark(self, path: Path, origin: Origin) -> None:
        self.origins = {known: old for known, old in self.origins.items() if known[: len(path)] != path}
        self.origins[path] = origin


def _paths(data: Any, path: Path = ()) -> Iterator[Path]:
    """All places in plain data, those of sections and lists before what they hold."""
    yield path
    children = data.items() if isinstance(data, dict) else enumerate(data) if isinstance(data, list) else ()
    for key, value in children:
        yield from _paths(value, (*path, key))


def _at(data: Any, path: Path) -> Any:
    return reduce(lambda node, key: node[key], path, data)


def _default_data(field: FieldInfo | None) -> Any:
    """What an override reaches into where the file says nothing: what the default instance was given."""
    if field is None or field.default_factory_takes_validated_data:
        return {}
    default = field.get_default(call_default_factory=True, validated_data=None)
    return to_data(default, only_set=True) if isinstance(default, Config | Mapping | list | tuple) else {}
