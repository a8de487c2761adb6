import gzip
import io
import json
import os
import sys
from pathlib import Path

import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from isogloss.config.base import UserError
from isogloss.data.sources import BadRecord, Document, Dropped, ReadSettings, Unit, list_units, read_unit

LINE = st.one_of(
    st.text(st.characters(exclude_categories=["Cs"]), max_size=8).map(lambda text: json.dumps({"text": text})),
    st.sampled_from(["", " ", "\r", "{}", "broken", '{"text": "é"}', json.dumps({"text": "x" * 60})]),
)
LINES = st.lists(LINE, max_size=8)
SETTINGS = ReadSettings(max_document_bytes=50)


def read(units: list[Unit]) -> list[Document | BadRecord | Dropped]:
    return [record for unit in units for record in read_unit(unit, SETTINGS)]


def nameless(records: list[Document | BadRecord | Dropped]) -> list:
    """All but the names of documents, which in the midst of a file tell the byte."""
    return [
        record.text if isinstance(record, Document) else record.reason if isinstance(record, Dropped) else record
        for record in records
    ]


@settings(deadline=None, max_examples=50)
@given(LINES, st.sampled_from(["", "\n"]), st.integers(1, 150))
def test_units_cut_anywhere_give_the_records_of_the_whole_file(tmp_path_factory, lines, end, unit_bytes):
    path = tmp_path_factory.mktemp("units") / "a.jsonl"
    path.write_text("\n".join(lines) + end)
    whole, cut = list_units([path], sys.maxsize), list_units([path], unit_bytes)
    assert len(cut) == max(1, -(-path.stat().st_size // unit_bytes))
    assert nameless(read(cut)) == nameless(read(whole))


@settings(deadline=None, max_examples=50)
@given(LINES, st.sampled_from([".gz", ".zst"]))
def test_compressed_files_give_the_records_of_the_plain_one(tmp_path_factory, lines, compression):
    folder = tmp_path_factory.mktemp("compressed")
    data = "\n".join(lines).encode()
    (folder / "a.jsonl").write_bytes(data)
    packed = folder / f"a.jsonl{compression}"
    packed.write_bytes(gzip.compress(data) if compression == ".gz" else zstandard.ZstdCompressor().compress(data))
    plain = [
        BadRecord(r.where.replace("a.jsonl", packed.name), r.why, r.excerpt) if isinstance(r, BadRecord) else r
        for r in read(list_units([folder / "a.jsonl"]))
    ]
    assert nameless(read(list_units([packed]))) == nameless(plain)


def test_documents_within_a_part_are_named_by_their_byte_and_bad_ones_by_their_line(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text('{"text": "a"}\n{"text": ""}\n{"text": "b"}\nbroken\n{"text": "c"}\n')
    first, second = list_units([path], 32)
    assert (first.start, first.end, second.start, second.end) == (0, 32, 32, None)
    assert read([first]) == [Document("a.jsonl:1", "a"), Dropped("a.jsonl:2", "empty"), Document("a.jsonl:3", "b")]
    bad, last = read([second])
    assert bad == BadRecord(f"{path}:4", "not JSON: Expecting value at column 1", b"broken")
    assert last == Document("a.jsonl@48", "c")
    assert path.read_bytes()[48:].startswith(b'{"text": "c"}')


def test_only_a_bad_record_has_the_lines_before_it_counted(tmp_path, monkeypatch):
    path = tmp_path / "a.jsonl"
    path.write_text('{"text": "a"}\n' * 1000)
    *_, last = list_units([path], 5000)
    opened = []
    real_open = Path.open
    monkeypatch.setattr(Path, "open", lambda self, *arguments: opened.append(self) or real_open(self, *arguments))
    assert len(read([last])) == 1000 - -(-10_000 // 14)
    assert len(opened) == 1


def test_a_line_longer_than_many_units_is_read_twice_and_not_by_each(tmp_path, monkeypatch):
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'{"text": "a"}\n' + b"x" * (16 << 20) + b'\n{"text": "b"}\n')
    units = list_units([path], 1 << 18)
    sizes = []

    class Counted(io.BufferedReader):
        def read(self, size):
            sizes.append(size)
            return super().read(size)

    real_open = Path.open
    monkeypatch.setattr(Path, "open", lambda self, mode: Counted(real_open(self, mode, buffering=0)))
    first, bad, last = read(units)
    assert (first.text, bad.where, last.text) == ("a", f"{path}:2", "b")
    assert sum(sizes) < 2.5 * path.stat().st_size


def test_the_order_and_the_facts_of_units(tmp_path):
    for name, size in {"b.txt": 100, "a.jsonl": 100, "c.jsonl.gz": 100, "d.jsonl": 0}.items():
        (tmp_path / name).write_bytes(bytes(size))
    os.utime(tmp_path / "a.jsonl", ns=(5, 7))
    units = list_units([tmp_path / "b.txt", tmp_path], 60)
    assert [(unit.name, unit.start, unit.end, unit.size) for unit in units] == [
        ("b.txt", 0, None, 100),
        ("a.jsonl", 0, 60, 100),
        ("a.jsonl", 60, None, 100),
        ("c.jsonl.gz", 0, None, 100),
        ("d.jsonl", 0, None, 0),
    ]
    assert units[1].mtime_ns == 7
    assert units[1].path == tmp_path / "a.jsonl"


def test_what_may_not_be_read_is_named_before_the_work_begins(tmp_path, monkeypatch):
    (tmp_path / "a.txt").write_text("x")

    def deny(self, mode):
        raise PermissionError(13, "Permission denied", str(self))

    monkeypatch.setattr(Path, "open", deny)
    with pytest.raises(UserError, match=r"a\.txt: cannot be read \(Permission denied\); mend that"):
        list_units([tmp_path])


def test_what_cannot_be_listed(tmp_path):
    (tmp_path / "a.parquet.gz").write_bytes(b"x")
    with pytest.raises(UserError, match="decompress it"):
        list_units([tmp_path / "a.parquet.gz"])
    with pytest.raises(UserError, match="standard input"):
        list_units(["-"])
