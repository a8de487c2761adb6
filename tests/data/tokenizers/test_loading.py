import base64
import subprocess
import sys

import pytest
from pydantic import TypeAdapter, ValidationError

from isogloss.config.base import UserError
from isogloss.data.tokenizers.bytes import BytesTokenizer
from isogloss.data.tokenizers.config import BPEConfig, BytesConfig, FileConfig, TokenizerConfig
from isogloss.data.tokenizers.loading import build_tokenizer, load_tokenizer


def no_texts():
    raise AssertionError("this tokenizer needs no texts")


def test_build_from_each_config(trained, tmp_path, library):
    trained.save(tmp_path)
    assert isinstance(build_tokenizer(BytesConfig(), no_texts), BytesTokenizer)
    assert build_tokenizer(FileConfig(path=tmp_path), no_texts).fingerprint == trained.fingerprint
    assert build_tokenizer(BPEConfig(vocab_size=400), lambda: library[:3]).n_tokens == 400


def test_config_is_told_apart_by_its_type():
    read = TypeAdapter(TokenizerConfig).validate_python
    assert read({"type": "bytes"}) == BytesConfig()
    assert read({"type": "bpe", "vocab_size": 257}) == BPEConfig(vocab_size=257)
    for wrong in [
        {"type": "bpe", "vocab_size": 256},
        {"type": "bpe"},
        {"type": "words"},
        {"type": "bytes", "path": "x"},
    ]:
        with pytest.raises(ValidationError):
            read(wrong)


def test_config_loads_no_tokenizer_library_and_nothing_loads_torch():
    """Of all that a process loads that prepares text: each would take 200 MB more, and seconds to begin."""
    program = (
        "import sys, isogloss.data.tokenizers.config\n"
        "assert not {'tokenizers', 'tiktoken', 'sentencepiece'} & set(sys.modules)\n"
        "import isogloss.data.tokenizers.loading, isogloss.data.tokenizers.stream\n"
        "import isogloss.data.tokenizers.description\n"
        "import isogloss.data.prepare, isogloss.data.inspection\n"
        "assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", program], check=True)


@pytest.mark.parametrize("name", ["a.tiktoken", "tokenizer.model"])  # Llama 3 ships its ranks under the second name
def test_ranks_files_are_known_by_their_content(tmp_path, name):
    lines = [base64.b64encode(bytes([byte])).decode() + f" {byte}\n" for byte in range(256)]
    (tmp_path / name).write_text("".join(lines))
    tokenizer = load_tokenizer(tmp_path)
    assert tokenizer.encode("aé").tolist() == list("aé".encode())
    tokenizer.save(tmp_path / "saved")
    assert load_tokenizer(tmp_path / "saved").fingerprint == tokenizer.fingerprint


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("tokenizer.json", b"{", "not JSON"),
        ("tokenizer.json", b"\xff\xfe", "not UTF-8"),
        ("tokenizer.json", b"[]", "no BPE under 'model'"),
        ("tokenizer.json", b'{"model": {"vocab": {}, "merges": []}}', "no special token"),
        ("vocab.txt", b"a", "holds no tokenizer.json"),
    ],
)
def test_broken_and_foreign_files_are_refused(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError) as caught:
        load_tokenizer(tmp_path)
    assert message in str(caught.value)
    assert str(tmp_path) in str(caught.value)


def test_missing_and_ambiguous_paths_are_refused(tmp_path):
    with pytest.raises(UserError, match="no such file or folder"):
        load_tokenizer(tmp_path / "absent")
    for name in ["a.model", "b.model", "c.txt"]:
        (tmp_path / name).touch()
    with pytest.raises(UserError, match=r"holds 2 \*.model files"):
        load_tokenizer(tmp_path)
    with pytest.raises(UserError, match=r"ends in \.json, \.tiktoken or \.model"):
        load_tokenizer(tmp_path / "c.txt")
