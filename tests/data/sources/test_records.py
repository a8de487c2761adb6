import pytest

from isogloss.data.sources.records import BadRecordError, parse_line

BAD_LINES = {
    "broken": (b'{"text": "a"', "not JSON"),
    "nested": (b'{"text": "a", "x": ' + b"[" * 200_000 + b"]" * 200_000 + b"}", "nested too deeply"),
    "huge integer": (b'{"text": "a", "n": ' + b"7" * 5000 + b"}", "cannot be read"),
    "not a number": (b'{"text": "a", "n": NaN}', "NaN is no JSON value"),
    "infinity": (b'{"text": "a", "n": [-Infinity]}', "-Infinity is no JSON value"),
    "no field": (b'{"body": "a"}', "no field 'text' or 'content' (it has 'body')"),
    "empty object": (b"{}", "it has nothing"),
    "not a string": (b'{"text": 3}', "field 'text' is not a string but a int"),
    "null": (b'{"text": null}', "field 'text' is not a string but a NoneType"),
    "twice": (b'{"text": "a", "text": "b"}', "field 'text' is given twice"),
    "not an object": (b'["text"]', "not a JSON object but a list"),
    "latin-1": (b'{"text": "caf\xe9"}', "byte 0xe9 at offset 13"),
    "lone surrogate": (b'{"text": "ab\\ud800"}', "lone surrogate U+D800 at character 2"),
    "UTF-16": ('{"text": "a"}'.encode("utf-16"), "not UTF-8: byte 0xff at offset 0"),
    "two records": (b'{"text": "a"}{"text": "b"}', "not JSON: Extra data at column 14"),
}


@pytest.mark.parametrize("kind", BAD_LINES)
def test_a_bad_line_says_what_is_wrong(kind):
    line, message = BAD_LINES[kind]
    with pytest.raises(BadRecordError) as error:
        parse_line(line, None)
    assert message in str(error.value)
    assert len(str(error.value)) < 300


@pytest.mark.parametrize(
    ("line", "field", "text"),
    [
        (b'{"text": "a"}', None, "a"),
        (b'{"content": "a"}', None, "a"),
        (b'{"content": "b", "text": "a"}', None, "a"),
        (b'{"text": "b", "body": "a"}', "body", "a"),
        (b'{"n": 1, "n": 2, "x": {"text": 1, "text": 2}, "text": "a"}', None, "a"),
        (' {"text": "\\ud83d\\ude00é\\u0000"} \r'.encode(), None, "😀é\0"),
    ],
)
def test_the_text_is_taken_from_its_field(line, field, text):
    assert parse_line(line, field) == text


def test_a_field_of_the_users_is_the_only_one():
    with pytest.raises(BadRecordError, match=r"no field 'body' \(it has 'text'\)"):
        parse_line(b'{"text": "a"}', "body")
