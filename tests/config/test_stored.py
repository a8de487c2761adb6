"""What is read back from files: bounded, of its schema, and never out of its folder."""

from pathlib import Path

import pytest

from isogloss.config import stored
from isogloss.config.base import UserError
from isogloss.config.stored import Count, DamagedError, Stored, inside, parse_json, parse_stored, read_bounded


class Record(Stored):
    n: Count
    share: float = 0.0


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ('{"n": true}', "n: Input should be a valid integer"),
        ('{"n": -7}', "n: Input should be greater than or equal to 0"),
        ('{"n": 1e3}', "n: Input should be a valid integer"),
        ('{"n": "7"}', "n: Input should be a valid integer"),
        ('{"n": 9223372036854775808}', "n: Input should be less than"),
        ('{"n": ' + "7" * 5000 + "}", "out of range"),
        ('{"n": 1, "share": NaN}', "share: Input should be a finite number"),
        ('{"n": 1, "other": 2}', "other: Extra inputs are not permitted"),
        ("{}", "n: Field required"),
        ("[" * 100_000, "recursion limit"),
        ("", "EOF"),
        ("[1]", "should be an object"),
    ],
    ids=lambda text: text[:30],
)
def test_what_is_not_of_the_schema_is_named(text: str, says: str) -> None:
    with pytest.raises(DamagedError, match=f"^f.json: damaged .*{says}"):
        parse_stored(text.encode(), Record, "f.json")
    assert parse_stored(b'{"n": 7, "share": 1}', Record, "f.json") == Record(n=7, share=1.0)


@pytest.mark.parametrize(
    "name", ["", ".", "..", "../x", "a/../../b", "a/..", "/etc/passwd", "a//b", "./a", "a/", "a\\b", "C:x", "a\0"]
)
def test_a_name_stays_in_its_folder(tmp_path: Path, name: str) -> None:
    with pytest.raises(DamagedError, match="names a file outside its folder"):
        inside(tmp_path, name, links=True)
    assert inside(tmp_path, "a/b.c") == tmp_path / "a/b.c"


def test_a_link_leads_out_of_a_folder_only_where_that_is_allowed(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "alias").symlink_to("folder")
    (tmp_path / "folder/file").symlink_to("/etc/passwd")
    (tmp_path / "folder/sub").symlink_to("/etc")
    for name in ("file", "sub/passwd"):
        with pytest.raises(DamagedError, match="is a link, to /etc/passwd"):
            inside(tmp_path / "folder", name)
        assert inside(tmp_path / "folder", name, links=True).exists()
    assert inside(tmp_path / "alias", "other") == tmp_path / "alias/other", "the folder itself may be a link"


def test_a_file_is_refused_by_its_size(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"12345")
    assert read_bounded(path, 5) == b"12345"
    with pytest.raises(DamagedError, match="larger than 4 bytes"):
        read_bounded(path, 4)
    assert stored.MAX_JSON_BYTES < 1 << 30


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b'{"a": \xff}', "no UTF-8 text at byte 6"),
        (b'{"a": \n]', "not JSON from line 2, column 1"),
        (b"[" * 100_000, "nested too deeply"),
        (b"[" + b"7" * 5000 + b"]", "thousands of digits"),
    ],
    ids=["bytes", "json", "deep", "digits"],
)
def test_foreign_json_that_cannot_be_read_is_a_sentence(data: bytes, says: str) -> None:
    with pytest.raises(UserError, match=f"^f.json cannot be read: .*{says}"):
        parse_json(data, "f.json")
