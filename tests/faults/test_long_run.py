"""A long run on two ranks with a fault in every session: killed, signalled, damaged, poisoned; drawn from a fixed seed.

In the end it is the run that was left alone, and nothing has grown. ``ISOGLOSS_FAULTS`` says how many faults.
"""

import os
import random
import signal
import statistics
import time
from collections import Counter
from collections.abc import Callable
from multiprocessing.process import BaseProcess
from pathlib import Path

import pytest

import checkpoint_jobs as jobs
import long_run_jobs
import ranks
from isogloss.checkpoint.layout import CorruptCheckpointError, checkpoint_folders
from isogloss.checkpoint.load import load_checkpoint
from isogloss.train.metrics import read_metrics
from isogloss.train.signals import REQUEUE

FAULTS = int(os.environ.get("ISOGLOSS_FAULTS", "0"))
pytestmark = [pytest.mark.slow, pytest.mark.skipif(FAULTS == 0, reason="a longer campaign: make faults")]
SEED = 5
UNDISTURBED = 300  # steps of the last session, over which nothing may grow
CODES = {signal.SIGTERM: REQUEUE, signal.SIGUSR1: REQUEUE, signal.SIGUSR2: REQUEUE, signal.SIGINT: 130}


class LongRun:
    """``isogloss train`` on two ranks, in many sessions."""

    def __init__(self, recipe: Path, name: str, steps: int) -> None:
        self.recipe, self.name, self.steps = recipe, name, steps
        self.watched = recipe.parent / f"watched-{name}"
        (self.watched / "tmp").mkdir(parents=True)
        (self.watched / "announced").touch()
        self.folder = recipe.parent / "runs" / name

    def launch(self, poisoned: tuple[int, int] = (-1, 0), without: str = "") -> list[BaseProcess]:
        (self.watched / "stage").write_bytes(bytes(2))
        words = [f"name={self.name}", f"train.steps={self.steps}", "checkpoint.every=1", "train.max_skipped=2"]
        words += ["watch.validate_every=20", "watch.sample_every=50", "optim.schedule.type=constant"]
        words += [f"data.prepared_dir={self.watched}/prepared"]
        arguments = (str(self.recipe), words, str(self.watched), poisoned, without)
        return ranks.start(long_run_jobs.train, 2, *arguments, launched=True)

    def finish(self, **how) -> None:
        assert ranks.end(self.launch(**how), 300) == [0, 0]

    def wait_for_saves(self, processes: list[BaseProcess], n: int) -> None:
        """Until so many more checkpoints are announced, or the session is over."""
        announced = self.watched / "announced"
        until = len(announced.read_bytes().split()) + n
        while all(p.is_alive() for p in processes) and len(announced.read_bytes().split()) < until:
            time.sleep(0.001)

    def result(self) -> tuple[object, ...]:
        """Tensors of the newest checkpoint, all records but times, and the names of all files."""
        timed = ("tokens_per_second", "share_of_peak", "seconds")
        records = [{k: v for k, v in r.items() if k not in timed} for r in read_metrics(self.folder / "metrics.jsonl")]
        names = sorted(path.relative_to(self.folder).as_posix() for path in self.folder.rglob("*"))
        return jobs.digest(self.folder / "checkpoints"), records, names

    def holdings(self, rank: int) -> list[tuple[int, ...]]:
        """Open files, threads and resident kB in the last session."""
        lines = (self.watched / f"holdings-{rank}").read_text().splitlines()
        return [tuple(map(int, line.split())) for line in lines]


def kill(run: LongRun, generator: random.Random) -> None:
    processes = run.launch()
    run.wait_for_saves(processes, generator.randrange(4))
    time.sleep(generator.uniform(0, 0.03))
    victim = generator.randrange(2)
    processes[victim].kill()
    if generator.random() < 0.5:
        processes[1 - victim].kill()
    assert ranks.end(processes, 60)[victim] == -signal.SIGKILL


def signalled(run: LongRun, generator: random.Random) -> None:
    processes, number = run.launch(), generator.choice(list(CODES))
    run.wait_for_saves(processes, generator.randrange(1, 4))
    pid = generator.choice(processes).pid
    assert pid is not None
    os.kill(pid, number)
    assert ranks.end(processes, 60) == [CODES[number]] * 2


def flip_a_bit(path: Path, generator: random.Random) -> None:
    data = bytearray(path.read_bytes())
    data[generator.randrange(len(data))] ^= 1 << generator.randrange(8)
    path.write_bytes(bytes(data))


def rot(run: LongRun, generator: random.Random) -> str | None:
    """A bit of the newest checkpoint, where the one before it is whole; then a kill."""
    folders = checkpoint_folders(run.folder / "checkpoints")
    steps = sorted(folders)
    try:
        load_checkpoint(folders[steps[-2]])
    except (CorruptCheckpointError, IndexError):
        kill(run, generator)
        return "kill"
    path = generator.choice(sorted(folders[steps[-1]].glob("*.safetensors")))
    flip_a_bit(path, generator)
    # What was announced is lost, and only that.
    announced = run.watched / "announced"
    kept = [line for line in announced.read_text().split() if int(line) < steps[-1]]
    announced.write_text("".join(f"{line}\n" for line in kept))
    kill(run, generator)
    return None


def poisoned_steps(run: LongRun, generator: random.Random) -> None:
    """Steps that are not finite on one rank, until the run gives up."""
    processes = run.launch(poisoned=(generator.randrange(2), generator.randrange(1, 5)))
    end_as_a_launcher(processes, 2)


def poisoned_records(run: LongRun, generator: random.Random) -> None:
    """A document that is no text, taken away after it has been complained of."""
    path = run.recipe.parent / "corpus/bad.txt"
    path.write_bytes(b"\xff" * generator.randrange(1, 99))
    end_as_a_launcher(run.launch(), 2)
    path.unlink()


def rotten_corpus(run: LongRun, generator: random.Random) -> None:
    """A bit of the prepared tokens: prepared again by the next session."""
    flip_a_bit(next((run.watched / "prepared").glob("*/train-00000.bin")), generator)
    signalled(run, generator)


def end_as_a_launcher(processes: list[BaseProcess], code: int) -> None:
    """When one rank has failed the others are ended."""
    deadline = time.monotonic() + 60
    while all(process.is_alive() for process in processes) and time.monotonic() < deadline:
        time.sleep(0.005)
    assert code in [process.exitcode for process in processes]
    for process in processes:
        process.kill()
        process.join()


KINDS: list[Callable[[LongRun, random.Random], str | None]] = [
    kill, kill, signalled, signalled, rot, poisoned_steps, poisoned_records, rotten_corpus,
]  # fmt: skip


def check_nothing_grew(run: LongRun) -> None:
    for rank in (0, 1):
        holdings = run.holdings(rank)
        middle = len(holdings) // 2
        assert middle >= UNDISTURBED // long_run_jobs.EVERY // 3
        early, late = holdings[middle // 2 : middle], holdings[middle:]
        for part, spare in ((0, 3), (1, 2), (2, 8_000)):  # files and threads, of which a save has some; kB
            before, after = (statistics.median(line[part] for line in lines) for lines in (early, late))
            assert after <= before + spare, (rank, part, holdings)


@pytest.mark.campaign(23)
def test_a_long_run_under_many_kinds_of_fault(tiny: Path, capsys) -> None:
    steps = UNDISTURBED + 4 * FAULTS
    whole, hurt = LongRun(tiny, "whole", steps), LongRun(tiny, "hurt", steps)
    whole.finish()
    generator, kinds = random.Random(SEED), Counter[str]()
    for fault in [signalled, *KINDS, *generator.choices(KINDS, k=FAULTS)][:FAULTS]:
        kinds[fault(hurt, generator) or fault.__name__] += 1
    hurt.finish()
    for mine, meant in zip(hurt.result(), whole.result(), strict=True):
        assert mine == meant
    check_nothing_grew(hurt)
    assert list((hurt.watched / "tmp").iterdir()) == []
    with capsys.disabled():
        said = ", ".join(f"{n} {kind.replace('_', ' ')}" for kind, n in kinds.items())
        print(f"\n{FAULTS} faults ({said}) in {steps} steps of 2 ranks: the end is identical, nothing has grown")


@pytest.mark.control(23)
def test_without_the_look_for_what_is_not_finite_the_end_is_another(tiny: Path) -> None:
    whole, hurt = LongRun(tiny, "whole", 12), LongRun(tiny, "hurt", 12)
    whole.finish()
    hurt.finish(poisoned=(1, 5), without="check")
    assert hurt.result()[0] != whole.result()[0]


@pytest.mark.control(23)
def test_what_grows_is_seen(tiny: Path) -> None:
    run = LongRun(tiny, "leaking", UNDISTURBED)
    run.finish(without="closing")
    with pytest.raises(AssertionError):
        check_nothing_grew(run)
