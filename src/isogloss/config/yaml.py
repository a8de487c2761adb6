"""YAML 1.2 (core schema) to plain data with line numbers, and back.

PyYAML parses; the scalars are resolved here, because PyYAML follows YAML 1.1, where ``3e-4`` is text, ``010`` is eight
and ``on`` is true. Of YAML's features a recipe needs no others than mappings, lists, scalars, anchors and aliases:
language tags, merge keys (``<<``) and further documents are refused.
"""

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import yaml
from yaml.composer import Composer
from yaml.parser import Parser
from yaml.reader import Reader, ReaderError
from yaml.resolver import BaseResolver
from yaml.scanner import Scanner

from isogloss.config.problems import Path, show

MAX_DEPTH = 50
"""How deep mappings and lists may nest; well below the recursion limits of the parsers behind."""

MAX_VALUES = 20_000
"""How many values a document may hold once its aliases are written out."""

_TAG = "tag:yaml.org,2002:"
_PATTERNS = {
    "null": r"null|Null|NULL|~|",
    "bool": r"true|True|TRUE|false|False|FALSE",
    "int": r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+",
    "float": r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)",
}
_MAX_INT = 10**310  # beyond any float


class YamlError(Exception):
    """The text cannot be read at all.

    Args:
        line: counted from 1.
        what: why.
    """

    def __init__(self, line: int, what: str):
        super().__init__(what)
        self.line = line
        self.what = what


@dataclass
class Document:
    """What a text holds.

    Args:
        data: dicts (keys are always text, as written), lists, ``str int float bool None``; no part is shared.
        lines: the line of each key and list item, counted from 1.
        problems: (path, line, what) of all that was refused; the data beside it is still usable.
    """

    data: Any = None
    lines: dict[Path, int] = field(default_factory=dict)
    problems: list[tuple[Path, int, str]] = field(default_factory=list)


def resolve(text: str) -> Any:
    """The value of a plain scalar by the core schema of YAML 1.2.

    Raises:
        ValueError: a whole number of more than 310 digits.
    """
    match _kind(text):
        case "null":
            return None
        case "bool":
            return text.lower() == "true"
        case "int":
            value = int(text, {"0x": 16, "0o": 8}.get(text[:2], 10)) if len(text) < 1000 else _MAX_INT
            if abs(value) >= _MAX_INT:
                raise ValueError(f"a number of {len(text)} digits is too large")
            return value
        case "float":
            return float(re.sub(r"\.(?=[ni])", "", text.lower()))
    return text


def read_yaml(text: str) -> Document:
    """Read one document.

    Raises:
        YamlError: it is not YAML, nests too deeply, holds more than one document, or its aliases have no end.
    """
    with _yaml_errors(text):
        node = _Composer(_without_json_only(text)).get_single_node()
    document = Document()
    if node is not None:
        _Builder(document).build(node, ())
    return document


def read_text(text: str) -> Document:
    """Read the value of an override where nothing but text can stand: as it is, unless it is in quotes.

    Raises:
        YamlError: what is in quotes is not YAML.
    """
    return read_value(text if text[:1] in ('"', "'") else json.dumps(text))


def read_value(text: str) -> Document:
    """Read the value of an override.

    What begins with ``[``, ``{`` or a quote is YAML; anything else is one plain scalar, taken whole, so that ``*.txt``,
    ``a: b`` and ``x#y`` need no second layer of quotes. Nothing at all is the empty text (``null`` says null).

    Raises:
        YamlError: as for ``read_yaml``.
    """
    text = text.strip()
    if text[:1] in ("[", "{", '"', "'"):
        return read_yaml(text)
    try:
        return Document(_encodable(resolve(text) if text else ""))
    except ValueError as error:
        raise YamlError(1, str(error)) from None


def write_yaml(data: Any, *, in_ascii: bool = False) -> str:
    """Plain data as YAML that ``read_yaml`` reads back the same; lists of scalars on one line."""
    return yaml.dump(
        data, Dumper=_Dumper, sort_keys=False, default_flow_style=False, allow_unicode=not in_ascii, width=10**9
    )


def write_value(data: Any) -> str:
    """Plain data on one line, in flow style."""
    text = yaml.dump(data, Dumper=_Dumper, sort_keys=False, default_flow_style=True, allow_unicode=True, width=10**9)
    return text.removesuffix("\n").removesuffix("\n...")


def _kind(text: str) -> str:
    return next((kind for kind, pattern in _PATTERNS.items() if re.fullmatch(pattern, text)), "str")


def _encodable(value: Any) -> Any:
    """Text with the two halves of a character put together, as JSON escapes it; other values as they are.

    Raises:
        ValueError: a half stands alone.
    """
    if not isinstance(value, str):
        return value
    try:
        return value.encode("utf-16-le", "surrogatepass").decode("utf-16-le")
    except UnicodeDecodeError:
        raise ValueError(f"{show(value)} holds half a character (a lone surrogate)") from None


def _without_json_only(text: str) -> str:
    """JSON as PyYAML reads it: without tabs between values, and with escapes for what YAML 1.1 gives a meaning."""
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return text
    return re.sub(r"[^\n\r -~]", lambda found: " " if found[0] == "\t" else json.dumps(found[0])[1:-1], text)


@contextmanager
def _yaml_errors(text: str) -> Iterator[None]:
    try:
        yield
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        what = error.problem or error.context or "it cannot be parsed"
        if "found another document" in what:
            what = "a second document begins here; a config is one document"
        elif r"'\t'" in what:
            what = "not valid YAML: indent with spaces, not with tabs"
        else:
            what = f"not valid YAML: {what}"
        raise YamlError(mark.line + 1 if mark else 1, what) from None
    except ReaderError as error:
        position = int(error.position)
        raise YamlError(text.count("\n", 0, position) + 1, f"not valid YAML: {error.reason}") from None
    except (ValueError, OverflowError) as error:  # PyYAML on escapes and directives with numbers out of range
        raise YamlError(1, f"not valid YAML: {error}") from None
    except RecursionError:
        raise YamlError(1, f"nested deeper than {MAX_DEPTH} levels") from None


class _Composer(Reader, Scanner, Parser, Composer, BaseResolver):
    """Text to nodes, each scalar tagged by the core schema."""

    def __init__(self, text: str):
        Reader.__init__(self, text)
        Scanner.__init__(self)
        Parser.__init__(self)
        Composer.__init__(self)
        BaseResolver.__init__(self)
        self.n_nodes = 0

    def resolve(self, kind: type[yaml.Node], value: Any, implicit: Any) -> str:
        if kind is yaml.ScalarNode:
            return _TAG + (_kind(value) if implicit[0] else "str")
        return super().resolve(kind, value, implicit)

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        self.n_nodes += 1  # before there are aliases to write out
        if self.n_nodes > 2 * MAX_VALUES:  # of each key and each value
            line = self.get_mark().line + 1
            raise YamlError(line, f"more than {MAX_VALUES} values")
        return super().compose_node(parent, index)


class _Builder:
    """Nodes to plain data, aliases written out."""

    def __init__(self, document: Document):
        self.document = document
        self.n_values = 0

    def build(self, node: yaml.Node, path: Path) -> None:
        self.document.data = self._value(node, path)

    def _value(self, node: yaml.Node, path: Path) -> Any:
        line = node.start_mark.line + 1
        self.n_values += 1
        self.document.lines.setdefault(path, line)
        # An alias to a node that holds it nests without end, so the same bound stops it.
        if len(path) > MAX_DEPTH:
            raise YamlError(line, f"nested deeper than {MAX_DEPTH} levels (or an alias that holds itself)")
        if self.n_values > MAX_VALUES:
            raise YamlError(line, f"more than {MAX_VALUES} values once the aliases are written out")
        match node:
            case yaml.ScalarNode():
                return self._scalar(node, path)
            case yaml.SequenceNode(tag=tag) if tag == _TAG + "seq":
                return [self._value(item, (*path, i)) for i, item in enumerate(node.value)]
            case yaml.MappingNode(tag=tag) if tag == _TAG + "map":
                return self._mapping(node, path)
        self._refuse_tag(node, path)
        return None

    def _scalar(self, node: yaml.ScalarNode, path: Path) -> Any:
        kind = node.tag.removeprefix(_TAG)
        text = node.value
        try:
            if kind == "str":
                return _encodable(text)
            if kind == _kind(text) or (kind == "float" and _kind(text) == "int"):
                return float(resolve(text)) if kind == "float" else resolve(text)
        except ValueError as error:
            self._refuse(path, node, str(error))
            return None
        if kind in _PATTERNS:
            self._refuse(path, node, f"{show(text)} cannot be read as !!{kind}")
        else:
            self._refuse_tag(node, path)
        return None

    def _mapping(self, node: yaml.MappingNode, path: Path) -> dict[str, Any]:
        data: dict[str, Any] = {}
        for key_node, value_node in node.value:
            line = key_node.start_mark.line + 1
            if not isinstance(key_node, yaml.ScalarNode):
                self._refuse(path, key_node, "a key must be one word, not a list or a section")
                continue
            key = key_node.value
            place = (*path, key)
            if not key_node.tag.startswith(_TAG):
                self._refuse_tag(key_node, place)
            if key == "<<":
                self._refuse(place, key_node, "merging with << is not supported; write the keys out")
                continue
            try:
                key = _encodable(key)
            except ValueError as error:
                self._refuse(path, key_node, str(error))
                continue
            place = (*path, key)
            if key in data:
                first = self.document.lines[place]
                self._refuse(place, key_node, f"given twice; the first is on line {first}")
                self._forget(place, data[key])
            self.document.lines[place] = line
            data[key] = self._value(value_node, place)
        return data

    def _forget(self, path: Path, value: Any) -> None:
        """Drop the lines of a value that another one replaces."""
        self.document.lines.pop(path, None)
        inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
        for key, item in inner:
            self._forget((*path, key), item)

    def _refuse(self, path: Path, node: yaml.Node, what: str) -> None:
        self.document.problems.append((path, node.start_mark.line + 1, what))

    def _refuse_tag(self, node: yaml.Node, path: Path) -> None:
        self._refuse(path, node, f"the tag {node.tag.replace(_TAG, '!!')} is not supported; write the plain value")


class _Dumper(yaml.SafeDumper):
    """Quotes whatever YAML 1.1 or YAML 1.2 would not read back as text."""

    def resolve(self, kind: type[yaml.Node], value: Any, implicit: Any) -> str:
        tag = super().resolve(kind, value, implicit)
        if kind is yaml.ScalarNode and implicit[0] and tag == _TAG + "str":
            return _TAG + _kind(value)
        return tag

    def ignore_aliases(self, data: Any) -> bool:
        return True

    def represent_scalar(self, tag: str, value: Any, style: str | None = None) -> yaml.ScalarNode:
        # Only double quotes escape: PyYAML's other styles lose some line breaks (U+0085) on the way back.
        escape = tag == _TAG + "str" and not value.isprintable()
        return super().represent_scalar(tag, value, style='"' if escape else style)

    def represent_sequence(self, tag: str, sequence: Any, flow_style: bool | None = None) -> yaml.SequenceNode:
        flat = not any(isinstance(item, list | dict) for item in sequence)
        return super().represent_sequence(tag, sequence, flow_style=True if flat else flow_style)
