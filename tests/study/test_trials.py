"""Trials are kept as they end, found again, and made anew when what decides them has changed."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest
from rich.console import Console

from isogloss.config.base import UserError
from isogloss.config.load import with_overrides
from isogloss.data.corpus import Corpus
from isogloss.data.prepared import open_prepared
from isogloss.recipe import Recipe, load_recipe
from isogloss.study import trials as module
from isogloss.study.compare import Arm, Comparison, comparison_rows
from isogloss.study.coordinates import coordinate_trial
from isogloss.study.training import training_trial
from isogloss.study.trials import Study, Trial, open_study
from isogloss.train.display import Display

# Before anything else in each of a program's processes: no trial but the first is recorded.
HELD = """
import os, time
if os.environ.get("HELD"):
    import isogloss.study.trials as m
    write = m.write_whole
    def write_whole(file, data):
        try:
            os.close(os.open(os.environ["HELD"], os.O_CREAT | os.O_EXCL))
        except FileExistsError:
            time.sleep(10000)
        write(file, data)
    m.write_whole = write_whole
"""


def marks_file(recipe: Recipe) -> Path:
    return recipe.data.prepared_dir / "marks"


def count(recipe: Recipe, corpus: Corpus) -> dict:
    """A trial that leaves a mark, so that a test sees how often it ran."""
    with marks_file(recipe).open("a") as marks:
        marks.write(f"{recipe.seed}\n")
    return {"seed": recipe.seed, "loss": float("inf")}


def other(recipe: Recipe, corpus: Corpus) -> dict:
    """Another kind of trial."""
    return {}


@pytest.fixture
def study(tiny: Path) -> Study:
    console = Console(record=True, width=200, file=open(os.devnull, "w"))  # noqa: PTH123, SIM115
    return open_study(load_recipe(str(tiny)), tiny.parent / "studies", 1, Display(console))


def trials_of(study: Study, *seeds: int) -> list[Trial]:
    return [Trial(f"seed {seed}", study.recipe.model_copy(update={"seed": seed})) for seed in seeds]


def marks(study: Study) -> int:
    return len(marks_file(study.recipe).read_text().splitlines())


def test_results_come_in_order_and_are_found_again(study: Study) -> None:
    assert [r["seed"] for r in study.run(count, trials_of(study, 2, 0, 1))] == [2, 0, 1]
    assert [r["seed"] for r in study.run(count, trials_of(study, 0, 1, 2, 3))] == [0, 1, 2, 3]
    assert marks(study) == 4
    text = study.display.console.export_text()
    assert "3 of 4 trials are in" in text
    assert "operations: about" in text


def test_what_is_not_finite_is_null(study: Study) -> None:
    assert study.run(count, trials_of(study, 0))[0]["loss"] == float("inf")
    (file,) = (study.folder / "trials").iterdir()
    assert json.loads(file.read_text())["result"]["loss"] is None


def test_equal_trials_run_once(study: Study) -> None:
    assert [r["seed"] for r in study.run(count, trials_of(study, 1, 1, 0))] == [1, 1, 0]
    assert marks(study) == 2


def test_trials_multiply_in_float8_where_asked(tiny: Path) -> None:
    even = ["train.precision=bf16", "data.seq_len=32", "model.ffn.d_ff=32", "train.steps=3"]
    found: dict[str, list[dict]] = {}
    for float8 in ("off", "rowwise"):
        recipe = load_recipe(str(tiny), [*even, f"train.float8='{float8}'"])
        study = open_study(recipe, tiny.parent / "studies", 1, Display(Console(quiet=True)))
        found[float8] = [training_trial(study.recipe, study.corpus), coordinate_trial(study.recipe, study.corpus)]
    (off, off_sizes), (on, on_sizes) = found.values()
    assert on["loss"] != off["loss"]
    assert on_sizes["stream"] != off_sizes["stream"]
    assert on_sizes["branch"] == off_sizes["branch"], "what is observed before any step is as it was"
    with pytest.raises(UserError, match=r"train\.float8 is rowwise"):
        open_study(load_recipe(str(tiny), ["train.float8=rowwise"]), tiny, 1, Display(Console(quiet=True)))


def test_what_decides_a_trial_is_in_its_name(study: Study, monkeypatch) -> None:
    (trial,) = trials_of(study, 0)
    key = trial.key(count, study.corpus)
    assert Trial("other", trial.recipe.model_copy(update={"name": "other"})).key(count, study.corpus) == key
    assert Trial("", with_overrides(trial.recipe, ["init.base_std=0.01"])).key(count, study.corpus) != key
    assert trial.key(other, study.corpus) != key
    scheme = type(trial.recipe.init)
    original = scheme.rules
    monkeypatch.setattr(scheme, "rules", lambda self, m: original(self.model_copy(update={"base_std": 0.5}), m))
    assert trial.key(count, study.corpus) != key  # somebody has edited the scheme
    monkeypatch.undo()
    elsewhere = study.corpus.folder.with_name("another text")
    shutil.copytree(study.corpus.folder, elsewhere)
    assert trial.key(count, open_prepared(elsewhere)) != key
    monkeypatch.setattr(module, "_code", lambda name: "edited")
    assert trial.key(count, study.corpus) != key


def test_a_damaged_record_is_made_anew(study: Study) -> None:
    study.run(count, trials_of(study, 0))
    (file,) = (study.folder / "trials").iterdir()
    file.write_bytes(file.read_bytes()[:10])
    assert study.run(count, trials_of(study, 0)) == [{"seed": 0, "loss": float("inf")}]
    assert marks(study) == 2


@pytest.mark.parametrize(
    "change",
    [{"result": {}}, {"result": {"seed": 1, "loss": None}}, {"sha256": ""}, {"seconds": "1"}, {"label": None}],
    ids=str,
)
def test_a_record_that_was_changed_is_made_anew(study: Study, change: dict) -> None:
    study.run(count, trials_of(study, 0))
    (file,) = (study.folder / "trials").iterdir()
    file.write_text(json.dumps(json.loads(file.read_text()) | change))
    assert study.run(count, trials_of(study, 0))[0]["seed"] == 0
    assert marks(study) == 2


def test_a_folder_that_cannot_be_made(study: Study, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    blocked = Study(study.recipe, study.corpus, tmp_path / "file", 1, study.display)
    with pytest.raises(UserError, match="--out"):
        blocked.run(count, trials_of(study, 0))


@pytest.mark.slow
def test_processes_give_what_one_gives_and_survive_a_kill(tiny: Path, call, one_thread, monkeypatch) -> None:
    """The whole program is killed in the middle of a comparison; the same command ends with the same losses."""
    words = ["init", "compare", "lingua", "gpt2", "--recipe", str(tiny)]
    words += ["--set", "train.steps=150", "--seeds", "2", "--out"]
    (tiny.parent / "patches").mkdir()
    (tiny.parent / "patches/sitecustomize.py").write_text(HELD)
    paths = os.pathsep.join([str(tiny.parent / "patches"), *sys.path])
    environment = os.environ | {"PYTHONPATH": paths, "OMP_NUM_THREADS": "1", "HELD": str(tiny.parent / "first")}
    command = [sys.executable, "-m", "isogloss", *words, "studies", "--jobs", "2"]
    process = subprocess.Popen(command, start_new_session=True, cwd=tiny.parent, env=environment)
    kept = tiny.parent / "studies/trials"
    deadline = time.monotonic() + 300
    while not (kept.is_dir() and any(kept.glob("[!.]*.json"))):
        assert process.poll() is None
        assert time.monotonic() < deadline, "no trial has ended"
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    monkeypatch.chdir(tiny.parent)
    code, said, errors = call(*words, "studies", "--jobs", "1")
    assert code == 0, errors
    assert "1 of 4 trials are in studies already" in said
    code, _, errors = call(*words, "whole", "--jobs", "1")
    assert code == 0, errors
    (a, b) = (json.loads(next((tiny.parent / f).glob("compare-*.json")).read_text()) for f in ("studies", "whole"))
    assert a["arms"] == b["arms"]


@pytest.mark.slow
def test_a_killed_process_is_named(tiny: Path) -> None:
    command = [
        sys.executable,
        "-m",
        "isogloss",
        "init",
        "compare",
        "lingua",
        "gpt2",
        "--recipe",
        str(tiny),
        "--jobs",
        "2",
    ]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(
        [*command, "--set", "train.steps=100000"], cwd=tiny.parent, env=environment, stderr=subprocess.PIPE, text=True
    )
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    deadline = time.monotonic() + 300
    workers: list[int] = []
    while len(workers) < 2:
        assert time.monotonic() < deadline, "no workers have been started"
        time.sleep(0.05)
        pids = map(int, children.read_text().split())
        workers = []
        for pid in pids:
            with suppress(OSError):  # others, of PyTorch's, come and go
                if b"spawn_main" in Path(f"/proc/{pid}/cmdline").read_bytes():
                    workers.append(pid)
    os.kill(workers[0], signal.SIGKILL)
    assert process.stderr is not None
    message = process.stderr.read()
    assert process.wait() == 2
    assert "--jobs" in message
    assert "Traceback" not in message


def test_a_training_that_diverges_is_a_result(study: Study) -> None:
    trial = Trial("", with_overrides(study.recipe, ["optim.lr=1e30", "train.max_skipped=1"]))
    (found,) = study.run(training_trial, [trial])
    assert found["validation"] == found["loss"][-1] == found["grad_norm"][-1] == float("inf")
    arm = Arm("a", 1.0, {1.0: 1.0}, (found, found, found))
    assert comparison_rows(Comparison((arm, arm)))


def test_equal_seeds_share_batches_and_uniforms(study: Study) -> None:
    results = [
        training_trial(with_overrides(study.recipe, [f"init={{type: {name}}}"]), study.corpus)
        for name in ("lingua", "lingua_before", "lingua")
    ]
    assert results[0] == results[2]
    assert results[0]["loss"] != results[1]["loss"]
    assert len(results[0]["loss"]) == study.recipe.train.steps
    assert results[0]["attention_steps"][0] == 0
    assert results[0]["attention_steps"][-1] == study.recipe.train.steps
    assert results[0]["validation"] < results[0]["loss"][0]
