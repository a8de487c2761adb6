"""How a file is read, by its ending and, for JSON, by its content.

``.jsonl``, ``.ndjson`` and ``.json`` hold records of JSON, whichever of the three they are called: a record on each
line, an array of records, or records written over several lines. ``.csv`` and ``.tsv`` are tables with a header,
``.parquet`` is a table too; every other ending is text.
"""

import json
import re
from typing import Literal

Format = Literal["auto", "text", "json", "csv", "tsv", "parquet"]
"""What a user may ask for."""
Kind = Literal["text", "lines", "array", "values", "csv", "tsv", "parquet"]
"""How a file is read: ``lines`` has a JSON record on each line, ``values`` has them over several."""

JSON_ENDINGS = (".jsonl", ".ndjson", ".json")
OPTIONAL_ENDINGS = (".json", ".csv", ".tsv")
"""A folder's files of these endings are read if they have the text's field, as they often describe the others."""
HEAD_BYTES = 1 << 16
BYTE_ORDER_MARK = b"\xef\xbb\xbf"
_ARRAY = re.compile(r'\[\s*[\[{"\]]')
_DECODER = json.JSONDecoder()


def recognise(ending: str, head: bytes, wanted: Format = "auto") -> Kind:
    """How a file is to be read.

    Args:
        ending: the one that tells the content, in lower case.
        head: the first bytes of the content, decompressed and in UTF-8; needed for JSON alone.
        wanted: the user's choice.
    """
    if wanted == "auto":
        if ending == ".parquet":
            return "parquet"
        if ending not in JSON_ENDINGS:
            return "csv" if ending == ".csv" else "tsv" if ending == ".tsv" else "text"
    elif wanted != "json":
        return wanted
    return recognise_json(head)


def needs_head(ending: str, wanted: Format) -> bool:
    """Whether the content decides how a file is read."""
    return wanted == "json" or (wanted == "auto" and ending in JSON_ENDINGS)


def recognise_json(head: bytes) -> Kind:
    """Whether records stand on lines, in an array or over several lines each; lines where none of it is certain."""
    text = head.removeprefix(BYTE_ORDER_MARK).decode("utf-8", "replace").lstrip()
    first, line_end, others = text.partition("\n")
    if _ARRAY.match(text):
        return "lines" if others.strip() and _is_json(first) else "array"
    if not text.startswith("{") or not line_end or _is_json(first):
        return "lines"
    second = len(first) + 1 + len(others) - len(others.lstrip())
    try:
        _DECODER.raw_decode(text)
    except json.JSONDecodeError as error:
        # A line that was cut short breaks where the next begins; a value over several lines, later or never.
        is_inside = error.pos >= second if error.msg.startswith("Unterminated string") else error.pos > second
        return "values" if is_inside else "lines"
    except (ValueError, RecursionError):
        return "lines"
    return "values"


def looks_like_json(text: str) -> bool:
    """Whether a text is JSON: an object, or an array of objects or strings."""
    head = text[:HEAD_BYTES].removeprefix("\ufeff").lstrip()
    if not head.startswith("{") and not _ARRAY.match(head):
        return False
    if head.startswith("{") and not re.match(r'\{\s*["}]', head):
        return False
    try:
        _DECODER.raw_decode(head)
    except json.JSONDecodeError as error:
        # The head of a longer one.
        return len(text) > HEAD_BYTES and (error.msg.startswith("Unterminated string") or error.pos > len(head) - 9)
    except (ValueError, RecursionError):
        return False
    return True


def _is_json(line: str) -> bool:
    try:
        _DECODER.decode(line)
    except (ValueError, RecursionError):
        return False
    return True
