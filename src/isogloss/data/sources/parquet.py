"""Parquet tables, through the optional ``pyarrow`` library: a row is a record, one column holds the text.

A table is read by batches of few rows, of the text's column alone; texts are taken as bytes and decoded here, so that
a table's bad records are found and named as those of JSON lines are. From a damaged page on, a row group is lost; the
other groups are read. (Every damage shows only in pages whose writer added checksums.)
"""

import importlib
from collections.abc import Iterator, Sequence
from io import BufferedIOBase
from itertools import accumulate
from pathlib import Path
from typing import Any

from isogloss.config.base import UserError
from isogloss.data.sources.records import EXCERPT_BYTES, BadRecord, BadRecordError, Document, decode, find_field
from isogloss.data.sources.units import ReadSettings, Unit

BATCH_BYTES = 4 << 20
BATCH_ROWS = 1024
BUFFER_BYTES = 1 << 20
MAX_RATIO = 1000
"""Of compression, in a row group that would take much memory."""


def cut(path: Path, unit_bytes: int) -> list[int]:
    """The row groups at which the parts of a table begin, each of about ``unit_bytes``, or one group that is larger.

    Raises:
        UserError: ``pyarrow`` is not installed.
        OSError: the file cannot be read.
    """
    starts, filled = [0], 0
    with path.open("rb") as stream:
        try:
            metadata = _open(path, stream).metadata
        except BadRecordError:  # whoever reads it reports it
            return starts
        for group in range(metadata.num_row_groups):
            size = metadata.row_group(group).total_byte_size
            if filled and filled + size > unit_bytes:
                starts.append(group)
                filled = 0
            filled += size
    return starts


def read_table(unit: Unit, stream: BufferedIOBase, settings: ReadSettings) -> Iterator[Document | BadRecord]:
    """The texts of a unit's row groups, named by the number of their row.

    Args:
        unit: the part of the table.
        stream: the file, open.
        settings: how to read it.

    Raises:
        UserError: ``pyarrow`` is not installed.
        OSError: the file cannot be read.
    """
    try:
        field = _find_column(_open(unit.path, stream).schema_arrow, settings.text_field)
        table = _open(unit.path, stream, [field])
    except BadRecordError as error:
        if unit.start == 0:  # else the first part of the file has said it
            yield BadRecord(str(unit.path), str(error))
        return
    rows = [table.metadata.row_group(group).num_rows for group in range(table.metadata.num_row_groups)]
    before = [0, *accumulate(rows)]
    for group in range(unit.start, len(rows) if unit.end is None else unit.end):
        number = before[group]
        texts = _read_group(table, group, field, settings.max_document_bytes)
        while True:
            number += 1
            try:
                data = next(texts, ...)
            except BadRecordError as error:
                yield BadRecord(f"{unit.path}:{number}", str(error))
                break
            if data is ...:
                break
            try:
                if data is None:
                    raise BadRecordError(f"column '{field}' is empty (null)")
                settings.check_size(len(data))
                text = decode(data)
            except BadRecordError as error:
                yield BadRecord(f"{unit.path}:{number}", str(error), (data or b"")[:EXCERPT_BYTES])
            else:
                yield Document(f"{unit.name}:{number}", text)


def _open(path: Path, stream: BufferedIOBase, dictionaries: Sequence[str] = ()) -> Any:
    """A table; columns of ``dictionaries`` are read with each different value once, as they are mostly stored."""
    try:
        arrow = importlib.import_module("pyarrow")
        tables = importlib.import_module("pyarrow.parquet")
    except ImportError as error:
        raise UserError(f"{path}: a Parquet file needs the library: pip install 'isogloss[parquet]'") from error
    try:
        return tables.ParquetFile(
            stream,
            read_dictionary=list(dictionaries),
            buffer_size=BUFFER_BYTES,
            pre_buffer=False,
            page_checksum_verification=True,
        )
    except (arrow.ArrowException, OSError) as error:
        raise _explain(error, "no Parquet file, or truncated or damaged") from error


def _find_column(schema: Any, text_field: str | None) -> str:
    types = importlib.import_module("pyarrow").types
    field = find_field(schema.names, text_field)
    if (n := schema.names.count(field)) > 1:
        raise BadRecordError(f"column '{field}' is given {n} times: rename all but one of them")
    kind = schema.field(field).type
    value = kind.value_type if types.is_dictionary(kind) else kind
    texts = (types.is_string, types.is_large_string, types.is_string_view)
    if not any(matches(value) for matches in (*texts, types.is_binary, types.is_large_binary, types.is_binary_view)):
        raise BadRecordError(f"column '{field}' is not text but {kind}")
    return field


def _read_group(table: Any, group: int, field: str, max_document_bytes: int) -> Iterator[bytes | None]:
    arrow = importlib.import_module("pyarrow")
    metadata = table.metadata.row_group(group)
    columns = [metadata.column(i) for i in range(metadata.num_columns)]
    for column in columns:
        large, small = column.total_uncompressed_size, column.total_compressed_size
        if column.path_in_schema == field and large > max(MAX_RATIO * small, 8 * max_document_bytes):
            raise BadRecordError(
                f"row group {group} would be {large:,} bytes from {small:,}: damaged, or made to fill the memory; "
                "it is not read"
            )
    n_rows = max(1, min(BATCH_ROWS, BATCH_BYTES * metadata.num_rows // max(1, metadata.total_byte_size)))
    try:
        for batch in table.iter_batches(n_rows, row_groups=[group], columns=[field], use_threads=False):
            # A column of a struct that is written alike, doc.text, comes along with one of that name.
            values = batch.column(batch.schema.get_field_index(field))
            if not arrow.types.is_dictionary(values.type):
                yield from values.cast(arrow.large_binary()).to_pylist()
                continue
            # One at a time: many rows may hold one long value.
            different = values.dictionary.cast(arrow.large_binary())
            yield from (None if i is None else different[i].as_py() for i in values.indices.to_pylist())
    except (arrow.ArrowException, OSError) as error:
        raise _explain(error, f"damaged Parquet data; the rest of row group {group} is lost") from error


def _explain(error: Exception, what: str) -> BadRecordError:
    """What pyarrow found; an error of the system's own bears a number and is no matter of the content."""
    if isinstance(error, OSError) and error.errno is not None:
        raise error
    return BadRecordError(f"{what} ({' '.join(str(error).split())})")
