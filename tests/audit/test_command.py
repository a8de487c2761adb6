"""The command: its forms, its exit codes, and one message for each thing a user can get wrong."""

import functools
import json
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from isogloss.audit.audit import Audit, Row
from isogloss.audit.findings import Finding, Severity
from isogloss.audit.report import as_markdown
from isogloss.audit.verdict import judge

FACTORIES = """
import os

import torch
from torch import nn
from models_of_audit import D, HIDDEN, Decoder, sound

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

class Loud(Decoder):
    def init_weights(self):
        print("from its init")
        os.system("echo from a child process")
        super().init_weights()

    def forward(self, tokens):
        print("from its forward pass")
        return super().forward(tokens)

def loud(n_layers: int = 2):
    print("from its factory")
    return Loud(n_layers)

def without_depth():
    return Decoder(2)

def leaves():
    raise SystemExit(0)

class LeavesLater(Decoder):
    def forward(self, tokens):
        raise SystemExit(0)

def leaves_later(n_layers: int = 2):
    return LeavesLater(n_layers)

def ungated(n_layers: int = 2):
    class Plain(nn.Module):
        def __init__(self):
            super().__init__()
            self.w1, self.w2 = nn.Linear(D, HIDDEN, bias=False), nn.Linear(HIDDEN, D, bias=False)

        def forward(self, x):
            return self.w2(nn.functional.gelu(self.w1(x)))

    model = Decoder(n_layers)
    for layer in model.layers:
        layer.ffn = Plain()
    return model
"""


@pytest.fixture
def command(tmp_path: Path, monkeypatch, call):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.delitem(sys.modules, "factories", raising=False)
    (tmp_path / "factories.py").write_text(textwrap.dedent(FACTORIES))
    (tmp_path / "broken.py").write_text("import nothing_of_that_name\n")
    (tmp_path / "leaving.py").write_text("import sys\nsys.exit(0)\n")

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
    row = Row("c|d", "value", (2, 3), 1.0, None)
    found = Audit("m", 1, [finding], ["its depth cannot be set"], [row], None, ran=True, raw=[finding])
    assert as_markdown(judge(found)).splitlines() == [
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
        (["leaving:f"], "leaving cannot be imported: it ended the process, by sys.exit(0)"),
        (["factories:leaves"], "factories:leaves failed: it ended the process, by sys.exit(0)"),
        (["factories:good", "--ignore", "I99:*"], "there is no code I99"),
        (["factories:good", "--ignore", "I09"], "write CODE:PATTERN"),
        (["factories:good", "--baseline", "absent.json"], "absent.json: there is no such baseline"),
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
        (["text.json"], "text.json cannot be read: not JSON"),
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


def test_standard_output_has_the_report_alone(command) -> None:
    code, out, errors = command("factories:loud", "--format", "json")
    assert code == 0
    assert json.loads(out)["target"] == "factories:loud"
    for words in ("its factory", "its init", "a child process", "its forward pass"):
        assert f"from {words}" in errors


def test_what_the_target_prints_as_the_process_ends_is_no_part_of_the_report(tmp_path: Path) -> None:
    (tmp_path / "late.py").write_text(
        "import atexit\nfrom torch import nn\natexit.register(print, 'good-bye')\ndef model(): return nn.Linear(2, 2)\n"
    )
    words = [sys.executable, "-m", "isogloss", "init", "audit", "late:model", "--format", "json"]
    done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert json.loads(done.stdout)["exit_code"] == done.returncode == 3
    assert "good-bye" in done.stderr


def test_a_target_that_ends_the_process_is_not_clean(command) -> None:
    code, out, _ = command("factories:leaves_later")
    assert code == 3
    assert "its forward pass failed: it ended the process, by sys.exit(0)" in out
    assert "INCOMPLETE: not run" in out


def test_a_depth_that_cannot_be_set_is_not_judged(command) -> None:
    code, out, _ = command("factories:without_depth", "--format", "json")
    found = json.loads(out)
    assert code == 3
    assert found["complete"] is False
    assert found["findings"] == []
    assert found["exit_code"] == 3


def test_a_defect_of_the_audit_has_a_code_of_its_own(command, monkeypatch) -> None:
    def broken(*arguments: object) -> None:
        raise ZeroDivisionError("a defect")

    monkeypatch.setattr("isogloss.audit.audit.merged", broken)
    code, out, errors = command("factories:good")
    assert code == 4
    assert out == ""
    assert "ZeroDivisionError: a defect" in errors
    assert "Traceback" in errors


def test_what_counts_is_a_setting(command, tmp_path: Path) -> None:
    assert command("factories:bad", "--ignore", "I17:layers.*.ffn.w3.weight")[0] == 0
    code, out, _ = command("factories:bad", "--ignore", "I17:layers.*.ffn.w1.weight")
    assert code == 1
    assert "--ignore I17:layers.*.ffn.w1.weight fits nothing" in out
    assert command("factories:good", "--expect", "gpt2", "--fail-on", "error")[0] == 0
    assert command("factories:bad", "--fail-on", "error")[0] == 1
    assert command("factories:bad", "--write-baseline", "known.json")[0] == 0
    code, out, _ = command("factories:bad", "--baseline", "known.json", "--format", "json")
    assert code == 0
    assert json.loads(out)["left_out"] == ["in the baseline known.json: 1 finding"]


def test_every_ungated_model_can_be_compared_with_a_scheme(command) -> None:
    code, out, errors = command("factories:ungated", "--expect", "gpt2", "--format", "json")
    assert code == 1, errors
    found = json.loads(out)["findings"]
    assert {f["code"] for f in found} == {"I00"}
    assert "layers.*.ffn.w2.weight" in " ".join(f["parameter"] for f in found)


def test_the_help_says_that_it_runs_the_target(command) -> None:
    code, out, _ = command("--help")
    assert code == 0
    assert "This imports and runs the target's code" in " ".join(out.split())
