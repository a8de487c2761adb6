"""Who is behind when a step takes too long."""

import threading
import time
from datetime import timedelta

import pytest
import torch.distributed as dist

from isogloss.config.base import UserError
from isogloss.parallel.env import OtherRankError, Ranks
from isogloss.train import first_error as module
from isogloss.train.first_error import first_error, of_another
from isogloss.train.watchdog import HUNG, Beat, Watchdog, describe


def beat(rank: int, step: int, pulse: int = 1) -> Beat:
    return Beat(rank, step, 9.0, "a.py:1 (f)", pulse)


def test_a_rank_that_writes_no_more_is_behind() -> None:
    before = {0: beat(0, 7), 1: beat(1, 7)}
    text = describe(before, {0: beat(0, 7, 2), 1: beat(1, 7)}, 60.0, 2)
    assert text.startswith("step 7 takes longer than 60 s: rank 1 gives no sign of life\n  rank 1 is in step 7")


def test_a_rank_that_never_wrote_is_behind() -> None:
    assert "rank 1 gives no sign of life" in describe({0: beat(0, 1)}, {0: beat(0, 1, 2)}, 60.0, 2)


def test_else_the_lowest_step_is() -> None:
    now = {0: beat(0, 8, 2), 1: beat(1, 7, 2), 2: beat(2, 8, 2)}
    assert "rank 1 is still in step 7" in describe({}, now, 60.0, 3)
    assert "all ranks are in it" in describe({}, {0: beat(0, 8), 1: beat(1, 8)}, 60.0, 2)


def wait_for(condition) -> None:
    deadline = time.monotonic() + 20
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.01)
    assert condition()


def test_it_ends_the_process_and_says_who_is_behind(capfd) -> None:
    store, codes = dist.HashStore(), list[int]()
    ended, released = threading.Event(), threading.Event()

    def end(code: int) -> None:
        codes.append(code)
        ended.set()
        released.wait(30)

    with Watchdog(Ranks(0, 0, 2, store), 0.4, end) as watchdog, watchdog.step(3):
        assert ended.wait(20)
        released.set()
    assert codes == [HUNG]
    error = capfd.readouterr().err
    assert "step 3 takes longer than 0 s: rank 1 gives no sign of life" in error
    assert "rank 0 is in step 3" in error
    assert "threading.py" in error  # where the main thread waits


def test_quick_steps_and_what_is_between_them_are_left_alone() -> None:
    codes = list[int]()
    with Watchdog(Ranks(0, 0, 2, dist.HashStore()), 0.3, codes.append) as watchdog:
        for number in range(5):
            with watchdog.step(number):
                time.sleep(0.05)
        time.sleep(1.0)
    assert codes == []


def test_a_process_alone_has_no_watchdog() -> None:
    with Watchdog(Ranks(0, 0, 1), 0.01) as watchdog, watchdog.step(1):
        time.sleep(0.1)
        assert not watchdog._thread.is_alive()


@pytest.fixture
def exits(monkeypatch) -> list[int]:
    """Exit codes of processes that end without a word, and no waiting."""
    codes = list[int]()

    def leave(code: int) -> None:
        codes.append(code)
        raise SystemExit(code)

    monkeypatch.setattr(module.os, "_exit", leave)
    monkeypatch.setattr(module, "_DEFERENCE", 0.0)
    monkeypatch.setattr(module, "_GRACE", 0.0)
    return codes


def fail(ranks: Ranks, error: Exception) -> None:
    with first_error(ranks):
        raise error


def test_only_the_first_error_is_raised(exits) -> None:
    store = dist.HashStore()
    with pytest.raises(UserError, match="mine") as raised:
        fail(Ranks(1, 1, 2, store), UserError("mine"))
    assert raised.value.__notes__ == ["(on rank 1 of 2)"]
    with pytest.raises(SystemExit):
        fail(Ranks(0, 0, 2, store), RuntimeError("theirs"))
    assert exits == [1]


def test_a_process_alone_raises_its_own() -> None:
    with pytest.raises(RuntimeError, match="mine") as raised:
        fail(Ranks(0, 0, 1), RuntimeError("mine"))
    assert not hasattr(raised.value, "__notes__")


def test_what_only_says_that_another_is_gone() -> None:
    assert of_another(OtherRankError("rank 0 failed"))
    assert of_another(RuntimeError("[gloo/transport/tcp/pair.cc:547] Connection closed by peer [127.0.0.1]:1"))
    assert of_another(dist.DistBackendError("NCCL communicator was aborted"))
    wrapped = UserError("no checkpoint could be written")
    wrapped.__cause__ = RuntimeError("gloo: Connection reset by peer")
    assert of_another(wrapped)
    assert not of_another(RuntimeError("mat1 and mat2 shapes cannot be multiplied"))
    assert not of_another(UserError("the corpus has changed"))


def test_the_store_is_kept_apart_from_others() -> None:
    store = dist.HashStore()
    with Watchdog(Ranks(0, 0, 2, store), 0.4):
        wait_for(lambda: dist.PrefixStore("watchdog", store).check(["beat/0"]))
    store.set_timeout(timedelta(seconds=1))
    assert not store.check(["beat/0"])
