"""``kill -9`` at any moment: the end is that of an undisturbed process, and no worker lives on."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

N_KILLS = max(int(os.environ.get("ISOGLOSS_FAULTS", "0")) // 3, 3)

PREPARE = """
import os, sys, time
from pathlib import Path

from isogloss.data.prepare import FilesConfig, inputs, pipeline, prepare, split
from isogloss.data.tokenizers.config import BPEConfig

inputs.UNIT_BYTES = 50_000
split.SHARD_BYTES = 50_000

scan = pipeline.scan_unit

def hold(where):
    while os.environ.get("HELD") == where:
        time.sleep(0.01)

def scan_unit(task):
    record = scan(task)
    hold("in a worker")
    return record

pipeline.scan_unit = scan_unit

if __name__ == "__main__":
    config = FilesConfig(train=(sys.argv[1],), prepared_dir=Path(sys.argv[2]), validation_bytes=20_000)
    print(prepare(config, BPEConfig(vocab_size=300), workers=2).folder)
    hold("at the end")
"""


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    root = tmp_path_factory.mktemp("program")
    generator = random.Random(0)
    words = ["def", "if", "else", "return", "self", "é", "for", "in", "range"]
    lines = [json.dumps({"text": " ".join(generator.choices(words, k=100))}) for _ in range(2000)]
    (root / "texts.jsonl").write_text("\n".join(lines))
    (root / "program.py").write_text(PREPARE)
    return [sys.executable, str(root / "program.py"), str(root / "texts.jsonl")]


@pytest.fixture(scope="module")
def calm(program: list[str], tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, bytes], float]:
    """What an undisturbed process leaves, and how many seconds it worked."""
    prepared = tmp_path_factory.mktemp("calm")
    process = subprocess.Popen([*program, str(prepared)], stdout=subprocess.PIPE, text=True)
    wait_for(process, prepared, "*.partial")  # what comes before writes nothing
    start = time.monotonic()
    folder, _ = process.communicate()
    assert process.returncode == 0
    return contents(Path(folder.strip())), time.monotonic() - start


def contents(folder: Path) -> dict[str, bytes]:
    files = (path for path in folder.rglob("*") if path.is_file() and path.name != "verified.json")
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


def children(process: int) -> list[int]:
    path = Path(f"/proc/{process}/task/{process}/children")
    return [int(word) for word in path.read_text().split()] if path.exists() else []


def is_alive(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


def held(program: list[str], prepared: Path, where: str, **options: Any) -> subprocess.Popen[str]:
    """The program, which waits to be killed at some place: its end would come before a slow test's kill."""
    environment = os.environ | {"HELD": where}
    return subprocess.Popen([*program, str(prepared)], env=environment, text=True, **options)


def wait_for(process: subprocess.Popen[str], prepared: Path, files: str) -> None:
    """Until the program has written some."""
    deadline = time.monotonic() + 300
    while not list(prepared.glob(files)):
        assert process.poll() is None, f"it ended before it wrote {files}"
        assert time.monotonic() < deadline, f"it wrote no {files}"
        time.sleep(0.01)


@pytest.mark.campaign(1)
@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="needs /proc to find worker processes")
def test_killed_at_any_moment(tmp_path: Path, program: list[str], calm: tuple[dict[str, bytes], float]) -> None:
    expected, seconds = calm
    generator = random.Random(int(os.environ.get("ISOGLOSS_FAULTS_SEED", "0")))
    n_left = n_done = 0
    for _ in range(N_KILLS):
        process = held(program, tmp_path / "killed", "at the end", stdout=subprocess.DEVNULL)
        wait_for(process, tmp_path / "killed", "*")
        time.sleep(generator.uniform(0, 0.9) * seconds)
        workers = children(process.pid)
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
        n_left += len(list((tmp_path / "killed").glob("*.partial")))
        deadline = time.monotonic() + 300
        while any(map(is_alive, workers)) and time.monotonic() < deadline:
            time.sleep(0.05)
        assert not any(map(is_alive, workers)), "a worker outlived the process it worked for"
        if list((tmp_path / "killed").glob("*/manifest.json")):  # it was done: from the beginning again
            n_done += 1
            (tmp_path / "killed").rename(tmp_path / f"done-{time.monotonic_ns()}")
    assert n_done < N_KILLS or N_KILLS < 10
    ended = subprocess.run([*program, str(tmp_path / "killed")], capture_output=True, text=True, check=True)
    assert contents(Path(ended.stdout.strip())) == expected
    assert not list((tmp_path / "killed").glob("*.partial"))
    print(f"{N_KILLS} kills, {n_done} after the work was done, {n_left} left work behind, 1 identical")


@pytest.mark.campaign(1)
@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="needs /proc to find worker processes")
def test_a_killed_worker_is_told_of_and_nothing_is_lost(
    tmp_path: Path, program: list[str], calm: tuple[dict[str, bytes], float]
) -> None:
    process = held(program, tmp_path / "killed", "in a worker", stderr=subprocess.PIPE)
    wait_for(process, tmp_path / "killed", "*/spills/*.json")
    workers = [child for child in children(process.pid) if b"spawn_main" in cmdline(child)]
    os.kill(workers[0], signal.SIGKILL)
    _, told = process.communicate(timeout=300)
    assert process.returncode != 0
    assert "a process that prepares the text was killed" in told
    ended = subprocess.run([*program, str(tmp_path / "killed")], capture_output=True, text=True, check=True)
    assert contents(Path(ended.stdout.strip())) == calm[0]


def cmdline(process: int) -> bytes:
    try:
        return Path(f"/proc/{process}/cmdline").read_bytes()
    except OSError:  # it has gone meanwhile
        return b""
