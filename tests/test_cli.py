"""The command line as a user meets it: results, and one clear message with exit code 2 for what can be mended."""

import hashlib
import io
import json
import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from isogloss.cli.errors import leave
from isogloss.recipe import DEFAULT, load_recipe

PATHS = os.pathsep.join(sys.path)


@pytest.fixture
def isogloss(call, monkeypatch, tmp_path):
    """Run the command line in this process, in an empty folder; gives exit code, output and errors."""
    monkeypatch.chdir(tmp_path)

    return call


def complaint(result: tuple[int, str, str]) -> str:
    """The message of a refused call: exit code 2, no traceback."""
    code, _, errors = result
    assert code == 2, result
    assert "Traceback" not in errors
    assert errors.startswith("isogloss: ")
    return errors


def test_a_rank_whose_output_is_closed_ends_with_its_code(monkeypatch: pytest.MonkeyPatch) -> None:
    ends: list[int] = []
    monkeypatch.setattr("isogloss.cli.errors.one_of_many", lambda: True)
    monkeypatch.setattr("os._exit", ends.append)
    monkeypatch.setattr("sys.stdout", None)  # as Python has it where file descriptor 1 is closed
    monkeypatch.setattr("sys.stderr", None)
    with pytest.raises(SystemExit):  # `os._exit` has come back
        leave(75)
    assert ends == [75]


def test_help_is_quick_and_loads_no_torch() -> None:
    program = (
        "import sys; sys.argv[1:] = ['--help']\nfrom isogloss.cli import main\ntry: main()\nexcept SystemExit: pass\n"
    )
    program += "assert not {'torch', 'numpy', 'pydantic'} & set(sys.modules), 'help imported too much'"
    done = subprocess.run([sys.executable, "-c", program], env=os.environ | {"PYTHONPATH": PATHS}, capture_output=True)
    assert done.returncode == 0, done.stderr


def test_no_such_recipe(isogloss) -> None:
    assert "nosuch.yaml: no such" in complaint(isogloss("train", "nosuch.yaml"))
    assert "did you mean stdlib-small?" in complaint(isogloss("train", "stdlib-smal"))


def test_variables_of_a_launcher_that_make_no_sense(isogloss, tiny: Path, monkeypatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    for rank in ("abc", "2"):
        monkeypatch.setenv("RANK", rank)
        monkeypatch.setenv("LOCAL_RANK", "0")
        assert f"RANK='{rank}', LOCAL_RANK='0', WORLD_SIZE='2': " in complaint(isogloss("train", tiny))
    assert not tiny.with_name("runs").exists()


@pytest.mark.campaign(16, 17)
@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("train.stpes=5", ["train.stpes", "did you mean steps?"]),
        ("train.steps=many", ["train.steps", "whole number", "many"]),
        ("optim.schedule.type=cosin", ["optim.schedule", "did you mean cosine?"]),
        ("model.mixer.n_heads=3", ["d_model (16)", "n_heads (3)"]),
        ("optim.schedule.warmup=10", ["warmup (10)", "train.steps (10)"]),
        ("model.vocab_size=100", ["model.vocab_size is 100", "the tokenizer has 257 tokens"]),
        ("train.device=cuda", ["no CUDA device"]),
        ("trackers.wandb=project", ["pip install 'isogloss[wandb]'"]),
        ("data.train=[missing]", ["missing"]),
    ],
)
def test_a_wrong_setting_is_explained_and_nothing_is_written(isogloss, tiny, monkeypatch, override: str, words) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)  # it may be installed here
    message = complaint(isogloss("train", tiny, override))
    assert all(word in message for word in words), message
    assert not (tiny.parent / "runs/tiny/recipe.yaml").exists() or "trackers" in override


def test_plain_arguments_go_through_no_parser(isogloss, tiny: Path) -> None:
    assert isogloss("train", tiny, "train.steps=3", "watch.sample_tokens=0")[0] == 0
    folder = tiny.parent / "runs/tiny"
    for stop in ("😀", "a: b", "null", "'", '"', "[", "1e3", "#", "\n", "\x7f\u2028"):
        code, out, errors = isogloss("generate", folder, "x", "--max-tokens", "2", "--stop", stop, "--stop", "zz")
        assert (code, errors, out[0]) == (0, "", "x"), stop
    assert "stop" in complaint(isogloss("generate", folder, "x", "--stop", ""))
    assert "not UTF-8" in complaint(isogloss("generate", folder, "x", "--stop", "\udce9"))


def test_the_command_that_trains_on_a_fetched_corpus_can_be_pasted(isogloss, monkeypatch, tmp_path: Path) -> None:
    card = SimpleNamespace(n_documents=1, n_bytes=1, source="s", licence="l", sha256="0", skipped=[])
    folder = tmp_path / "it's [a], {b}: #c"
    monkeypatch.setattr("isogloss.data.named.fetch.fetch", lambda name, to, say: (folder, card))
    code, out, _ = isogloss("data", "fetch", "name")
    assert code == 0
    words = shlex.split(out.splitlines()[-1].partition("train on it: ")[2])
    assert words[:2] == ["isogloss", "train"]
    assert load_recipe(DEFAULT, words[2:]).data.train == (str(folder),)


def test_all_problems_come_at_once_with_their_lines(isogloss, tiny: Path) -> None:
    text = tiny.read_text().replace("batch_size: 4", "batch_size: four").replace("lr: 0.01", "lrr: 0.01")
    tiny.write_text(text)
    message = complaint(isogloss("train", tiny, "seed=-1"))
    lines = text.splitlines()
    for word in ("four", "lrr"):
        number = next(i for i, line in enumerate(lines, 1) if word in line)
        assert f"tiny.yaml:{number}: " in message
    assert "command line" in message


def test_text_that_is_not_utf8(isogloss, tiny: Path) -> None:
    (tiny.parent / "corpus/bad.txt").write_bytes(b"ok\nbad \xff byte\n")
    message = complaint(isogloss("train", tiny))
    assert "bad.txt" in message
    assert "UTF-8" in message


def test_an_empty_corpus(isogloss, tiny: Path) -> None:
    for path in (tiny.parent / "corpus").iterdir():
        path.write_text("")
    complaint(isogloss("train", tiny))


def test_an_unreadable_recipe(isogloss, tmp_path: Path) -> None:
    (tmp_path / "bad.yaml").write_bytes(b"name: \xff")
    assert "UTF-8" in complaint(isogloss("train", tmp_path / "bad.yaml"))
    assert "folder" in complaint(isogloss("train", tmp_path))


def prompts_that_are_too_long_or_no_text(isogloss, folder: Path, monkeypatch) -> None:
    """Bytes of an argument that are no UTF-8 are replaced; what is refused is refused before any output."""
    words = ("generate", folder, "a\udcff", "--max-tokens", "3")
    assert isogloss(*words)[1].startswith("a\ufffd")
    refused = isogloss("generate", folder, "abc", "--max-tokens", "3", "--max-context", "5")
    assert refused[1] == ""
    assert "a prompt of 4 tokens" in complaint(refused)
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"a\xff")))
    refused = isogloss("generate", folder, "-")
    assert refused[1] == ""
    assert "not UTF-8 (byte 1)" in complaint(refused)
    with monkeypatch.context() as patch:  # the control; what captures the output here writes ? where a terminal fails
        patch.setattr("isogloss.data.tokenizers.base.well_formed", lambda text: text)
        assert isogloss(*words)[1].startswith("a?")


@pytest.mark.campaign(22)
@pytest.mark.control(22)
def test_train_then_use(isogloss, tiny: Path, monkeypatch) -> None:
    code, out, _ = isogloss("train", tiny)
    assert code == 0
    folder = tiny.parent / "runs/tiny"
    for word in (
        "parameters",
        "tokens",
        "peak",
        "MiB",
        "training loss",
        "mean loss of them",
        "bits/byte",
        "xz -9",
        "next:",
        "isogloss generate",
    ):
        assert word in out
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["validation"]["bits_per_byte"] > 0
    assert summary["steps"] == 10
    assert (folder / "loss.png").read_bytes().startswith(b"\x89PNG")
    assert "--- step 10 ---" in (folder / "samples.txt").read_text()

    code, out, _ = isogloss("generate", folder, "def ", "--max-tokens", "20", "--seed", "1")
    assert code == 0
    assert out.startswith("def ")
    assert isogloss("generate", folder, "def ", "--max-tokens", "20", "--seed", "1")[1] == out
    assert isogloss("generate", folder, "def ", "--max-tokens", "20", "--seed", "2")[1] != out
    assert "top_p" in complaint(isogloss("generate", folder, "--top-p", "3"))
    prompts_that_are_too_long_or_no_text(isogloss, folder, monkeypatch)

    code, out, _ = isogloss("eval", folder, tiny.parent / "corpus", "--json")
    assert code == 0
    assert json.loads(out)["bits_per_byte"] > 0
    assert "bits per byte" in isogloss("eval", folder, tiny.parent / "corpus")[1]

    code, out, _ = isogloss("export", folder, tiny.parent / "hf")
    assert code == 0
    assert (tiny.parent / "hf/model.safetensors").exists()

    assert "257 tokens" in isogloss("tokenizer", "show", folder, "abc")[1]
    assert isogloss("init", "plan", folder / "recipe.yaml")[0] == 0


def test_a_folder_that_is_no_run(isogloss, tmp_path: Path) -> None:
    assert "no such folder" in complaint(isogloss("generate", tmp_path / "absent"))
    assert "holds no run" in complaint(isogloss("generate", tmp_path))
    assert "no run" in complaint(isogloss("eval", tmp_path, tmp_path))


def test_config_verbs(isogloss, tiny: Path) -> None:
    code, out, _ = isogloss("config", "show", tiny, "optim.lr=3e-4")
    assert code == 0
    shown = tiny.with_name("shown.yaml")
    shown.write_text(out)
    assert isogloss("config", "diff", tiny, shown)[1] == "optim.lr: 0.01 -> 0.0003\n"
    assert json.loads(isogloss("config", "schema")[1])["properties"]["seed"]
    assert "Peak learning rate" in isogloss("config", "explain", "optim.lr")[1]
    assert "did you mean" in complaint(isogloss("config", "explain", "optim.l"))


def test_recipes_are_listed_and_the_default_is_marked(isogloss) -> None:
    assert "stdlib-small (default)" in isogloss("recipes")[1]


def test_plan_says_each_rule_with_its_numbers(isogloss, tiny: Path) -> None:
    def rules(*overrides: str) -> dict[str, str]:
        found = json.loads(isogloss("init", "plan", tiny, "--format", "json", *overrides)[1])
        assert found["signals"]["loss"] > 5
        return {row["name"]: row["rule"] for row in found["parameters"]}

    assert rules()["layers.1.ffn.down_proj.weight"] == "24^-0.5/sqrt(2*(2+1))"
    assert rules()["layers.1.mixer.q_proj.weight"] == "16^-0.5"
    assert rules("init.type=lingua_before")["layers.1.mixer.q_proj.weight"] == "16^-0.5/sqrt(2*(2+1))"


def test_plan_in_its_forms(isogloss, tiny: Path) -> None:
    table = isogloss("init", "plan", tiny)[1]
    assert "layers.0-1.mixer.q_proj.weight" in table
    assert "predicted on random tokens: stream" in table
    lines = isogloss("init", "plan", tiny, "--format", "csv")[1].splitlines()
    assert lines[0].startswith("name,role,shape")
    assert sum(line.startswith("layers.1.") for line in lines) == 9
    assert "| `layers.0-1.mixer.q_proj.weight` | query |" in isogloss("init", "plan", tiny, "--format", "markdown")[1]


def test_a_slip_that_is_kept_is_called_one(isogloss, tiny: Path) -> None:
    assert "a slip" not in isogloss("init", "plan", tiny)[1]
    out = isogloss("init", "plan", tiny, "init.type=torchtitan_llama3")[1]
    assert "layers.0.ffn.up_proj.weight and 1 more: a slip of the source, kept: up_proj reads the stream" in out
    assert "q_proj.weight and 4 more: the defect" in isogloss("init", "plan", tiny, "init.type=lingua_before")[1]


def test_plan_of_one_parameter(isogloss, tiny: Path) -> None:
    lines = isogloss("init", "plan", tiny, "--format", "markdown", "init.type=completep", "init.base_width=8")[1]
    cells = {line.split(" | ")[0].strip("| "): line.strip("| ").split(" | ")[1:] for line in lines.splitlines()}
    hidden = ["ffn_down", "16x24", "24", "0.02/sqrt(2)", "0.01414", "0.01414", "0.5, 2, 1", "2"]
    assert cells["`layers.0-1.ffn.down_proj.weight`"] == hidden
    gain = ["norm_gain", "16", "1", "constant 1", "", "", "1, 0, 1", "1"]  # it does not decay
    assert cells["`layers.0-1.ffn_norm.weight`"] == gain
    row = next(
        row
        for row in json.loads(isogloss("init", "plan", tiny, "--format", "json")[1])["parameters"]
        if row["role"] == "ffn_up"
    )
    assert row["std"] == 0.25
    assert row["effective_std"] == pytest.approx(0.25 * 0.9865784)
    assert row["kurtosis"] == pytest.approx(2.8289, abs=1e-4)
    assert row["spectral_norm"] == pytest.approx(row["effective_std"] * (16**0.5 + 24**0.5))


def test_verify_passes_a_clean_recipe(isogloss, tiny: Path) -> None:
    code, out, _ = isogloss("init", "verify", tiny, "model.d_model=64", "model.mixer.n_heads=4")
    assert code == 0
    assert "parameters are as planned" in out
    assert "attention logits" in out


WIDE = ("model.d_model=64", "model.mixer.n_heads=4")


def test_verify_prints_fingerprints_and_compares_a_run_with_its_own(isogloss, tiny: Path) -> None:
    code, printed, _ = isogloss("init", "verify", tiny, "--fingerprint")
    lines = [line.split("  ") for line in printed.splitlines() if len(line.split("  ")[0]) == 64]
    assert code == 0
    assert lines[0][1] == "embedding.weight"
    assert lines[-1][1] == "all of them"
    isogloss("train", tiny, "train.steps=4")
    isogloss("train", tiny, "train.steps=6")  # goes on: what is kept stays that of the beginning
    run = tiny.parent / "runs/tiny"
    rows = json.loads((run / "init.json").read_text())
    assert [[row["sha256"], row["name"]] for row in rows] == lines[:-1]
    for path in (run, *sorted((run / "checkpoints").iterdir())):
        code, out, _ = isogloss("init", "verify", path, "--fingerprint")
        assert code == 0, out
        assert f"PASS: {len(rows)} parameters" in out
        assert lines[-1][0] in out
    rows[2]["sha256"] = "0" * 64
    (run / "init.json").write_text(json.dumps(rows))
    code, out, _ = isogloss("init", "verify", run, "--fingerprint")
    assert code == 1
    assert f"FAIL: 1 of {len(rows)}" in out
    assert rows[2]["name"] in out
    assert isogloss("init", "verify", run, "--fingerprint", "seed=9")[0] == 1


def test_a_run_without_fingerprints_says_so_and_is_given_none_later(isogloss, tiny: Path) -> None:
    isogloss("train", tiny, "train.steps=4")
    run = tiny.parent / "runs/tiny"
    (newest,) = (path for path in (run / "checkpoints").iterdir() if path.name.endswith("4"))
    state = json.loads((newest / "state.json").read_text())
    assert len(state.pop("initial_weights")) == len(json.loads((run / "init.json").read_text()))
    data = json.dumps(state).encode()
    (newest / "state.json").write_bytes(data)
    manifest = json.loads((newest / "manifest.json").read_text())
    manifest["files"]["state.json"] = {"size": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    (newest / "manifest.json").write_text(json.dumps(manifest))
    isogloss("train", tiny, "train.steps=6")
    code, _, said = isogloss("init", "verify", max((run / "checkpoints").iterdir()))
    assert code == 0
    assert "keeps no fingerprint" in said
    for path in (run, max((run / "checkpoints").iterdir())):
        assert "keeps no fingerprint" in complaint(isogloss("init", "verify", path, "--fingerprint"))


def test_verify_of_a_trained_checkpoint_reports_how_far_it_moved(isogloss, tiny: Path) -> None:
    isogloss("train", tiny, *WIDE)
    checkpoint = max((tiny.parent / "runs/tiny/checkpoints").iterdir())
    picture = tiny.parent / "signals.png"
    code, out, _ = isogloss("init", "verify", checkpoint, "--plot", picture)
    assert code == 0
    assert "weights after 10 steps" in out
    assert "attention_out" in out
    assert not {"PASS", "WARN", "FAIL"} & set(out.split())
    assert picture.read_bytes().startswith(b"\x89PNG")
    code, out, _ = isogloss("init", "verify", checkpoint, "--json")
    found = json.loads(out)
    assert code == 0
    assert found["step"] == 10
    moved = {row["role"]: row["moved"] / row["planned"] for row in found["drift"]}
    assert 0 < moved["norm_gain"] < moved["attention_out"] < 2
    assert "recipe and weights of its own" in complaint(isogloss("init", "verify", checkpoint, "seed=1"))
    missing = complaint(isogloss("init", "verify", checkpoint.with_name("step-0000000777")))
    assert "step-0000000777" in missing


def test_verify_of_a_trained_checkpoint_compares_its_stored_fingerprint_first(isogloss, tiny: Path) -> None:
    isogloss("train", tiny, *WIDE, "train.steps=3")
    run = tiny.parent / "runs/tiny"
    checkpoint = max((run / "checkpoints").iterdir())
    code, out, _ = isogloss("init", "verify", checkpoint)
    assert code == 0
    assert "parameters are, bit for bit, what the run began with" in out[: out.index("weights after")]
    lines = (run / "recipe.yaml").read_text().splitlines(keepends=True)
    (run / "recipe.yaml").write_text("".join("seed: 99\n" if line.startswith("seed:") else line for line in lines))
    code, out, _ = isogloss("init", "verify", checkpoint)
    assert code == 1
    assert "fingerprint" in out
    assert "FAIL" in out
    found = json.loads(isogloss("init", "verify", checkpoint, "--json")[1])
    assert [(f["parameter"], f["test"]) for f in found["findings"]] == [("embedding.weight", "fingerprint")]
    assert found["status"] == "fail"


def test_verify_holds_a_checkpoint_of_step_zero_and_a_file_to_the_plan(isogloss, tiny: Path) -> None:
    from isogloss.build import build_model
    from isogloss.checkpoint.config import CheckpointConfig
    from isogloss.checkpoint.save import save_checkpoint
    from isogloss.models.weights import model_tensors
    from isogloss.run.folder import RunFolder

    isogloss("train", tiny, *WIDE, "train.steps=3")
    folder = RunFolder(tiny.parent / "runs/tiny")
    recipe = folder.saved_recipe()
    assert recipe is not None
    model = build_model(recipe.model, recipe.init, seed=recipe.seed, device=torch.device("cpu"))

    (trained,) = folder.checkpoints.iterdir()
    state = json.loads((trained / "state.json").read_text())
    state["progress"]["step"] = 0

    def save() -> Path:
        shutil.rmtree(folder.checkpoints)
        parts = {"model": model_tensors(model)}
        return save_checkpoint(folder.checkpoints, 0, parts, state, CheckpointConfig())

    code, out, _ = isogloss("init", "verify", save())
    assert code == 0
    assert "parameters are as planned" in out
    with torch.no_grad():
        model.layers[1].ffn.down_proj.weight.mul_(1.5)
    checkpoint = save()
    for words in ((checkpoint,), (tiny, *WIDE, "--weights", checkpoint / "model.safetensors")):
        code, out, _ = isogloss("init", "verify", *words)
        assert code == 1
        assert "layers.1.ffn.down_proj.weight" in out
        assert "layers.0.ffn.down_proj.weight" not in out
    assert "cannot be read as safetensors" in complaint(isogloss("init", "verify", tiny, "--weights", tiny))
    unfit = isogloss("init", "verify", tiny, "--weights", checkpoint / "model.safetensors")
    assert "do not fit this model" in complaint(unfit)


def test_verify_refuses_what_does_not_go_together(isogloss, tiny: Path) -> None:
    assert "no other option" in complaint(isogloss("init", "verify", tiny, "--fingerprint", "--json"))
    assert "there is no folder" in complaint(isogloss("init", "verify", tiny, "--plot", "nowhere/a.png"))


def test_plan_shows_what_differs(isogloss, tiny: Path) -> None:
    table = isogloss("init", "plan", tiny, "--diff", "init.type=lingua_before")[1]
    assert "layers.0-1.ffn.gate_proj.weight" in table
    assert "0.4082" in table  # 1/sqrt(6)
    assert "down_proj" not in table
    assert "predicted: last ffn write" in table
    changes = ["--diff", "model.n_layers=1", "--diff", "init.base_std=1.0"]
    assert "layers.1.mixer.q_proj.weight" in isogloss("init", "plan", tiny, *changes)[1]
    rate = isogloss("init", "plan", tiny, "--diff", "init.type=mup", "--diff", "init.base_width=8")[1]
    assert "16^-0.5, cut 3; 1, 1, 1" in rate
    assert "0.02/sqrt(2); 0.5, 2, 1" in rate


def test_what_differs_in_other_forms(isogloss, tiny: Path) -> None:
    words = ("init", "plan", tiny, "--diff", "init.type=lingua_before", "--format")
    rows = json.loads(isogloss(*words, "json")[1])
    gate = next(row for row in rows if row["what"] == "layers.0-1.ffn.gate_proj.weight")
    assert (gate["a"], gate["b"]) == ("16^-0.5, cut 3", "16^-0.5/sqrt(2*(2+1)), cut 3")
    assert gate["ratio"] == pytest.approx(6**-0.5)
    assert rows[-1]["what"] == "predicted: loss"
    assert isogloss(*words, "csv")[1].splitlines()[0] == "what,a,b,ratio"
    assert "| `layers.0-1.ffn.gate_proj.weight` | 16^-0.5, cut 3 |" in isogloss(*words, "markdown")[1]


def test_tokenizer_train_and_show(isogloss, tiny: Path) -> None:
    folder = tiny.parent / "tokenizer"
    assert isogloss("tokenizer", "train", folder, tiny.parent / "corpus", "--vocab-size", "300")[0] == 0
    assert (folder / "tokenizer.json").exists()
    assert "bytes a token" in isogloss("tokenizer", "show", folder, "return self")[1]


@pytest.mark.campaign(10)
def test_a_full_disk_while_training(isogloss, tiny: Path) -> None:
    """Files may not grow past 20 kB: the checkpoint does not fit, and what was there stays."""
    import resource

    assert isogloss("train", tiny, "train.steps=3")[0] == 0
    former = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, former[1]))
    try:
        message = complaint(isogloss("train", tiny))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, former)
    assert "a file may not become so large here (ulimit -f)" in message
    folder = tiny.parent / "runs/tiny/checkpoints"
    assert [p.name for p in folder.iterdir()] == ["step-0000000003"]
    code, out, _ = isogloss("train", tiny)
    assert code == 0
    assert "resuming after step 3" in out
