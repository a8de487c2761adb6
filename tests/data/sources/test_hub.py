import sys
from pathlib import Path

import pytest

from isogloss.config.base import UserError
from isogloss.data.sources import (
    BadRecord,
    Document,
    Dropped,
    ReadSettings,
    hub,
    list_units,
    read_documents,
    read_unit,
)

pytest.importorskip("datasets")


@pytest.fixture
def dataset(tmp_path: Path) -> str:
    """A dataset as it lies on the hub, in a local folder: two files to train on, one to validate on."""
    hub._find.cache_clear()
    folder = tmp_path / "data"
    folder.mkdir()
    (folder / "train-0.jsonl").write_text('{"text": "a", "n": 1}\n{"text": "", "n": 1}\n')
    (folder / "train-1.jsonl").write_text('{"text": "b", "n": 1}\n{"text": null}\n{"text": "ccccc"}\n')
    (folder / "validation-0.jsonl").write_text('{"text": "v"}\n')
    return f"hf:{tmp_path}"


def test_a_dataset_is_read_file_by_file(dataset):
    first, second = list_units([dataset])
    settings = ReadSettings(max_document_bytes=4)
    assert list(read_unit(first, settings)) == [Document(f"{dataset}:0:1", "a"), Dropped(f"{dataset}:0:2", "empty")]
    good, null, long = read_unit(second, settings)
    assert good == Document(f"{dataset}:1:1", "b")
    assert null == BadRecord(
        f"{dataset}:1:2", "field 'text' is not a string but a NoneType", b"{'text': None, 'n': None}"
    )
    assert "a document of 5 bytes" in long.why
    assert [document.text for document in read_documents([f"{dataset}::validation"])] == ["v"]
    assert [document.text for document in read_documents([f"{dataset}:default:validation"])] == ["v"]


def test_its_fingerprint_follows_its_files(dataset, tmp_path):
    original = hub.identify(dataset)
    assert hub.identify(dataset) == original
    assert hub.identify(f"{dataset}::train") == original
    assert hub.identify(f"{dataset}::validation") != original
    (tmp_path / "data" / "train-2.jsonl").write_text('{"text": "d"}\n')
    hub._find.cache_clear()
    assert hub.identify(dataset) != original


def test_what_cannot_be_opened_or_read_is_named(dataset, tmp_path):
    for name, message in {
        f"{dataset}:other": "Available: ['default']",
        f"{dataset}::tset": "Available splits: ['train', 'validation']",
        "hf:": "write hf:NAME",
        "hf:a:b:c:d": "write hf:NAME",
        f"hf:{tmp_path / 'nowhere'}": "nowhere",
    }.items():
        with pytest.raises(UserError) as error:
            list_units([name])
        assert message in str(error.value)
    (tmp_path / "data" / "train-1.jsonl").write_text("{broken\n")
    with pytest.raises(UserError, match=":1: cannot be read through datasets"):
        list(read_unit(list_units([dataset])[1], ReadSettings()))


def test_without_the_library_the_message_says_what_to_install(dataset, monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(UserError, match=r"pip install 'isogloss\[datasets\]'"):
        list_units([dataset])
