"""A run as a SLURM job: the script that ``sbatch`` takes, and the code and the recipe as they are now beside it.

``srun`` starts one process for each GPU, and `isogloss.parallel.env` finds its variables. A job waits in a queue, and
is started again after each time limit, so it must not see what is edited meanwhile: the package and the resolved recipe
are copied when it is submitted. Before the limit SLURM sends SIGUSR1 to all ranks; they save and leave the word 75, and
the script then puts the job into the queue again. Any other exit code ends it.
"""

import hashlib
import shlex
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import isogloss
from isogloss.config.base import UserError
from isogloss.config.load import dump_config
from isogloss.durable import whole_folder, write_whole
from isogloss.recipe import Recipe
from isogloss.train.signals import OUTCOME, REQUEUE

_SCRIPT = """\
#!/bin/bash
{options}

# Made by `isogloss launch slurm`; submit it with: sbatch {script}
set -u
unset RANK LOCAL_RANK WORLD_SIZE  # of a shell that was itself started by a launcher; srun's variables count
export PYTHONPATH={code}${{PYTHONPATH:+:$PYTHONPATH}}
export OMP_NUM_THREADS=${{SLURM_CPUS_PER_TASK:-1}}
export MASTER_ADDR=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
export MASTER_PORT=$((15000 + SLURM_JOB_ID % 10000))
# Ranks that were asked to end leave their exit code here: srun kills those still on their way out as soon as one has
# another code than 0, and gives the highest, 137 then.
export {outcome}={folder}/outcome-$SLURM_JOB_ID
rm -f "${outcome}"

# SLURM 22.05 and later let go of the cores that were asked for unless they are named again; and where jobs do not get
# the environment they are submitted from (--export=NONE), ranks do not get this one, unless it is asked for.
srun --export=ALL --kill-on-bad-exit=1 --cpus-per-task="$OMP_NUM_THREADS" {command}
code=$?
if [ $code -eq 0 -o $code -ge 128 ] && [ -s "${outcome}" ]; then
    code=$(cat "${outcome}")
fi
rm -f "${outcome}"
# {requeue}: saved, and has more to do. A job that was cancelled does not run any more, and stays so.
if [ "$code" -eq {requeue} ] && scontrol show job "$SLURM_JOB_ID" | grep -q JobState=RUNNING; then
    scontrol requeue "$SLURM_JOB_ID" || echo "isogloss: this cluster does not requeue jobs; submit this script again"
fi
exit "$code"
"""


@dataclass(frozen=True)
class SlurmLaunch:
    """What is asked of SLURM.

    Args:
        nodes: how many machines.
        gpus_per_node: GPUs, and ranks, of each; 0: CPU ranks, one a node.
        minutes: the time limit of one go.
        partition: where; the cluster's default if ``None``.
        account: to whom it is charged; the user's default if ``None``.
        cpus_per_rank: cores, and threads, of each rank.
        lead: minutes before the limit at which ranks are asked to save.
        options: further options of sbatch, such as ``--mem=0``.
    """

    nodes: int
    gpus_per_node: int
    minutes: int
    partition: str | None = None
    account: str | None = None
    cpus_per_rank: int = 8
    lead: float = 3.0
    options: tuple[str, ...] = ()


@dataclass(frozen=True)
class SlurmJob:
    """A script and what it needs, not yet written.

    Args:
        script: its text.
        path: where it will stand.
        code: where the package's copy will stand.
        recipe: where the resolved recipe will stand, and its text.
    """

    script: str
    path: Path
    code: Path
    recipe: tuple[Path, str]


def plan_slurm(recipe: Recipe, launch: SlurmLaunch) -> SlurmJob:
    """The job for a recipe; writes nothing.

    Raises:
        UserError: the time limit leaves nothing to train in, or so many ranks cannot share the run.
    """
    recipe.axes(launch.nodes * (launch.gpus_per_node or 1))
    if launch.minutes <= 2 * launch.lead:
        raise UserError(
            f"--time of {launch.minutes} minutes leaves no time to train: ranks are asked to save {launch.lead:g} "
            "minutes before its end; ask for more time, or lower --lead"
        )
    folder = recipe.runs_dir.absolute() / ".launch" / recipe.name
    path, recipe_file = folder / "job.sbatch", folder / "recipe.yaml"
    code = folder / f"code-{_hash_package()}"
    # The clock asks as well, halfway into the lead: a signal may be lost.
    limit = f"train.max_minutes={launch.minutes - launch.lead / 2:g}"
    command = shlex.join([sys.executable, "-m", "isogloss", "train", str(recipe_file), limit])
    script = _SCRIPT.format(
        options="\n".join(f"#SBATCH {option}" for option in _options(recipe.name, folder, launch)),
        script=shlex.quote(str(path)),
        code=shlex.quote(str(code)),
        command=command,
        folder=shlex.quote(str(folder)),
        outcome=OUTCOME,
        requeue=REQUEUE,
    )
    return SlurmJob(script, path, code, (recipe_file, dump_config(recipe)))


def write_slurm(job: SlurmJob) -> None:
    """Write the script, the recipe and the copy of the package; a copy of the same code is kept as it is."""
    job.path.parent.mkdir(parents=True, exist_ok=True)
    if not job.code.exists():
        with whole_folder(job.code) as aside:
            shutil.copytree(_package(), aside / "isogloss", ignore=shutil.ignore_patterns("__pycache__"))
            (aside / "origin.txt").write_bytes(_origin().encode())
    write_whole(job.recipe[0], job.recipe[1].encode())
    write_whole(job.path, job.script.encode())


def submit(job: SlurmJob) -> str:
    """Write the job and hand it to sbatch; what sbatch said.

    Raises:
        UserError: there is no sbatch here, or it refused.
    """
    if shutil.which("sbatch") is None:
        raise UserError("there is no sbatch here; --dry-run prints the script, to be submitted where there is one")
    write_slurm(job)
    done = subprocess.run(["sbatch", str(job.path)], capture_output=True, encoding="utf-8", errors="replace")
    if done.returncode:
        raise UserError(f"sbatch refused {job.path}: {done.stderr.strip()}")
    return done.stdout.strip()


def parse_time(text: str) -> int:
    """Minutes of ``90``, ``2:30:00``, ``1-12`` or ``1-12:30``, as SLURM reads them; seconds are dropped.

    Raises:
        UserError: it is no time.
    """
    days, dash, clock = text.rpartition("-")
    try:
        numbers = [int(part) for part in clock.split(":")]
        n_days = int(days) if dash else 0
    except ValueError:
        numbers, n_days = [], 0
    if not 1 <= len(numbers) <= 3 or min([n_days, *numbers]) < 0:
        raise UserError(f"--time {text}: not a time such as 90 (minutes), 2:30:00, 1-12 or 1-12:30:00")
    if dash:  # days-hours[:minutes[:seconds]]
        return n_days * 1440 + numbers[0] * 60 + (numbers[1] if len(numbers) > 1 else 0)
    # minutes, minutes:seconds, hours:minutes:seconds
    return numbers[0] * 60 + numbers[1] if len(numbers) == 3 else numbers[0]


def _options(name: str, folder: Path, launch: SlurmLaunch) -> list[str]:
    per_node = launch.gpus_per_node or 1
    return [
        f"--job-name={name}",
        f"--nodes={launch.nodes}",
        f"--ntasks-per-node={per_node}",
        *([f"--gpus-per-node={launch.gpus_per_node}"] if launch.gpus_per_node else []),
        f"--cpus-per-task={launch.cpus_per_rank}",
        f"--time={launch.minutes}",
        *([f"--partition={launch.partition}"] if launch.partition else []),
        *([f"--account={launch.account}"] if launch.account else []),
        "--requeue",
        f"--signal=USR1@{round(60 * launch.lead)}",
        f"--chdir={shlex.quote(str(Path.cwd()))}",  # what is relative in the recipe is so to this
        f"--output={shlex.quote(str(folder).replace('%', '%%') + '/slurm-%j.out')}",  # %j is the job
        "--open-mode=append",
        *launch.options,
    ]


def _package() -> Path:
    return Path(isogloss.__file__).parent


def _hash_package() -> str:
    digest = hashlib.sha256()
    for path in sorted(_package().rglob("*")):
        if path.is_file() and "__pycache__" not in path.parts:
            digest.update(str(path.relative_to(_package())).encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()[:12]


def _origin() -> str:
    """Which commit the copied package is, and what differs from it; its version alone where it is no git tree."""

    def git(*words: str) -> str:
        done = subprocess.run(
            ["git", "-C", str(_package()), *words], capture_output=True, encoding="utf-8", errors="replace"
        )
        return done.stdout if done.returncode == 0 else ""

    commit = git("rev-parse", "HEAD") if shutil.which("git") else ""
    return f"isogloss {isogloss.__version__}\n" + (f"commit {commit}{git('diff', 'HEAD', '--', '.')}" if commit else "")
