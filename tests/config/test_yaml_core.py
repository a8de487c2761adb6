"""YAML 1.2 core schema: what each scalar means, what is refused, and that what is written reads back."""

import json
import math

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from isogloss.config.yaml import MAX_VALUES, YamlError, read_value, read_yaml, resolve, write_value, write_yaml

# From the YAML 1.2.2 specification, section 10.3.2, and the cases in which YAML 1.1 differs.
SCALARS = {
    "": None,
    "null": None,
    "~": None,
    "NULL": None,
    "true": True,
    "False": False,
    "on": "on",
    "yes": "yes",
    "n": "n",
    "0": 0,
    "010": 10,
    "-19": -19,
    "+3": 3,
    "0o7": 7,
    "0x3A": 58,
    "-0x3A": "-0x3A",
    "1_000": "1_000",
    "1:30": "1:30",
    "3e-4": 3e-4,
    "1E5": 1e5,
    "0.": 0.0,
    ".5": 0.5,
    "+12e03": 12000.0,
    "-2E+05": -200000.0,
    ".": ".",
    "1e": "1e",
    ".inf": math.inf,
    "-.INF": -math.inf,
    "nan": "nan",
    "inf": "inf",
    "2001-12-14": "2001-12-14",
    "\u0661": "\u0661",
}


@pytest.mark.parametrize(("text", "value"), SCALARS.items())
def test_resolves_scalars_by_the_core_schema(text, value):
    for read in (resolve(text), read_yaml(f"x: {text}").data["x"]):
        assert read == value
        assert type(read) is type(value)


def test_resolves_nan():
    assert math.isnan(resolve(".NaN"))


def test_quoted_scalars_are_text():
    assert read_yaml("a: '1'\nb: \"true\"\nc: !!str 3e-4\nd: !!float 3").data == {
        "a": "1",
        "b": "true",
        "c": "3e-4",
        "d": 3.0,
    }


def test_keys_are_text_as_written():
    assert read_yaml("010: a\non: b\n~: c").data == {"010": "a", "on": "b", "~": "c"}


def test_tells_the_line_of_every_key_and_item():
    document = read_yaml("a:\n  b: 1\n\n  c:\n  - 5\n  - x: 6\nd: {e: 7}\n")
    assert document.lines == {
        (): 1, ("a",): 1, ("a", "b"): 2, ("a", "c"): 4, ("a", "c", 0): 5, ("a", "c", 1): 6, ("a", "c", 1, "x"): 6,
        ("d",): 7, ("d", "e"): 7,
    }  # fmt: skip


def test_a_key_given_twice_leaves_no_lines_of_the_first():
    assert read_yaml("a: [1, 2]\na:\n- x").lines == {(): 1, ("a",): 2, ("a", 0): 3}


def test_aliases_are_written_out_as_separate_values():
    data = read_yaml("a: &x {b: 1}\nc: *x").data
    data["a"]["b"] = 2
    assert data["c"] == {"b": 1}


@pytest.mark.parametrize(
    ("text", "path", "line", "what"),
    [
        ("a: 1\nb: 2\na: 3", ("a",), 3, "given twice; the first is on line 1"),
        ("a:\n  b: !!python/object:os.system 1", ("a", "b"), 2, "!!python/object:os.system"),
        ("a: !mine [1]", ("a",), 1, "!mine"),
        ("a: !!set {x}", ("a",), 1, "!!set"),
        ("a: !!int x", ("a",), 1, "cannot be read as !!int"),
        ("b: &b {c: 1}\na:\n  <<: *b", ("a", "<<"), 3, "merging"),
        ("? [1]\n: 2", (), 1, "a key must be one word"),
        (f"a: {'9' * 5000}", ("a",), 1, "too large"),
        (f"a: 0x{'f' * 900}", ("a",), 1, "too large"),
        (r'a: "\ud800"', ("a",), 1, "half a character"),
        (r'"\ud800": 1', (), 1, "half a character"),
    ],
)
def test_refuses_but_reads_on(text, path, line, what):
    ((found_path, found_line, found_what),) = read_yaml(text).problems
    assert (found_path, found_line) == (path, line)
    assert what in found_what


@pytest.mark.parametrize(
    ("text", "line", "what"),
    [
        ("a: 1\n--- \nb: 2", 2, "second document"),
        ("a:\n\tb: 1", 2, "tabs"),
        ("a: [1", 1, "not valid YAML"),
        ("a: 1\nb: c: d", 2, "not valid YAML"),
        ("a: *b", 1, "undefined alias"),
        ("x: 1\na: &a [*a]", 2, "nested deeper"),
        ("[" * 60 + "]" * 60, 1, "nested deeper"),
        ("[" * 5000, 1, "nested deeper"),
        ("a: 1\nb: \x07", 2, "not valid YAML"),
        (r'a: "\UFFFFFFFF"', 1, "not valid YAML"),
        ("a: &a [" + "1," * 200 + "]\nb: &b [" + "*a," * 200 + "]", 1, f"more than {MAX_VALUES}"),
    ],
)
def test_refuses_the_whole_text(text, line, what):
    with pytest.raises(YamlError, match=what) as caught:
        read_yaml(text)
    assert caught.value.line == line


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("", ""), ("null", None), (" 3 ", 3), ("3e-4", 3e-4), ("a: b # c", "a: b # c"),
        ("*.txt", "*.txt"),
        ("- a", "- a"), ("'3'", "3"), ("[1, x]", [1, "x"]),
        ("{type: linear, warmup: 10}", {"type": "linear", "warmup": 10}),
    ],
)  # fmt: skip
def test_reads_override_values(text, value):
    assert read_value(text).data == value


# Each is JSON; PyYAML alone refuses it or reads it as something else.
JSON = [
    r'["\ud83d\ude00"]',
    r'{"\ud83d\ude00": 1}',
    r'["\ud83d\ude00\n", "\u2028", "\/"]',
    '{\t"a":\t1,\n\t"b": [2]\n}',
    '["\x7f", "\x85", "a\x85 b", "\u2028x\u2029", "\ufffe"]',
    '{"a": "né 😀 → 中"}',
    '"😀"',
    '{"a":"b:c #d"}',
]


@pytest.mark.parametrize("text", JSON)
def test_json_is_yaml(text):
    assert read_yaml(text).problems == []
    assert read_yaml(text).data == read_value(text).data == json.loads(text)
    if text[0] == "{":
        assert read_yaml(f"\n{text}").lines[(next(iter(json.loads(text))),)] == 2


@settings(deadline=None, max_examples=60)
@given(st.recursive(st.text() | st.integers() | st.none(), lambda inner: st.lists(inner, max_size=4), max_leaves=8))
def test_any_json_is_yaml(data):
    data = [json.loads(json.dumps(data).encode("utf-8", "surrogatepass"))]
    for ascii_only in (True, False):
        text = json.dumps(data, ensure_ascii=ascii_only)
        document = read_yaml(text)
        assert document.data == data or document.problems, text  # half a character is refused
        assert bool(document.problems) == any("\ud800" <= c <= "\udfff" for c in json.dumps(data, ensure_ascii=False))


@pytest.mark.parametrize("text", [r'"\ud83d"', r'"\ude00\ud83d"', r'["a", "\ud83d x"]', r'{"\ud83d": 1}'])
def test_half_a_character_is_refused(text):
    assert "half a character" in read_yaml(text).problems[0][2]


scalars = (
    st.none() | st.booleans() | st.integers(-(10**300), 10**300) | st.floats(allow_nan=False)
    | st.sampled_from([*SCALARS]) | st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
)  # fmt: skip
keys = st.text(st.characters(exclude_categories=["Cs"]), max_size=6).filter(lambda key: key != "<<")
values = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(keys, inner, max_size=4), max_leaves=8
)


@settings(deadline=None, max_examples=60)
@given(st.dictionaries(keys, values, max_size=4))
@example({"a": "x\n y\r\x85z", "b": "\ufeff", "c": 1e16, "d": 5e-324, "e": -0.0, "on": "on", "": ""})
def test_what_is_written_reads_back(data):
    for text in (write_yaml(data), write_value(data)):
        document = read_yaml(text)
        assert document.problems == []
        assert repr(document.data) == repr(data)
