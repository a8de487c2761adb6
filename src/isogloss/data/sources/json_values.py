"""The records of a JSON array, or of JSON values one after the other, cut apart without being parsed: streamed.

Brackets and strings are followed, so that a record which is no JSON is found alone and the others are read. At most one
record of ``max_bytes`` is in memory; a longer one is skipped to its end.
"""

import re
from collections.abc import Iterable, Iterator

from isogloss.data.sources.lines import Line, extend, line_of
from isogloss.data.sources.records import BadRecordError

_IN_STRING = re.compile(rb'[^"\\]*+(?:\\.[^"\\]*+)*+', re.DOTALL)
"""All of a string up to its quote, or up to a backslash at a block's end."""
_OUTSIDE = re.compile(rb'["\[\]{},]')


def split_values(blocks: Iterable[bytes], max_bytes: int, in_array: bool) -> Iterator[Line]:
    """The records, each as a ``Line`` whose ``start`` is its number, from 0.

    Args:
        blocks: the content, in UTF-8.
        max_bytes: the longest record that is kept.
        in_array: the items of an array; else values with nothing but white space or commas between them.

    Raises:
        BadRecordError: the array does not end, or text follows it; the records before have been yielded.
    """
    number, depth, is_over = 0, 0, False
    in_string = is_escaped = False
    parts: list[bytes] = []
    length = 0
    inner = 1 if in_array else 0

    def take() -> Line:
        nonlocal length, number
        content, length = line_of(number, parts, length, max_bytes), 0
        parts.clear()
        number += 1
        return content

    for block in blocks:
        begin = at = 0
        while at < len(block) and not is_over:
            if is_escaped:
                is_escaped = False
                at += 1
                continue
            if in_string:
                inside = _IN_STRING.match(block, at)
                assert inside is not None
                sign, at = block[inside.end() : inside.end() + 1], inside.end() + 1
                is_escaped, in_string = sign == b"\\", sign != b'"'
                continue
            mark = _OUTSIDE.search(block, at)
            if mark is None:
                break
            at, sign = mark.end(), mark[0]
            if sign == b'"':
                in_string = True
            elif sign in b"[{":
                depth += 1
                if in_array and depth == 1:
                    begin, length = at, 0
                    parts.clear()
            elif sign in b"]}":
                depth -= 1
                is_end = in_array and depth == 0
                if is_end or (not in_array and depth <= 0):
                    depth = 0
                    length = extend(parts, length, block[begin : mark.start() if is_end else at], max_bytes)
                    begin = at
                    if not is_end or length > max_bytes or number or b"".join(parts).strip():
                        yield take()
                    parts.clear()
                    length = 0
                    is_over = is_over or is_end
            elif depth == inner:
                if in_array:
                    length = extend(parts, length, block[begin : mark.start()], max_bytes)
                    yield take()
                elif not b"".join(parts).strip() and not block[begin : mark.start()].strip():
                    parts.clear()
                    length = 0
                else:
                    continue
                begin = at
        length = extend(parts, length, block[begin:], max_bytes)
    rest = b"".join(parts).strip()
    if in_array and not is_over:
        raise BadRecordError("the JSON array does not end: the file is truncated, or a quote or bracket is missing")
    if in_array and rest:
        raise BadRecordError(f"text after the end of the JSON array ({rest[:20]!r}); it is not read")
    if rest:
        yield take()
