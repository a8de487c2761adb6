"""JSON is recognised by its content under any of its endings; tables by their header; text is text."""

import gzip
import json
from collections.abc import Callable

import pytest
import zstandard

from isogloss.config.base import UserError
from isogloss.data.sources import (
    BadRecord,
    Document,
    Dropped,
    ReadSettings,
    Suspicion,
    list_inputs,
    list_units,
    read_documents,
    read_unit,
)
from isogloss.data.sources.formats import recognise_json

TEXTS = ["one, [two] {three}", 'a "quote" \\ and\na line', "é 😀", "]}{["]
RECORDS = [{"id": i, "text": text, "more": {"a": [1, {"b": "]"}]}} for i, text in enumerate(TEXTS)]
FORMS: dict[str, Callable[[list[dict]], str]] = {
    "lines": lambda records: "\n".join(map(json.dumps, records)),
    "array": json.dumps,
    "indented array": lambda records: json.dumps(records, indent=2, ensure_ascii=False),
    "array, an item a line": lambda records: "[\n" + ",\n".join(map(json.dumps, records)) + "\n]\n",
    "objects over several lines": lambda records: "\n".join(json.dumps(record, indent=1) for record in records),
}


def read(path, **settings) -> list:
    how = ReadSettings(**settings)
    return [record for unit in list_units([path], 1 << 20, how) for record in read_unit(unit, how)]


def texts_of(path, **settings) -> list[str]:
    return [record.text for record in read(path, **settings) if isinstance(record, Document)]


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("ending", [".json", ".JSON", ".ndjson", ".jsonl", ".json.gz", ".ndjson.zst"])
def test_records_are_read_under_any_ending_named_globbed_or_in_a_folder(tmp_path, form, ending):
    data = FORMS[form](RECORDS).encode()
    compress = {".gz": gzip.compress, ".zst": zstandard.ZstdCompressor().compress}.get(
        ending[-3:] if ending[-3:] == ".gz" else ending[-4:], bytes
    )
    path = tmp_path / f"a{ending}"
    path.write_bytes(compress(data))
    for named in (path, tmp_path, f"{tmp_path}/*"):
        assert texts_of(named) == TEXTS


def test_a_single_object_is_a_record(tmp_path):
    for number, data in enumerate(
        ['{"text": "a"}', '{\n  "text": "a",\n  "n": [1,\n 2]\n}\n', '\ufeff[{"text": "a"}]']
    ):
        path = tmp_path / f"{number}.json"
        path.write_text(data)
        assert texts_of(path) == ["a"]


@pytest.mark.parametrize(
    ("head", "kind"),
    [
        ('{"text": "cut sho\n{"text": "b"}', "lines"),
        ('{"text": "a"\n{"text": "b"}', "lines"),
        ('["text"]\n["text"]\n', "lines"),
        ("[broken\n", "lines"),
        ("", "lines"),
        ('{"text": "' + "x" * 70_000, "lines"),
        ('[{"text": "' + "x" * 70_000, "array"),
        ('{\n"text": "' + "x" * 70_000, "values"),
        ("[]", "array"),
        ('  \n[ {"a"', "array"),
    ],
)
def test_what_a_head_is_taken_for(head, kind):
    assert recognise_json(head.encode()) == kind


def test_broken_records_of_an_array_are_named_and_the_others_read(tmp_path):
    path = tmp_path / "a.json"
    path.write_text(
        '[{"text": "a"}, {"text": }, {"body": "x"}, "text", {"text": ""}, {"text": "%s"}, {"text": "b"},]' % ("x" * 99)
    )
    records = read(path, max_document_bytes=60)
    assert texts_of(path, max_document_bytes=60) == ["a", "b"]
    assert [record.where for record in records if isinstance(record, BadRecord)] == [
        f"{path}:{n}" for n in (2, 3, 4, 6, 8)
    ]
    assert [record for record in records if isinstance(record, Dropped)] == [Dropped("a.json:5", "empty")]


@pytest.mark.parametrize(
    ("end", "why"), [("", "does not end"), ("] tail", "text after the end"), (", {", "does not end")]
)
def test_an_array_that_does_not_end_or_goes_on_is_said(tmp_path, end, why):
    path = tmp_path / "a.json"
    path.write_text('[{"text": "a"}, {"text": "b"}' + end)
    assert texts_of(path) in (["a"], ["a", "b"])
    (bad,) = [record for record in read(path) if isinstance(record, BadRecord)]
    assert why in bad.why


def test_a_folders_files_without_the_field_are_passed_over_and_named_ones_refused(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"text": "a"}\n')
    (tmp_path / "card.json").write_text(json.dumps({"licence": "x"}, indent=1))
    (tmp_path / "list.json").write_text("[1, 2]")
    (tmp_path / "labels.csv").write_text("id,label\n1,x\n")
    listing = list_inputs([tmp_path])
    assert [unit.name for unit in listing.units] == ["a.jsonl"]
    assert {reason: tally.n for reason, tally in listing.passed_over.items()} == {
        "with the ending .json and no field 'text' or 'content'": 2,
        "with the ending .csv and no field 'text' or 'content'": 1,
    }
    (bad,) = read(tmp_path / "card.json")
    assert "no field 'text' or 'content' (it has 'licence')" in bad.why
    assert texts_of(tmp_path, text_field="label") == ["x"]  # its own field is looked for
    (tmp_path / "a.jsonl").unlink()
    with pytest.raises(UserError, match=r"no file there is read .*labels\.csv: with the ending \.csv and no field"):
        list_inputs([tmp_path])


@pytest.mark.parametrize("separator", ["<|endoftext|>", "\n\n\n", "\n", "====="])
@pytest.mark.parametrize("compression", ["", ".gz"])
def test_a_separator_cuts_text_files_into_documents(tmp_path, separator, compression):
    path = tmp_path / f"a.txt{compression}"
    texts = ["once upon", "a time é", "x" * 200_000, "end"]
    around = "" if separator.startswith("\n") else "\n"
    data = f"{around}{separator}{around}".join(texts).encode() + f"{around}{separator}\n".encode()
    path.write_bytes(gzip.compress(data) if compression else data)
    assert read(path, separator=separator) == [Document(f"{path.name}:{n}", text) for n, text in enumerate(texts, 1)]
    (bad,) = [r for r in read(path, separator=separator, max_document_bytes=100_000) if isinstance(r, BadRecord)]
    assert bad.where == f"{path}:3"


def test_separated_documents_keep_all_but_one_line_break_on_each_side(tmp_path):
    path = tmp_path / "a.txt"
    path.write_bytes("\ufeff<s>\r\na\r\n\r\n<s>\n\n b \n<s><s>c".encode())
    assert read(path, separator="<s>") == [
        Document("a.txt:1", "a\r\n"),
        Document("a.txt:2", "\n b "),
        Dropped("a.txt:3", "empty"),
        Document("a.txt:4", "c"),
    ]


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be", "cp1252"])
@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("a.txt", "héllo\nthere"),
        ("a.jsonl", '{"text": "héllo\\nthere"}\n'),
        ("a.json", '[{"text":\n "héllo\\nthere"}]'),
        ("a.csv", 'n,text\n1,"héllo\nthere"\n'),
    ],
)
def test_an_encoding_is_read(tmp_path, encoding, name, data):
    path = tmp_path / name
    path.write_bytes(data.encode(encoding))
    assert texts_of(path, encoding=encoding) == ["héllo\nthere"]
    if encoding != "cp1252":
        (bad,) = read(path)
        assert "data.encoding=utf-16" in bad.why


def test_bytes_that_are_not_of_the_encoding_are_said(tmp_path):
    path = tmp_path / "a.txt"
    path.write_bytes("héllo".encode("utf-16-le") + b"\0")
    (bad,) = read(path, encoding="utf-16-le")
    assert "not utf-16-le (truncated data)" in bad.why


@pytest.mark.parametrize(
    ("magic", "hint"), [(b"\x1f\x8b\x08", "ends in .gz"), (b"PK\x03\x04\xff", "zip"), (b"\xff\xfea\0", "utf-16")]
)
def test_what_is_no_text_is_told_by_its_first_bytes(tmp_path, magic, hint):
    (tmp_path / "a.txt").write_bytes(magic + b"\xff")
    (bad,) = read(tmp_path / "a.txt")
    assert hint in bad.why


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("a\0b", "with NUL characters"),
        ("caf\ufffd", "with replacement characters (U+FFFD)"),
        ("a\n<|endoftext|>\nb", "with '<|endoftext|>' inside"),
        ("a</s>\nb", "with '</s>' inside"),
        ('{"text": "a"}\n{"text": "b"}\n', "that looks like raw JSON"),
        ('[\n {"text": "a"}\n]', "that looks like raw JSON"),
        ('{"text": "' + "a" * 70_000 + '"}', "that looks like raw JSON"),
    ],
)
def test_odd_text_is_named_and_read(tmp_path, text, what):
    path = tmp_path / "a.txt"
    path.write_text(text)
    assert read(path) == [Suspicion(str(path), what), Document("a.txt", text)]


@pytest.mark.parametrize(
    "text", ["{ a set }", "[1, 2]", "a <s>struck</s> word", "{% if %}", "[link](x)", "if (a < b) {"]
)
def test_ordinary_text_is_not_odd(tmp_path, text):
    (tmp_path / "a.txt").write_text(text)
    assert read(tmp_path / "a.txt") == [Document("a.txt", text)]


def test_the_format_may_be_said(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text('{"text": "a"}\n{"text": "b"}\n')
    assert texts_of(path, format="json") == ["a", "b"]
    path = path.rename(tmp_path / "a.json")
    assert texts_of(path, format="text") == [path.read_text()]


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("a.csv", 'id,text\r\n1,"a, ""b""\r\nc"\r\n\r\n2,d\r\n'),
        ("a.TSV", 'text\tid\n"a, ""b""\r\nc"\t1\nd\t2'),
        ("a.csv", '\ufefftext;id\n"a, ""b""\r\nc";1\nd;2\n'),
        ("a.csv.gz", 'id,content\n1,"a, ""b""\r\nc"\n2,d\n'),
    ],
)
def test_a_table_is_read_by_its_header(tmp_path, name, data):
    path = tmp_path / name
    path.write_bytes(gzip.compress(data.encode()) if name.endswith("gz") else data.encode())
    assert texts_of(path) == texts_of(tmp_path) == ['a, "b"\r\nc', "d"]


def test_bad_rows_are_named_by_their_line(tmp_path):
    path = tmp_path / "a.csv"
    path.write_bytes(b'id,text\n1,a\n2\n3,"caf\xe9"\n4,"x"y\n5,\n6,"b\nb"\n7,"open\n8,c\n')
    records = read(path)
    assert [record.text for record in records if isinstance(record, Document)] == ["a", "b\nb"]
    bad = [(record.where.removeprefix(str(path)), record.why) for record in records if isinstance(record, BadRecord)]
    assert [where for where, _ in bad] == [":3", ":4", ":5", ":9"]
    for (_, why), part in zip(
        bad, ["has 1 columns, the header 2", "not UTF-8", "not CSV", "not closed; the rest"], strict=True
    ):
        assert part in why
    assert Dropped("a.csv:6", "empty") in records


@pytest.mark.parametrize(
    ("header", "why"),
    [
        ("id,body", "no field 'text' or 'content' (it has 'id', 'body')"),
        ("text,text", "column 'text' is given 2 times"),
    ],
)
def test_a_table_without_the_column_is_said(tmp_path, header, why):
    (tmp_path / "a.csv").write_text(f"{header}\nx,y\n")
    (bad,) = read(tmp_path / "a.csv")
    assert why in bad.why
    assert "data.text_field" in bad.why
    (tmp_path / "b.csv").write_text("")
    assert read(tmp_path / "b.csv") == []


def test_read_documents_leaves_out_what_preparing_does(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"text": ""}\n{"text": "a"}\n')
    assert list(read_documents([tmp_path])) == [Document("a.jsonl:2", "a")]
