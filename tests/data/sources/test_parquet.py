import sys

import pytest

from isogloss.config.base import UserError
from isogloss.data.sources import BadRecord, Document, Dropped, ReadSettings, list_units, read_documents, read_unit

pa = pytest.importorskip("pyarrow")
tables = pytest.importorskip("pyarrow.parquet")


def write(path, texts, name="text", **options):
    tables.write_table(pa.table({"n": list(range(len(texts))), name: texts}), path, **options)
    return path


def read(path, unit_bytes=1 << 30, **settings):
    return [record for unit in list_units([path], unit_bytes) for record in read_unit(unit, ReadSettings(**settings))]


@pytest.mark.parametrize("kind", ["string", "large_string", "binary", "dictionary"])
def test_rows_are_documents_named_by_their_number(tmp_path, kind):
    texts = pa.array(["a", "é\n", "", "a"])
    texts = texts.dictionary_encode() if kind == "dictionary" else texts.cast(getattr(pa, kind)())
    path = write(tmp_path / "a.parquet", texts)
    assert read(path) == [
        Document("a.parquet:1", "a"),
        Document("a.parquet:2", "é\n"),
        Dropped("a.parquet:3", "empty"),
        Document("a.parquet:4", "a"),
    ]
    assert [document.text for document in read_documents([tmp_path])] == ["a", "é\n", "a"]


def test_units_are_row_groups_and_give_the_records_of_the_whole_file(tmp_path):
    path = write(tmp_path / "a.parquet", [str(i) * 50 for i in range(1000)], row_group_size=30, use_dictionary=False)
    whole = read(path)
    assert len(whole) == 1000
    for unit_bytes in (1, 20_000, 100_000):
        assert read(path, unit_bytes) == whole
    assert len(list_units([path], 1)) == 34
    assert 5 < len(list_units([path], 20_000)) < 20


def test_the_column_is_the_users(tmp_path):
    path = write(tmp_path / "a.parquet", ["a"], name="body")
    assert read(path, text_field="body") == [Document("a.parquet:1", "a")]
    assert read(path) == [BadRecord(str(path), "no field 'text' or 'content' (it has 'n', 'body')")]
    assert read(path, text_field="n") == [BadRecord(str(path), "column 'n' is not text but int64")]


def test_a_file_without_the_column_is_reported_once(tmp_path):
    path = write(tmp_path / "a.parquet", ["a" * 100] * 100, name="body", row_group_size=10)
    assert len(list_units([path], 1)) == 10
    assert len(read(path, 1)) == 1


def test_bad_rows_are_named_and_the_others_read(tmp_path):
    texts = pa.array([b"a", b"caf\xe9", None, b"b", b"x" * 1000, b"c"])
    path = write(tmp_path / "a.parquet", texts, row_group_size=4)
    good = [record.text for record in read(path, max_document_bytes=999) if isinstance(record, Document)]
    bad = [record for record in read(path, max_document_bytes=999) if isinstance(record, BadRecord)]
    assert good == ["a", "b", "c"]
    assert [record.where for record in bad] == [f"{path}:2", f"{path}:3", f"{path}:5"]
    assert [record.excerpt for record in bad] == [b"caf\xe9", b"", b"x" * 200]
    for record, why in zip(bad, ["not UTF-8: byte 0xe9", "column 'text' is empty (null)", "1,000 bytes"], strict=True):
        assert why in record.why


def test_a_truncated_file_is_one_bad_record(tmp_path):
    path = write(tmp_path / "a.parquet", ["a"] * 100)
    data = path.read_bytes()
    for content in (data[: len(data) // 2], data[:-1], b"", b"no table at all"):
        path.write_bytes(content)
        (record,) = read(path)
        assert record.where == str(path)
        assert record.why.startswith("no Parquet file, or truncated or damaged (")


def test_a_damaged_row_group_is_one_bad_record_and_the_others_are_read(tmp_path):
    options = {"row_group_size": 10, "use_dictionary": False, "compression": "none", "write_page_checksum": True}
    path = write(tmp_path / "a.parquet", [f"text {i:04}" for i in range(30)], **options)
    data = bytearray(path.read_bytes())
    place = data.rindex(b"text 0015", 0, data.index(b"text 0020"))
    data[place] ^= 1
    path.write_bytes(data)
    records = read(path)
    bad = [record for record in records if isinstance(record, BadRecord)]
    assert [record.where for record in bad] == [f"{path}:11"]
    assert bad[0].why.startswith("damaged Parquet data; the rest of row group 1 is lost (")
    texts = [record.text for record in records if isinstance(record, Document)]
    assert texts == [f"text {i:04}" for i in range(30) if not 10 <= i < 20]


def test_without_the_library_the_message_says_what_to_install(tmp_path, monkeypatch):
    path = write(tmp_path / "a.parquet", ["a"])
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(UserError, match=r"a\.parquet: .* pip install 'isogloss\[parquet\]'"):
        list_units([path])


@pytest.mark.parametrize("text_field", [None, "n"])
def test_two_columns_of_the_texts_name_are_named(tmp_path, text_field):
    names = ["text", "text"] if text_field is None else ["text", "n", "n"]
    path = tmp_path / "a.parquet"
    tables.write_table(pa.Table.from_arrays([pa.array(["a"]) for _ in names], names=names), path)
    column = text_field or "text"
    assert read(path, text_field=text_field) == [
        BadRecord(str(path), f"column '{column}' is given 2 times: rename all but one of them")
    ]


def test_other_columns_may_have_one_name_and_a_dot(tmp_path):
    path = tmp_path / "a.parquet"
    columns = {"doc": pa.array([{"text": "inner"}]), "n": pa.array([1]), "doc.text": pa.array(["outer"])}
    table = pa.Table.from_arrays([*columns.values(), pa.array([2])], names=[*columns, "n"])
    tables.write_table(table, path)
    assert read(path, text_field="doc.text") == [Document("a.parquet:1", "outer")]
    assert read(path, text_field="doc") == [BadRecord(str(path), "column 'doc' is not text but struct<text: string>")]


def test_a_table_without_rows_or_columns(tmp_path):
    tables.write_table(pa.table({"text": pa.array([], pa.string())}), tmp_path / "rows.parquet")
    tables.write_table(pa.table({}), tmp_path / "columns.parquet")
    assert read(tmp_path / "rows.parquet") == []
    (record,) = read(tmp_path / "columns.parquet")
    assert record.why == "no field 'text' or 'content' (it has nothing)"
