"""Reading back files that this library, or another, has written: by size, by schema, and never out of their folder.

A file on a disk is distrusted: it may be damaged, cut short, or made by someone else. Its size is checked before it is
read, its types and ranges before any of it is used, and a name in it must lead to a file of its own folder.
"""

import json
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from isogloss.config.base import UserError

MAX_JSON_BYTES = 1 << 28
"""Of a JSON file that is parsed whole: an index of a million pieces, or a vocabulary of a million, is smaller."""


class Stored(BaseModel):
    """Base of what is read back: exact types (a boolean is no number), finite numbers, no unknown keys."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


Count = Annotated[int, Field(ge=0, lt=1 << 63)]
"""A number of things, or a position among them."""
S = TypeVar("S", bound=BaseModel)


class DamagedError(UserError):
    """A stored file is not what was written."""


def read_bounded(path: Path, max_bytes: int = MAX_JSON_BYTES) -> bytes:
    """The content of a file, refused by its size before it is read.

    Raises:
        DamagedError: it is larger than ``max_bytes``.
        OSError: it cannot be read.
    """
    with path.open("rb") as stream:
        data = stream.read(max_bytes + 1)
    if len(data) > max_bytes:
        raise DamagedError(f"{path}: larger than {max_bytes:,} bytes, more than such a file can have")
    return data


def read_stored(path: Path, kind: type[S], max_bytes: int = MAX_JSON_BYTES) -> S:
    """A JSON file as its schema.

    Raises:
        DamagedError: it is not of the schema.
        OSError: it cannot be read.
    """
    return parse_stored(read_bounded(path, max_bytes), kind, str(path))


def parse_stored(data: bytes, kind: type[S], origin: str, context: Any = None) -> S:
    """JSON as its schema.

    Args:
        data: the JSON.
        kind: the schema.
        origin: the file, for the message.
        context: for the schema's own validators.

    Raises:
        DamagedError: it is not of the schema; the first problem is named.
    """
    try:
        return kind.model_validate_json(data, strict=True, context=context)
    except ValidationError as error:
        raise DamagedError(f"{origin}: damaged ({first_problem(error)})") from error


def first_problem(error: ValidationError) -> str:
    """Where the first problem of a validation is and what it is, and how many there are."""
    first, n = error.errors()[0], error.error_count()
    where = ".".join(map(str, first["loc"]))
    return f"{where}{': ' if where else ''}{first['msg']}" + (f" (and {n - 1:,} more)" if n > 1 else "")


def parse_json(data: bytes | str, origin: str) -> Any:
    """The values of foreign JSON, for which there is no schema.

    Raises:
        UserError: it is no JSON, or nests or counts beyond what can be read.
    """
    try:
        return json.loads(data.decode() if isinstance(data, bytes) else data)
    except UnicodeDecodeError as error:
        raise UserError(f"{origin} cannot be read: no UTF-8 text at byte {error.start:,} of {len(data):,}") from error
    except json.JSONDecodeError as error:
        raise UserError(
            f"{origin} cannot be read: not JSON from line {error.lineno}, column {error.colno} on"
        ) from error
    except RecursionError as error:
        raise UserError(f"{origin} cannot be read: its JSON is nested too deeply") from error
    except ValueError as error:  # Python refuses to read integers of thousands of digits
        raise UserError(f"{origin} cannot be read: a number in its JSON has thousands of digits") from error


def inside(folder: Path, name: str, links: bool = False) -> Path:
    """The path of a file that a file of a folder names, refused where it could be any other's.

    Args:
        folder: that must hold it, at any depth.
        name: as it was read, with ``/`` between its parts.
        links: follow symbolic links wherever they lead, as the caches of other libraries need it.

    Raises:
        DamagedError: the name is empty or absolute, climbs (``..``), or leads out of the folder by a link.
    """
    parts = PurePosixPath(name).parts
    plain = name == "/".join(parts) and not PurePosixPath(name).is_absolute() and ".." not in parts and parts
    if not plain or any(character in name for character in "\\:\0"):  # whatever the system calls a separator or a drive
        raise DamagedError(f"{folder} names a file outside its folder, {name!r}; it is not to be trusted")
    path = folder / name
    if not links:
        real, root = path.resolve(), folder.resolve()
        if real != root / name:
            raise DamagedError(
                f"{path} is a link, to {real}: a file of this folder must be in it; put a copy in its place"
            )
    return path
