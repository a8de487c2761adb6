"""The command: its forms, its exit codes, and one message for each thing a user can get wrong."""

import functools
import json
import sys
import textwrap
from pathlib import Path

import pytest

from isogloss.audit.audit import Audit, Row
from isogloss.audit.findings import Finding, Severity
from isogloss.audit.report import as_markdown

FACTORIES = """
import torch
from torch import nn
from models_of_audit import Decoder, sound

def good(n_layers: int = 2):
    return Decoder(n_layers)

def bad(n_layers: int = 3):
    model = Decoder(n_layers)
    model.defect = lambda m: sound(m, up=(2 * len(m.layers)) ** 0.5)
    return model

def raises():
    raise KeyError("a setting")

def nothing():
    return {"model": 1}

class FailsToInit(nn.Linear):
    def init_weights(self):
        raise RuntimeError("no rule")

def fails_to_init():
    return FailsToInit(4, 4)

number = 3
"""


@pytest.fixture
def command(tmp_path: Path, monkeypatch, call):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.delitem(sys.modules, "factories", raising=False)
    (tmp_path / "factories.py").write_text(textwrap.dedent(FACTORIES))
    (tmp_path / "broken.py").write_text("import nothing_of_that_name\n")

    return functools.partial(call, "init", "audit")


def test_a_sound_model_passes_and_a_defect_fails(command) -> None:
    code, out, _ = command("factories:good")
    assert code == 0
    assert "no findings" in out
    assert "layers.*.mixer.q.weight" in out
    code, out, _ = command("factories:bad")
    assert code == 1
    assert "I17" in out
    assert "1 error" in out


def test_forms_and_settings(command) -> None:
    code, out, _ = command("factories:bad", "n_layers=4", "--format", "json")
    found = json.loads(out)
    assert code == 1
    assert found["failed"] is True
    assert found["depths"] == [4, 8]
    assert found["findings"][0]["code"] == "I17"
    assert found["findings"][0]["meaning"].startswith("the up projection")
    out = command("factories:bad", "--format", "markdown")[1]
    assert "| I17 | error | `layers.*.ffn.w3.weight` |" in out
    code, out, _ = command("factories:good", "--expect", "gpt2")
    assert code == 1
    assert "I00" in out


def test_a_bar_in_a_name_stays_in_its_cell() -> None:
    finding = Finding("I09", Severity.WARNING, "a|b", "gain 2", "1", "none")
    found = Audit(
        "m", 1, [finding], ["its depth cannot be set"], [Row("c|d", "value", (2, 3), 1.0, None)], None, ran=True
    )
    assert as_markdown(found).splitlines() == [
        "| parameter | role | shape | std | with depth |",
        "| --- | --- | --- | --- | --- |",
        "| `c\\|d` | value | 2x3 | 1.00000 |  |",
        "",
        "| code |  | parameter | found | expected |",
        "| --- | --- | --- | --- | --- |",
        "| I09 | warning | `a\\|b` | gain 2 | 1 |",
        "",
        "its depth cannot be set",
        "m: 1 parameters; 1 warning",
    ]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["no_such_module:f"], "no_such_module cannot be imported: ModuleNotFoundError"),
        (["broken:f"], "nothing_of_that_name"),
        (["factories:absent"], "factories has no function absent; it has good, bad"),
        (["factories:number"], "factories has no function number"),
        (["factories:raises"], "factories:raises failed: KeyError: 'a setting'"),
        (["factories:nothing"], "factories:nothing returned a dict; an audit needs a torch.nn.Module"),
        (["factories:fails_to_init"], "its own init failed: RuntimeError: no rule"),
        (["factories:good", "depth=3"], "unexpected keyword argument"),
        (["factories:good", "n_layers"], "write KEY=VALUE"),
        (["factories:good", "--expect", "gpt"], "no scheme gpt"),
        (["nowhere.json"], "package.module:function"),
        (["hf:lama"], "has no model type 'lama'"),
        (["hf:llama"], "GiB of weights"),
        (["hf:llama", "hiden_size=4"], "has no field hiden_size"),
        (["hf:vit"], "no language model"),
        (["folder"], "folder has no config.json"),
        (["text.json"], "text.json is not JSON"),
        (["list.json"], "has no model_type"),
    ],
)
def test_one_message_for_what_a_user_can_mend(command, tmp_path: Path, words: list[str], said: str) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "text.json").write_text("{")
    (tmp_path / "list.json").write_text("[]")
    code, out, errors = command(*words)
    assert code == 2, (out, errors)
    assert "Traceback" not in errors
    assert errors.startswith("isogloss: ")
    assert said in errors


def test_without_transformers(command, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)
    code, _, errors = command("hf:llama")
    assert code == 2
    assert "pip install transformers" in errors
