"""Exports give our logits: here in the transformers that is installed, by ``benchmarks/exports.py`` in any other."""

import json
import tomllib
from pathlib import Path

import exports
import pytest
import tokenizers

from isogloss.interop import hf
from isogloss.interop.hf_config import from_hf, to_hf
from isogloss.nn.multipliers import Multipliers

ROOT = Path(__file__).parents[2]
pytest.importorskip("transformers")


def test_exports_give_our_logits_on_short_and_long_rows(tmp_path: Path) -> None:
    for name, variant in exports.MODELS.items():
        exports.export(tmp_path / name, variant)
    found = exports.check(tmp_path)
    assert set(found) == set(exports.MODELS)
    assert {name: value for name, value in found.items() if not value <= exports.TOLERANCE} == {}


# What versions of transformers take for YaRN's factor and original length (``_compute_yarn_parameters``).
READ = {
    "4.48 to 4.50": lambda rope, longest: (rope["factor"], longest),
    "4.51 to 4.55": lambda rope, longest: (
        (longest / rope["original_max_position_embeddings"], rope["original_max_position_embeddings"])
        if "original_max_position_embeddings" in rope
        else (rope["factor"], longest)
    ),
    "4.56 and later": lambda rope, longest: (
        rope["factor"],
        rope.get("original_max_position_embeddings") or longest,
    ),
}


@pytest.mark.parametrize("factor", [2.0, 4.0, 1.5, 2.7, 40.0, 1.0001])
@pytest.mark.parametrize("original", [16, 100, 4096])
def test_every_version_reads_the_same_yarn(make_decoder, factor: float, original: int) -> None:
    scaling = {"type": "yarn", "factor": factor, "original_seq_len": original}
    config = make_decoder(mixer={"rotary": {"scaling": scaling}}).config
    values = to_hf(config, Multipliers(), 64, None)
    for version in ("4.51 to 4.55", "4.56 and later"):
        for rope in (values["rope_scaling"], values["rope_parameters"]):
            assert READ[version](rope, values["max_position_embeddings"]) == (factor, original), version
    if (factor * original).is_integer():
        assert values["max_position_embeddings"] == factor * original
    else:  # there is no such length, and every version reads an original length that is left out
        assert READ["4.48 to 4.50"](values["rope_scaling"], values["max_position_embeddings"]) == (factor, original)
    assert from_hf(values, "config.json") == config


def test_a_window_that_is_off_stands_in_no_file_of_qwen3(make_decoder) -> None:
    values = to_hf(make_decoder(mixer={"qk_norm": True}).config, Multipliers(), 64, None)
    assert values["sliding_window"] is None


def test_the_oldest_version_is_the_one_that_is_promised() -> None:
    needed = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    assert f"transformers>={exports.OLDEST}" in needed["project"]["optional-dependencies"]["test"]
    assert f"transformers {exports.OLDEST}" in " ".join((ROOT / "docs/guide.md").read_text(encoding="utf-8").split())


@pytest.mark.parametrize("token", ["$A", "$B:1", "<s>:1", "a b", "[red]", "<|end:of:text|>"])
def test_an_end_of_text_of_any_name_opens_texts(token: str) -> None:
    vocabulary = {chr(97 + n): n for n in range(26)}
    theirs = tokenizers.Tokenizer(tokenizers.models.BPE(vocabulary, []))
    theirs.add_special_tokens([token])
    spec = json.loads(theirs.to_str()) | {"post_processor": hf._opening(token, 26)}
    written = tokenizers.Tokenizer.from_str(json.dumps(spec))
    assert written.encode("ab").ids == [26, 0, 1]
    assert written.encode("ab", "c").ids == [26, 0, 1, 26, 2]
