"""How ranks open their data: rank 0 looks, the others are told; what any of them fails at stops all of them."""

import json
import os
from collections.abc import Callable
from dataclasses import replace
from io import StringIO
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

import ranks
from isogloss.build import plan_model
from isogloss.config.base import UserError
from isogloss.data import stamps
from isogloss.data.prepare import pipeline
from isogloss.data.prepared import PreparedCorpus
from isogloss.data.stamps import VERIFIED
from isogloss.parallel.env import ALONE, OtherRankError, process_group
from isogloss.parallel.first_rank import rank_0_first, told_by_rank_0
from isogloss.recipe import load_recipe
from isogloss.run import opening
from isogloss.run.estimate import estimate_recipe
from isogloss.run.folder import RunFolder
from isogloss.run.opening import _find_corpus
from isogloss.run.train import train
from isogloss.train import machine
from isogloss.train.display import Display
from isogloss.train.size import RunSize

QUIET = Display(Console(quiet=True))


class Fragile:
    """Breaks on rank 1, when it is made of what rank 0 told."""

    def __reduce__(self) -> tuple[Any, ...]:
        return make_fragile, ()


def make_fragile() -> Fragile:
    if os.environ["RANK"] == "1":
        raise UserError("not mounted here")
    return Fragile()


def fail() -> None:
    raise UserError("no such file")


def open_on_two_ranks(rank: int, n_ranks: int, recipe_file: str, results: str) -> None:
    looked: list[str] = []
    open_inputs, hash_file = pipeline.open_inputs, stamps.hash_file
    pipeline.open_inputs = lambda *given: (looked.append("inputs"), open_inputs(*given))[1]  # pyright: ignore
    stamps.hash_file = lambda path: (looked.append(path.name), hash_file(path))[1]  # pyright: ignore
    recipe = load_recipe(recipe_file, ("data.packing=best_fit",))
    found: dict[str, Any] = {}
    with process_group("cpu") as here:

        def found_by_rank_0(name: str, action: Callable[[], Any]) -> Any:
            return told_by_rank_0(here, f"{name}, told", rank_0_first(here, name, lambda: here.first and action()))

        corpus = found_by_rank_0("preparing the corpus", lambda: _find_corpus(recipe, QUIET))
        assert isinstance(corpus, PreparedCorpus)
        corpus.rows("train", *recipe.data.cut())
        found |= {"looked": list(looked), "corpus": corpus.name}
        for name, action in (("fails on 0", fail), ("fails on 1", Fragile)):
            try:
                found_by_rank_0(name, action)
            except UserError as error:
                found[name] = [type(error).__name__, str(error)]
    Path(results, f"{rank}.json").write_text(json.dumps(found))


def test_rank_0_looks_and_the_others_are_told_what_it_found_or_that_one_failed(tiny: Path, tmp_path: Path) -> None:
    corpus = _find_corpus(load_recipe(str(tiny), ("data.packing=best_fit",)), QUIET)
    assert isinstance(corpus, PreparedCorpus)
    (corpus.folder / VERIFIED).unlink()
    (corpus.folder / VERIFIED).mkdir()  # as on a disk that cannot be written: nobody finds what another has kept
    processes = ranks.start(open_on_two_ranks, 2, str(tiny), str(tmp_path), launched=True)
    assert ranks.end(processes, 60) == [0, 0]
    first, second = (json.loads((tmp_path / f"{rank}.json").read_text()) for rank in range(2))
    assert sorted(first["looked"]) == sorted(
        ["inputs", "start.bin", "length.bin", "first.bin", *(Path(name).name for name in corpus.manifest.files)]
    )
    assert second["looked"] == []
    assert first["corpus"] == second["corpus"] == corpus.name
    assert first["fails on 0"] == ["UserError", "no such file"]
    assert second["fails on 0"] == [OtherRankError.__name__, "rank 0 failed (fails on 0); its message says why"]
    assert second["fails on 1"] == ["UserError", "not mounted here"]
    assert first["fails on 1"] == [OtherRankError.__name__, "rank 1 failed (fails on 1, told); its message says why"]


def train_where_rank_1_sees_what_was_there(rank: int, n_ranks: int, recipe_file: str) -> None:
    if rank == 1:  # as through a file system that asks its server now and then
        RunFolder.summary = lambda self: {"steps": 10**6}
        RunFolder.saved_recipe = lambda self: None
    settings = ("train.steps=2", "optim.schedule.warmup=1", "watch.sample_tokens=0")
    for _ in range(2):  # the second finds it finished
        os.environ["MASTER_PORT"] = str(int(os.environ["MASTER_PORT"]) + 1)
        train(load_recipe(recipe_file, settings), QUIET)


def test_what_the_folder_holds_is_what_rank_0_sees(tiny: Path) -> None:
    processes = ranks.start(train_where_rank_1_sees_what_was_there, 2, str(tiny), launched=True)
    assert ranks.end(processes, 60) == [0, 0]
    assert (tiny.parent / "runs/tiny/summary.json").exists()


def test_a_process_that_is_alone_looks_for_itself() -> None:
    assert told_by_rank_0(ALONE, "anything", 3) == 3


def test_decisions_are_kept_where_they_can_be_and_made_again_where_what_decides_is_changed(
    tiny: Path, tmp_path: Path, monkeypatch
) -> None:
    monkeypatch.setattr(machine, "measure_peak", lambda device, precision: 1e11)
    folder, console = RunFolder(tmp_path), Console(record=True, file=StringIO())
    former = machine.Machine("cpu", machine.processor_name(), "fp32", True, torch.get_num_threads(), torch.__version__)
    folder.save_json("machine.json", former.as_dict())

    def chosen(changes: list[str], compiler: bool, *overrides: str) -> machine.Machine:
        for module in (machine, opening):
            monkeypatch.setattr(module, "compiler_found", lambda device: compiler)
        recipe = load_recipe(str(tiny), ("train.precision=auto", "train.compile=auto", *overrides))
        return opening._choose_machine(recipe, folder, RunSize({}, 1.0), changes, Display(console), 1)

    assert chosen([], True) == former
    assert console.export_text() == ""
    assert chosen([], False) == replace(former, compiled=False)
    assert "the run began with compiled True and goes on with False" in " ".join(console.export_text().split())
    assert chosen(["train.float8: off -> rowwise"], True, "train.float8=rowwise").precision == "bf16"


def test_the_memory_that_is_said_is_that_of_a_rank_by_what_was_decided(tiny: Path) -> None:
    recipe = load_recipe(str(tiny), ["train.precision=auto", "train.device=auto"]).with_planned_vocabulary()
    planned = plan_model(recipe.model, recipe.init)

    def said(precision: str, n_ranks: int = 1) -> float:
        decided = machine.Machine("cpu", "", precision, False, 1, "", n_ranks)
        return opening._memory(recipe, decided, recipe.axes(n_ranks), planned)

    asked = load_recipe(str(tiny), ["train.precision=fp32", "train.device=cpu"])
    assert said("fp32") == estimate_recipe(asked, 1).memory.total != said("bf16")
    assert said("fp32", 2) == estimate_recipe(asked, 2).memory.total != said("fp32")


def test_a_run_hashes_nothing_that_has_not_changed_and_opens_its_rows_once(tiny: Path, monkeypatch) -> None:
    settings = ("train.steps=3", "watch.validate_every=1", "watch.sample_tokens=0", "data.packing=best_fit")
    recipe = load_recipe(str(tiny), settings)
    _find_corpus(recipe, QUIET)
    hashed: list[str] = []
    opened: list[str] = []
    hash_file, split = stamps.hash_file, PreparedCorpus.split
    monkeypatch.setattr(stamps, "hash_file", lambda path: (hashed.append(path.name), hash_file(path))[1])
    monkeypatch.setattr(PreparedCorpus, "split", lambda corpus, name: (opened.append(name), split(corpus, name))[1])
    train(recipe, QUIET)
    assert hashed == []
    assert sorted(opened) == ["train", "validation"]
