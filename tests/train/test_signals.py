"""What asks a run to end is noted once; a second signal ends it, but for those of schedulers and echoes."""

import os
import signal
import subprocess
import sys
import time

import pytest

from isogloss.train import signals as module
from isogloss.train.signals import REQUEUE, TIME_LIMIT, Interrupted, leave_at_once, stop_requests


@pytest.fixture
def heard(monkeypatch):
    """Signals that got past ``stop_requests``, to the handlers that were there before."""
    numbers: list[int] = []
    former = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGUSR1)}
    for number in former:
        signal.signal(number, lambda number, frame: numbers.append(number))
    yield numbers
    for number, handler in former.items():
        signal.signal(number, handler)


def test_the_first_signal_is_noted_and_the_second_goes_through(heard, monkeypatch, capfd) -> None:
    monkeypatch.setattr(module, "ECHO", -1.0)
    with stop_requests() as request:
        assert request.asked == 0
        os.kill(os.getpid(), signal.SIGTERM)
        assert request.asked == signal.SIGTERM
        assert heard == []
        os.kill(os.getpid(), signal.SIGTERM)
        assert heard == [signal.SIGTERM]
    assert "to save" in capfd.readouterr().err
    os.kill(os.getpid(), signal.SIGTERM)
    assert heard == [signal.SIGTERM] * 2


def test_an_echo_of_the_first_changes_nothing(heard, monkeypatch, capfd) -> None:
    monkeypatch.setattr(module, "ECHO", 3600.0)
    with stop_requests(loud=False) as request:
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGTERM)
    assert request.asked == signal.SIGTERM
    assert heard == []
    assert capfd.readouterr().err == ""


def test_a_scheduler_may_repeat_itself(heard, monkeypatch) -> None:
    monkeypatch.setattr(module, "ECHO", -1.0)
    with stop_requests(loud=False) as request:
        for _ in range(3):
            os.kill(os.getpid(), signal.SIGUSR1)
    assert request.asked == signal.SIGUSR1
    assert heard == []


def test_the_limit_of_time() -> None:
    with stop_requests(time.monotonic() + 3600) as request:
        assert request.asked == 0
    with stop_requests(time.monotonic() - 1) as request:
        assert request.asked == TIME_LIMIT


@pytest.mark.parametrize(
    ("asked", "many", "code"),
    [
        (signal.SIGINT, False, 130),
        (signal.SIGINT, True, 130),
        (signal.SIGTERM, False, 143),
        (signal.SIGTERM, True, REQUEUE),
        (signal.SIGUSR1, False, REQUEUE),
        (signal.SIGUSR2, True, REQUEUE),
        (TIME_LIMIT, False, REQUEUE),
    ],
)
def test_exit_codes(asked: int, many: bool, code: int) -> None:
    assert Interrupted(asked, many).exit_code == code


def test_a_schedulers_signal_outside_the_steps_asks_for_another_start() -> None:
    code = "import signal; from isogloss.train.signals import leave_at_once\n"
    code += "with leave_at_once(): signal.raise_signal(signal.SIGUSR1)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == REQUEUE


def test_in_a_notebook_an_interrupt_stays_an_exception() -> None:
    with leave_at_once():
        assert signal.getsignal(signal.SIGINT) == signal.default_int_handler


@pytest.mark.parametrize(("ignored", "asked"), [(False, signal.SIGHUP), (True, 0)])
def test_a_closed_terminal_is_heard_unless_nohup_ignores_it(ignored: bool, asked: int) -> None:
    former = signal.signal(signal.SIGHUP, signal.SIG_IGN if ignored else signal.SIG_DFL)
    try:
        with leave_at_once(), stop_requests(loud=False) as request:
            os.kill(os.getpid(), signal.SIGHUP)
            assert request.asked == asked
    finally:
        signal.signal(signal.SIGHUP, former)


def test_a_rank_of_several_is_asked_so_by_sigterm_too(heard, monkeypatch) -> None:
    codes = list[int]()
    monkeypatch.setattr(module.os, "_exit", codes.append)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    for many in (False, True):
        with leave_at_once(many):
            handler = signal.getsignal(signal.SIGTERM)
        assert callable(handler)
        handler(signal.SIGTERM, None)
    assert codes == [128 + signal.SIGTERM, REQUEUE]
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
