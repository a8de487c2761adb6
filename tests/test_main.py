"""Signals that come before anything is imported: a scheduler's are answered from the first line on."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from isogloss import cli
from isogloss.cli.errors import asked_to_leave
from isogloss.train.signals import OUTCOME, REQUEUE

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="no such signals")
TORCHRUN, SRUN, ALONE = {"WORLD_SIZE": "2"}, {"SLURM_STEP_NUM_TASKS": "2"}, {"WORLD_SIZE": "1"}


def ended(number: int, words: list[str], environment: dict[str, str], before: str = "") -> int:
    """How a process ends that gets a signal right after it has begun to listen."""
    code = f"import signal\nfrom isogloss.__main__ import hear_early\n{before}\n"
    code += f"hear_early({words}, {environment})\nsignal.raise_signal({number})"
    return subprocess.run([sys.executable, "-c", code], check=False).returncode


@pytest.mark.parametrize(
    ("number", "words", "environment", "code"),
    [
        (signal.SIGUSR1, ["train"], {}, REQUEUE),
        (signal.SIGUSR2, ["launch", "local", "my.yaml"], {}, REQUEUE),
        (signal.SIGTERM, ["launch", "local"], {}, REQUEUE),
        (signal.SIGTERM, ["train", "my.yaml"], TORCHRUN, REQUEUE),
        (signal.SIGTERM, ["train"], SRUN, REQUEUE),
        (signal.SIGTERM, ["train"], ALONE, 128 + signal.SIGTERM),
        (signal.SIGHUP, ["train"], ALONE, 128 + signal.SIGHUP),
        (signal.SIGHUP, ["launch", "local"], {}, 128 + signal.SIGHUP),
        (signal.SIGHUP, ["train"], TORCHRUN, 128 + signal.SIGHUP),
        (signal.SIGINT, ["train"], ALONE, 128 + signal.SIGINT),
        (signal.SIGUSR1, ["config", "show"], TORCHRUN, -signal.SIGUSR1),  # the control: not heard, it kills
    ],
)
def test_a_signal_gives_the_code_that_it_gives_later(number: int, words: list[str], environment, code: int) -> None:
    assert ended(number, words, environment) == code


def test_the_program_listens_before_the_command_line_is_imported() -> None:
    code = "import signal, sys, types\ncli = types.ModuleType('isogloss.cli')\n"
    code += "cli.main = lambda: signal.raise_signal(signal.SIGUSR1)\nsys.modules['isogloss.cli'] = cli\n"
    code += "sys.argv = ['isogloss', 'train']\nfrom isogloss.__main__ import main\nmain()"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == REQUEUE


def test_a_launcher_gets_the_word(tmp_path: Path, monkeypatch) -> None:
    """srun kills the others when the first one leaves, and says no more than that; it may do so by SIGTERM."""
    monkeypatch.setenv(OUTCOME, str(tmp_path / "outcome"))
    assert ended(signal.SIGTERM, ["train"], SRUN) == REQUEUE
    assert not (tmp_path / "outcome").exists(), "a crash of another rank would be put into the queue for ever"
    assert ended(signal.SIGUSR1, ["train"], SRUN) == REQUEUE
    assert (tmp_path / "outcome").read_text() == f"{REQUEUE}\n"


@pytest.mark.parametrize(("place", "code"), [("outcome", 0), ("no folder/outcome", REQUEUE), (None, REQUEUE)])
def test_a_word_that_cannot_be_left_is_the_code(tmp_path: Path, monkeypatch, place: str | None, code: int) -> None:
    monkeypatch.delenv(OUTCOME, raising=False)
    if place is not None:
        monkeypatch.setenv(OUTCOME, str(tmp_path / place))
    assert asked_to_leave(REQUEUE) == code


@pytest.mark.parametrize("number", [signal.SIGUSR1, signal.SIGHUP, signal.SIGINT])
def test_what_is_ignored_stays_so(number: int) -> None:
    """SIGHUP is under nohup, SIGINT in the background of a shell."""
    assert ended(number, ["train"], {}, f"signal.signal({number}, signal.SIG_IGN)") == 0


def test_ctrl_c_is_not_lost_where_exceptions_are() -> None:
    """As in what runs when an object is deleted, while something is imported."""
    code = "import signal, time\nfrom isogloss.__main__ import hear_early\n{}\nclass Deleted:\n"
    code += "    def __del__(self):\n        signal.raise_signal(signal.SIGINT)\nDeleted()\n"
    heard = [code.format(line) for line in ("hear_early(['train'], {})", "")]
    ends = [subprocess.run([sys.executable, "-c", code], check=False, capture_output=True).returncode for code in heard]
    assert ends == [130, 0]  # the second is the control


def test_what_was_held_back_until_then_is_heard() -> None:
    held = "signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR1, signal.SIGTERM])\n"
    held += "signal.raise_signal(signal.SIGUSR1)"
    assert ended(signal.SIGTERM, ["train"], {}, held) == REQUEUE
    assert ended(signal.SIGTERM, ["train"], {}, held.partition("\n")[0]) == 128 + signal.SIGTERM


def test_nothing_heavy_is_imported_before() -> None:
    code = "import sys; before = set(sys.modules); import isogloss.__main__; print(*sorted(set(sys.modules) - before))"
    found = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout.split()
    assert "isogloss.__main__" in found
    assert not {"typer", "click", "isogloss.cli", "logging", "pathlib", "torch"} & set(found)


CLOSED = (
    "import os, sys; os.closerange(0, 3); os.execv(sys.executable, [sys.executable, '-c', sys.argv[1], sys.argv[2]])"
)


@pytest.mark.parametrize("guarded", [True, False])
def test_no_file_gets_the_number_of_a_stream_that_is_closed(tmp_path: Path, guarded: bool) -> None:
    """Else what is written to that number, by a library or `isogloss.train.signals`, goes into the file."""
    code = "import os, sys; from isogloss.__main__ import open_what_is_closed\n"
    code += "open_what_is_closed()\n" if guarded else ""
    code += (
        "files = [open(sys.argv[1], 'ab', 0) for _ in range(3)]\nfiles[2].write(b'weights')\nos.write(2, b'stopping')"
    )
    subprocess.run([sys.executable, "-c", CLOSED, code, tmp_path / "file"], check=True)
    assert ((tmp_path / "file").read_bytes() == b"weights") == guarded


FULL = "isogloss: the disk is full (while writing). Free some space and run the same command again\n"


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full")
@pytest.mark.parametrize(
    ("word", "redirected", "code", "said"),
    [
        ("--help", "> /dev/full", 2, FULL),  # written at once
        ("--version", "> /dev/full", 2, FULL),  # at the end
        ("--help", "> /dev/full 2> /dev/full", 2, ""),
        ("--help", ">&-", 0, ""),
        ("--help", "| true", 141, ""),
        ("--version", "| true", 141, ""),
    ],
)
def test_what_cannot_be_written_is_said_once(word: str, redirected: str, code: int, said: str) -> None:
    # Buffered, as by default: what is left of it fails once more when the interpreter ends.
    command = f"set -o pipefail; unset PYTHONUNBUFFERED; '{sys.executable}' -m isogloss {word} {redirected}"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (code, said)


def test_streams_that_python_does_not_have_are_left_so() -> None:
    """As under pythonw, or where a program has put them away: their numbers may be somebody else's."""
    code = "import sys; sys.stdout = sys.stderr = None\nfrom isogloss.__main__ import open_what_is_closed\n"
    code += "open_what_is_closed(); sys.exit(sys.stdout is not None)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize(("handled", "after"), [(True, signal.SIG_IGN), (False, signal.SIG_DFL)])
def test_a_schedulers_signal_after_the_end_does_not_kill_the_process(monkeypatch, handled: bool, after) -> None:
    import isogloss.train.signals  # noqa: F401 (as after a run)
    from isogloss.cli import errors

    former = signal.signal(signal.SIGUSR1, (lambda *_: None) if handled else signal.SIG_DFL)
    try:
        with pytest.raises(SystemExit):
            errors.leave(0)
        assert signal.getsignal(signal.SIGUSR1) == after
    finally:
        signal.signal(signal.SIGUSR1, former)


def test_a_command_that_ends_well_leaves_so(monkeypatch) -> None:
    left: list[int] = []
    monkeypatch.setattr(cli, "leave", left.append)
    monkeypatch.setattr(cli, "app", lambda: sys.exit(0))
    with pytest.raises(SystemExit):
        cli.main()
    assert left == [0]
