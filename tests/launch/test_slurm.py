"""The job script, run under a SLURM that is made of three shell scripts."""

import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from isogloss.config.base import UserError
from isogloss.config.load import load_config
from isogloss.launch.slurm import SlurmLaunch, _options, parse_time, plan_slurm, submit, write_slurm
from isogloss.recipe import Recipe, load_recipe

LAUNCH = SlurmLaunch(nodes=2, gpus_per_node=8, minutes=60, partition="long", account="me", options=("--mem=0",))

FAKES = {
    "scontrol": """
case "$1 $2" in
    "show hostnames") printf 'first\\nsecond\\n' ;;
    "show job") echo "JobState=${STATE:-RUNNING} Reason=None" ;;
    *) echo "$@" >> "$SAID" ;;
esac""",
    "srun": """
echo "$MASTER_ADDR $MASTER_PORT $OMP_NUM_THREADS $PYTHONPATH" "$@" >> "$SAID"
[ -e "$ISOGLOSS_OUTCOME" ] && echo "a word of before" >> "$SAID"
[ -n "${WORD:-}" ] && printf "$WORD" > "$ISOGLOSS_OUTCOME"
echo "${RANK:-no} ${WORLD_SIZE:-no} rank" >> "$SAID"
exit "$CODE\"""",
    "sbatch": 'echo "Submitted batch job 7"; echo sbatch "$@" >> "$SAID"',
}


@pytest.fixture(autouse=True)
def _no_waiting_for_the_disk(monkeypatch) -> None:
    """The copy of the package has some 250 files."""
    monkeypatch.setattr(os, "fsync", lambda handle: None)


@pytest.fixture
def slurm(tmp_path: Path, monkeypatch) -> Path:
    """A folder of fakes on the path; what they were told is in the file ``said``."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for name, body in FAKES.items():
        (folder / name).write_text(f"#!/bin/bash\n{body}\n")
        (folder / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("SAID", str(tmp_path / "said"))
    for name, value in {"SLURM_JOB_ID": "12345", "SLURM_JOB_NODELIST": "n[1-2]", "SLURM_CPUS_PER_TASK": "8"}.items():
        monkeypatch.setenv(name, value)
    return tmp_path / "said"


@pytest.fixture
def recipe(tiny: Path) -> Recipe:
    return load_recipe(str(tiny), ["train.batch_size=48"])


def test_what_is_asked_of_sbatch(recipe: Recipe) -> None:
    script = plan_slurm(recipe, LAUNCH).script
    for option in (
        "--job-name=tiny",
        "--nodes=2",
        "--ntasks-per-node=8",
        "--gpus-per-node=8",
        "--time=60",
        "--partition=long",
        "--account=me",
        "--requeue",
        "--signal=USR1@180",
        "--open-mode=append",
        f"--chdir={Path.cwd()}",
        "--mem=0",
    ):
        assert f"#SBATCH {option}\n" in script
    # SLURM reads its options up to the first command.
    assert script.index("set -u") > script.rindex("#SBATCH")
    assert "train.max_minutes=58.5" in script
    assert not recipe.folder.parent.exists()  # planned only


def test_sbatch_reads_a_path_with_blanks_as_one_option(recipe: Recipe, tmp_path: Path) -> None:
    spaced = recipe.model_copy(update={"runs_dir": tmp_path / "my runs"})
    lines = plan_slurm(spaced, LAUNCH).script.splitlines()
    options = [line.removeprefix("#SBATCH ") for line in lines if line.startswith("#SBATCH")]
    # sbatch takes words apart at blanks, as a shell does, and minds quotes.
    assert [f"--output={tmp_path}/my runs/.launch/tiny/slurm-%j.out"] in map(shlex.split, options)


def test_no_gpus_no_option_of_gpus(recipe: Recipe) -> None:
    script = plan_slurm(recipe, SlurmLaunch(nodes=3, gpus_per_node=0, minutes=60)).script
    assert "--gpus" not in script
    assert "--partition" not in script
    assert "#SBATCH --ntasks-per-node=1\n" in script


@pytest.mark.parametrize(
    ("code", "word", "ends", "state", "again"),
    [
        (0, 75, 75, "RUNNING", True),
        (75, None, 75, "RUNNING", True),  # asked before the first step
        (137, 75, 75, "RUNNING", True),  # srun has killed who was last on the way out
        (0, 75, 75, "CANCELLED", False),
        (0, None, 0, "RUNNING", False),
        (0, 129, 129, "RUNNING", False),
        (137, None, 137, "RUNNING", False),
        (1, 75, 1, "RUNNING", False),  # what a rank has failed with counts more
    ],
)
def test_a_job_that_has_more_to_do_queues_again(
    recipe: Recipe, slurm: Path, monkeypatch, code: int, word: int | None, ends: int, state: str, again: bool
) -> None:
    job = plan_slurm(recipe, LAUNCH)
    job.path.parent.mkdir(parents=True)
    job.path.write_text(job.script)
    (job.path.parent / "outcome-12345").write_text("75")  # the same job, killed before, left it
    for name, value in {"CODE": code, "WORD": word or "", "RANK": 3, "WORLD_SIZE": 4}.items():
        monkeypatch.setenv(name, str(value))
    monkeypatch.setenv("STATE", state)
    monkeypatch.delenv("PYTHONPATH", raising=False)
    assert subprocess.run(["bash", job.path]).returncode == ends
    said = slurm.read_text().splitlines()
    command = f"--export=ALL --kill-on-bad-exit=1 --cpus-per-task=8 {sys.executable} -m isogloss train "
    assert said[0].startswith(f"first 17345 8 {job.code} {command}")
    assert said[1:] == ["no no rank", *(["requeue 12345"] if again else [])]
    assert not list(job.path.parent.glob("outcome-*"))


def test_code_and_recipe_are_those_of_the_submission(recipe: Recipe, tiny: Path, slurm: Path) -> None:
    job = plan_slurm(recipe, LAUNCH)
    assert submit(job) == "Submitted batch job 7"
    assert slurm.read_text().splitlines() == [f"sbatch {job.path}"]
    tiny.write_text("name: edited meanwhile")
    assert load_config(Recipe, job.recipe[0]) == recipe
    program = "import isogloss, isogloss.recipe; print(isogloss.__file__, len(isogloss.recipe.shipped_recipes()))"
    done = subprocess.run(
        [sys.executable, "-c", program], env=os.environ | {"PYTHONPATH": str(job.code)}, capture_output=True, text=True
    )
    assert done.stdout.split()[0] == str(job.code / "isogloss/__init__.py"), done.stderr
    assert int(done.stdout.split()[1]) >= 2
    assert (job.code / "origin.txt").read_text().startswith("isogloss ")
    (job.code / "isogloss/mark").write_text("")
    write_slurm(job)  # the same code again: its copy is left as it is
    assert (job.code / "isogloss/mark").exists()


def test_without_sbatch_it_says_so(recipe: Recipe, monkeypatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UserError, match="--dry-run prints the script"):
        submit(plan_slurm(recipe, LAUNCH))


def test_ranks_that_cannot_share_the_run(recipe: Recipe) -> None:
    with pytest.raises(UserError, match=r"batch_size \(48\) is not a multiple of the 64 ranks"):
        plan_slurm(recipe, SlurmLaunch(8, 8, minutes=60))


def test_a_limit_that_leaves_no_time(recipe: Recipe) -> None:
    with pytest.raises(UserError, match="leaves no time to train"):
        plan_slurm(recipe, SlurmLaunch(1, 8, minutes=6))


@pytest.mark.parametrize(
    ("text", "minutes"),
    [("90", 90), ("90:30", 90), ("2:30:00", 150), ("1-12", 2160), ("1-12:30", 2190), ("0-0:20:59", 20)],
)
def test_times(text: str, minutes: int) -> None:
    assert parse_time(text) == minutes


@pytest.mark.parametrize("text", ["", "soon", "1:2:3:4", "-5", "1-", "2h"])
def test_no_times(text: str) -> None:
    with pytest.raises(UserError, match="not a time"):
        parse_time(text)


def test_a_folder_with_a_percent_sign_is_no_pattern() -> None:
    """SLURM puts the job's number and others in the place of ``%j`` and the like."""
    options = _options("x", Path("/runs/50%j"), LAUNCH)
    assert "--output=/runs/50%%j/slurm-%j.out" in [option.replace("'", "") for option in options]
