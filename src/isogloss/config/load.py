"""Recipes from YAML files and overrides, checked as a whole; and back to YAML.

Files follow YAML 1.2: ``3e-4`` is a number, ``010`` is ten, ``on`` and ``yes`` are text. Values are not converted on
the quiet: ``"6"`` is no number and ``6`` is no text; only a whole number passes for a float, and a float with a whole
value (``1e5``) for a whole number.

An override is ``key=value`` with a dotted key (``stages.0.d_model=64``), applied in order after the file:

- The value is one plain scalar, taken whole, or YAML where it begins with ``[``, ``{`` or a quote. ``x=`` is the empty
  text, ``x=null`` is null. Where only text or a path can stand, all but a quoted text is taken as it is: ``name=1e3``,
  ``runs_dir=[old] a: b #1``.
- A key below a section that the file does not mention is laid over that section's default.
- ``schedule.type=linear`` chooses the branch of a union: of the file's keys those stay that the new branch has; what
  came from a default goes, even where it is of this branch, so that the file could say the same; other overrides always
  stay (and are errors where the new branch lacks their key).
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from isogloss.config.base import Config, UserError
from isogloss.config.draft import Draft, Origin, Override, to_data
from isogloss.config.problems import ConfigError, Problem, did_you_mean, dotted, show
from isogloss.config.yaml import YamlError, read_yaml, write_yaml

C = TypeVar("C", bound=Config)

Overrides = str | Sequence[Override] | Mapping[str, Any]
"""``a.b=c``, some of them, or a mapping such as ``{"a.b": c}``, whose values no parser reads."""

MAX_BYTES = 1 << 20
"""A larger file is no recipe; parsing it would only take minutes."""


def load_config(
    model: type[C],
    path: str | Path | None,
    overrides: Overrides = (),
    *,
    replaced: Mapping[str, Any] | None = None,
) -> C:
    """Read, override and check a config.

    Args:
        model: the config type.
        path: a YAML file; ``None`` for the defaults alone.
        overrides: ``a.b=c``, or ``("a.b", c)`` where ``c`` is not to be parsed; applied in order.
        replaced: fields of the file that its folder decides instead; overrides come after them.

    Raises:
        UserError: the file cannot be read.
        ConfigError: all that is wrong in the file and in the overrides.
    """
    draft = Draft(model, {}, {(): Origin("command line" if overrides else model.__name__)}, [])
    if path is not None:
        path = Path(path)
        draft = _read_draft(model, path)
        for key, value in (replaced or {}).items():
            draft.data[key] = value
            draft.origins[(key,)] = Origin(f"the folder {path.parent}")
    for override in _listed(overrides):
        draft.override(override)
    return draft.build()


def with_overrides(config: C, overrides: Overrides) -> C:
    """A config with overrides laid over it, as ``load_config`` lays them over a file.

    What ``config`` was given counts as the file's; what it left to the defaults counts as a default.

    Raises:
        ConfigError: all that is wrong in the overrides.
    """
    model = type(config)
    draft = Draft(model, to_data(config, only_set=True), {(): Origin(model.__name__)}, [])
    for override in _listed(overrides):
        draft.override(override)
    return draft.build()


def dump_config(config: Config, *, in_ascii: bool = False) -> str:
    """The whole config as YAML, defaults included, in field order; ``load_config`` reads an equal config from it."""
    return write_yaml(to_data(config), in_ascii=in_ascii)


def _listed(overrides: Overrides) -> Sequence[Override]:
    if isinstance(overrides, Mapping):
        return list(overrides.items())
    return [overrides] if isinstance(overrides, str) else overrides


def _read_draft(model: type[C], path: Path) -> Draft[C]:
    text = _read_text(path)
    try:
        document = read_yaml(text)
    except YamlError as error:
        raise ConfigError([Problem("", f"{path}:{error.line}", error.what)]) from None
    problems = [Problem(dotted(key), f"{path}:{line}", what) for key, line, what in document.problems]
    data = {} if document.data is None and document.lines == {} else document.data
    if not isinstance(data, dict):
        what = f"a config is a section of keys with values, not {show(data)}"
        raise ConfigError([*problems, Problem("", f"{path}:{document.lines[()]}", what)])
    origins = {key: Origin(f"{path}:{line}") for key, line in document.lines.items()}
    return Draft(model, data, {(): Origin(f"{path}:1"), **origins}, problems)


def _read_text(path: Path) -> str:
    try:
        with path.open("rb") as file:
            raw = file.read(MAX_BYTES + 1)
    except FileNotFoundError:
        raise UserError(f"{path}: no such file{_near_files(path)}") from None
    except IsADirectoryError:
        names = [name for name in _file_names(path) if name.endswith((".yaml", ".yml"))]
        inside = f"; it holds {', '.join(names[:5])}" if names else ""
        raise UserError(f"{path}: a folder, where a YAML file is needed{inside}") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from None
    except ValueError as error:  # a path that no file can have
        raise UserError(f"{str(path)!r}: cannot be read: {error}") from None
    if len(raw) > MAX_BYTES:
        raise UserError(f"{path}: larger than {MAX_BYTES} bytes; is it a recipe?")
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise UserError(f"{path}:{line}: not UTF-8 (byte 0x{raw[error.start]:02x}); save the file as UTF-8") from None


def _near_files(path: Path) -> str:
    if not path.parent.is_dir():
        return f"; the folder {path.parent} does not exist"
    return did_you_mean(path.name, _file_names(path.parent))


def _file_names(folder: Path) -> list[str]:
    try:
        return sorted(entry.name for entry in folder.iterdir() if entry.is_file())
    except OSError:
        return []
