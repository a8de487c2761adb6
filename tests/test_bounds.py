"""Files made to take all time or memory are refused, or read in time and memory that grow with their size."""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from isogloss.checkpoint.layout import FileFacts, Manifest, Piece, StoredTensor, _flaw
from isogloss.checkpoint.plan import plan_load
from isogloss.config.base import UserError
from isogloss.config.load import load_config
from isogloss.config.yaml import MAX_VALUES, YamlError, read_yaml
from isogloss.data.sources import read_documents
from isogloss.data.sources.records import BadRecordError, parse_line
from isogloss.data.tokenizers.bpe import BPETokenizer
from isogloss.data.tokenizers.bytes import byte_vocabulary
from isogloss.data.tokenizers.loading import load_tokenizer
from isogloss.recipe import Recipe


def count_calls(function: Callable[[], Any]) -> int:
    """Calls of Python's and of built-in functions: a measure of work that no clock is needed for."""
    count = 0

    def note(frame, event: str, argument) -> None:
        nonlocal count
        count += event in ("call", "c_call")

    sys.setprofile(note)
    try:
        function()
    finally:
        sys.setprofile(None)
    return count


def grows(make: Callable[[int], Callable[[], Any]], n: int) -> float:
    """How many times the work grows where the size grows fourfold: 4 if it is linear, 16 if it is quadratic."""
    return count_calls(make(4 * n)) / count_calls(make(n))


class Word(str):
    """Text that counts how often it is compared."""

    __slots__ = ()
    compared = 0

    def __eq__(self, other: object) -> bool:
        Word.compared += 1
        return str.__eq__(self, other)

    __hash__ = str.__hash__


def test_repeated_keys_of_a_json_object_are_found_in_linear_time() -> None:
    from isogloss.data.sources.records import _build_object

    built = _build_object([(Word(f"key {i % 2999}"), 1) for i in range(3000)])
    assert built.repeated == {"key 0"}  # pyright: ignore
    assert Word.compared < 50_000
    line = "{" + ",".join(f'"key {i}": 1' for i in range(3000)) + ', "text": "a", "text": "b"}'
    with pytest.raises(BadRecordError, match="'text' is given twice"):
        parse_line(line.encode(), None)


def test_repeated_and_unknown_keys_of_a_recipe_are_told_in_linear_time(tmp_path: Path) -> None:
    def of(text: str) -> Callable[[], Any]:
        path = tmp_path / "recipe.yaml"
        path.write_text(text)

        def load() -> None:
            with pytest.raises(UserError):
                load_config(Recipe, path)

        return load

    of("a: 1")()
    assert grows(lambda n: of("{" + ",".join(f"k{i}: 1" for i in range(n)) + "}"), 60) < 6
    assert grows(lambda n: lambda: read_yaml("{" + ",".join("k: [1, 2]" for _ in range(n)) + "}"), 100) < 6


def test_a_recipe_of_too_many_values_is_refused_before_it_is_built() -> None:
    with pytest.raises(YamlError, match="more than 20000 values"):
        read_yaml("[" + "1," * (2 * MAX_VALUES + 10) + "]")
    assert len(read_yaml("[" + "1," * (MAX_VALUES - 10) + "]").data) == MAX_VALUES - 10


FILE = "model.safetensors"
MANIFEST = Manifest(format=2, step=1, files={FILE: FileFacts(size=1, sha256="")})


def tensor(shape: list[int], *boxes: tuple[list[int], list[int]]) -> StoredTensor:
    pieces = [Piece(offsets=offsets, sizes=sizes, file=FILE) for offsets, sizes in boxes]
    return StoredTensor(dtype="F32", shape=shape, pieces=pieces)


@pytest.mark.parametrize(
    "stored",
    [
        tensor([], ([], [])),
        tensor([4], ([0], [4])),
        tensor([4], ([0], [1]), ([3], [1]), ([1], [2])),
        tensor([4], ([0], [4]), ([4], [0]), ([2], [0])),
        tensor([0, 3]),
        tensor([0, 3], ([0, 0], [0, 3])),
        tensor([3, 3], ([0, 0], [1, 2]), ([0, 2], [2, 1]), ([2, 1], [1, 2]), ([1, 0], [2, 1]), ([1, 1], [1, 1])),
        tensor([2, 2, 2], *(([i, j, k], [1, 1, 1]) for i in (0, 1) for j in (0, 1) for k in (0, 1))),
    ],
    ids=range(8),
)
def test_pieces_that_tile_their_tensor_are_taken(stored: StoredTensor) -> None:
    assert _flaw(stored, MANIFEST) is None
    if stored.pieces and 0 not in stored.shape:
        short = stored.model_copy(update={"pieces": [p for p in stored.pieces if 0 not in p.sizes][1:]})
        assert _flaw(short, MANIFEST) == "its pieces leave gaps, or overlap"
        twice = stored.model_copy(update={"pieces": [*stored.pieces, stored.pieces[0]]})
        assert _flaw(twice, MANIFEST) == "its pieces leave gaps, or overlap"


@pytest.mark.parametrize(
    "stored",
    [
        tensor([4], ([0], [2]), ([1], [2])),
        tensor([2, 2], ([0, 0], [1, 2]), ([0, 0], [2, 1])),
        tensor([2, 2], ([0, 0], [1, 1]), ([1, 1], [1, 1]), ([0, 0], [1, 1]), ([1, 1], [1, 1])),
        tensor([2, 4], ([0, 0], [2, 2]), ([0, 1], [2, 2])),
        tensor([3]),
    ],
    ids=range(5),
)
def test_pieces_of_the_right_volume_that_do_not_tile_are_a_flaw(stored: StoredTensor) -> None:
    assert _flaw(stored, MANIFEST) == "its pieces leave gaps, or overlap"


def test_an_index_of_many_pieces_is_checked_and_planned_in_linear_time() -> None:
    def cut(n: int) -> StoredTensor:
        return tensor([2, n], *(([0, i], [2, 1]) for i in range(n)))

    assert grows(lambda n: lambda: _flaw(cut(n), MANIFEST), 100) < 6
    assert grows(lambda n: lambda: plan_load({"w": cut(n)}, {"w": torch.empty(2, n)}), 100) < 6


def tokenizer(path: Path, change: Callable[[dict[str, Any]], Any]) -> Path:
    spec = byte_vocabulary()
    path.write_text(change(spec) or json.dumps(spec))
    return path


def nested_regex(spec: dict[str, Any]) -> None:
    pattern = "(" * 6000 + "a" + ")" * 6000
    split = {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}
    spec["pre_tokenizer"] = {"type": "Sequence", "pretokenizers": [split, spec["pre_tokenizer"]]}


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda spec: spec["added_tokens"][0].update(id=4_000_000_000), "the id 4,000,000,000 for 257 tokens"),
        (lambda spec: spec["model"]["vocab"].update(zz=4_294_967_295), "the id 4,294,967,295 for 258 tokens"),
        (lambda spec: "[" * 200_000, "nested too deeply"),
        (lambda spec: '{"a": ' + "9" * 5000 + "}", "thousands of digits"),
        (nested_regex, "parse depth limit"),
    ],
    ids=["added id", "id", "deep", "digits", "regex"],
)
def test_a_tokenizer_beyond_limits_is_a_sentence(tmp_path: Path, change, says: str) -> None:
    with pytest.raises(UserError, match=says):
        load_tokenizer(tokenizer(tmp_path / "tokenizer.json", change))


def test_a_panic_of_the_tokenizers_library_is_a_sentence(tmp_path: Path, monkeypatch) -> None:
    made = load_tokenizer(
        tokenizer(tmp_path / "tokenizer.json", lambda spec: spec["model"].update(byte_fallback=False))
    )
    assert isinstance(made, BPETokenizer)

    class PanicException(BaseException):
        """As the library's, which is no Exception."""

    class Panicking:
        def encode(self, text: str, **options: bool) -> None:
            raise PanicException("Onig: Regex search error: retry-limit-in-match over")

        encode_batch_fast = encode

    made._fast = None
    made._slow = Panicking()  # pyright: ignore
    for encode in (lambda: made.encode("a"), lambda: made.encode_batch(["a"])):
        with pytest.raises(UserError, match=r"tokenizer\.json: .*retry-limit-in-match over; mend its pre-tokenizer"):
            encode()


@pytest.mark.parametrize(
    ("line", "says"),
    [("AA== " + "9" * 5000, "not a token in base64"), ("A" * 8000 + " 1", "a token of 6,000 bytes, more than 4,096")],
    ids=["rank", "token"],
)
def test_a_ranks_file_beyond_limits_is_a_sentence(tmp_path: Path, line: str, says: str) -> None:
    path = tmp_path / "a.tiktoken"
    path.write_text(f"{line}\n")
    with pytest.raises(UserError, match=says):
        load_tokenizer(path)


def test_a_table_with_one_long_text_in_many_rows_is_read_in_the_memory_of_few(tmp_path: Path) -> None:
    arrow, tables = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    path, text = tmp_path / "a.parquet", "x" * 200_000
    tables.write_table(arrow.table({"text": [text, None, *[text] * 400]}), path, compression="zstd")
    assert path.stat().st_size < 20_000
    pool = arrow.default_memory_pool()
    before, most, n_read = pool.bytes_allocated(), 0, 0
    with pytest.raises(UserError, match="is empty"):  # the null
        list(read_documents([path]))
    tables.write_table(arrow.table({"text": [text] * 400}), path, compression="zstd")
    for document in read_documents([path]):
        assert document.text == text
        n_read += 1
        most = max(most, pool.bytes_allocated() - before)
    assert n_read == 400
    assert most < 10 << 20


def test_a_page_that_would_fill_the_memory_is_a_bad_record(tmp_path: Path, monkeypatch) -> None:
    arrow, tables = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    from isogloss.data.sources.parquet import read_table
    from isogloss.data.sources.units import ReadSettings, Unit

    path = tmp_path / "a.parquet"
    tables.write_table(arrow.table({"text": ["x" * 9_000_000]}), path, compression="zstd", use_dictionary=False)
    unit = Unit(path, "a.parquet", 0, None, path.stat().st_size, 0)
    with path.open("rb") as stream:
        (bad,) = read_table(unit, stream, ReadSettings(max_document_bytes=1000))
    assert "made to fill the memory" in bad.why  # pyright: ignore
