"""Who is behind when ranks wait too long for each other."""

import itertools
import json
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from datetime import timedelta

import pytest
import torch.distributed as dist

from isogloss.config.base import UserError
from isogloss.headway import advance
from isogloss.launch import local
from isogloss.parallel.env import OtherRankError, Ranks
from isogloss.train import first_error as module
from isogloss.train import watchdog as module_of_watchdog
from isogloss.train.beats import Beat, describe, latest_headway
from isogloss.train.first_error import first_error, of_another
from isogloss.train.signals import OUTCOME
from isogloss.train.watchdog import HUNG, Watchdog


def beat(rank: int, place: int, pulse: int = 1, doing: str = "", still: float | None = 9.0) -> Beat:
    return Beat(rank, doing or f"training step {place}", place, 9.0, still, "a.py:1 (f)", pulse)


def test_a_rank_that_writes_no_more_is_behind() -> None:
    before = {0: beat(0, 7), 1: beat(1, 7)}
    text = describe(before, {0: beat(0, 7, 2), 1: beat(1, 7)}, "training step 7", 60.0, 2)
    first, second = text.splitlines()[:2]
    assert first == "training step 7 has stood still for 60 s: rank 1 gives no sign of life"
    assert second == "  rank 1 was last training step 7, at a.py:1 (f)"


def test_a_rank_that_never_wrote_is_behind() -> None:
    text = describe({0: beat(0, 1)}, {0: beat(0, 1, 2)}, "leaving", 60.0, 2)
    assert "rank 1 gives no sign of life" in text


def test_else_those_that_have_entered_the_fewest_phases_are() -> None:
    saving = beat(1, 7, 2, "saving step 120")
    now = {0: beat(0, 8, 2), 1: saving, 2: beat(2, 8, 2)}
    writing = {1: beat(1, 3, 2, "writing the checkpoint of step 110"), 2: AT_REST}
    text = describe({}, now, "training step 121", 60.0, 3, writing)
    assert "rank 1 is still saving step 120" in text
    assert text.splitlines()[-1].startswith("  rank 1 has been writing the checkpoint of step 110 for 9 s")
    assert "all ranks are in it" in describe({}, {0: beat(0, 8), 1: beat(1, 8)}, "leaving", 60.0, 2)


def test_headway_is_that_of_ranks_that_live() -> None:
    idle = [{0: beat(0, 7, 2, still=None)}, {}]
    assert latest_headway([{0: beat(0, 7)}, {}], idle) is None, "between phases"
    before = [{0: beat(0, 7), 1: beat(1, 7)}, {0: beat(0, 1), 1: beat(1, 1)}]
    now = [{0: beat(0, 7, 2, still=80.0), 1: beat(1, 7, still=1.0)}, {0: beat(0, 1, 2, still=30.0), 1: beat(1, 1)}]
    assert latest_headway(before, now) == 30.0


AT_REST = beat(1, 0, doing="at no checkpoint", still=None)


class Ended:
    """Stands for the end of the process, from which the watchdog's thread does not come back before ``released``."""

    def __init__(self) -> None:
        self.codes = list[int]()
        self.came, self.released = threading.Event(), threading.Event()

    def __call__(self, code: int) -> None:
        self.codes.append(code)
        self.came.set()
        self.released.wait(300)


@pytest.fixture
def ended() -> Iterator[Ended]:
    ended = Ended()
    yield ended
    ended.released.set()


class EndedError(Exception):
    """Stands for the end of a process that watches itself: its exit code."""


def end(code: int) -> None:
    raise EndedError(code)


class Clock:
    """Time that passes when a test says so, and while the watchdog sleeps; meanwhile others write."""

    def __init__(self) -> None:
        self.now, self.others = 1000.0, list[Callable[[], None]]()

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds
        for write in self.others:
            write()


@pytest.fixture
def clock(monkeypatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(module_of_watchdog, "time", clock)
    return clock


class Watched:
    """Rank 0 of two, or 1, whose watchdog takes its turns as time passes, without its thread.

    Args:
        clock: the time.
        rank: this one; the limit is a minute.
        others: what the other rank's threads write, while it lives.
    """

    def __init__(self, clock: Clock, rank: int = 0, *others: Beat) -> None:
        self.clock, self.store, self.pulses = clock, dist.HashStore(), itertools.count(1)
        self.watchdog = Watchdog(Ranks(rank, rank, 2, self.store), 60.0, end)
        self.phase, self.alone = self.watchdog.phase, self.watchdog.alone
        self.other(*others)

    def other(self, *beats: Beat) -> None:
        """What the other rank writes from now on; nothing if it is stopped."""
        self.clock.others = [lambda: self.write(*beats)] if beats else []

    def write(self, *beats: Beat) -> None:
        written = [asdict(beat) | {"pulse": next(self.pulses)} for beat in beats]
        dist.PrefixStore("watchdog", self.store).set(f"beat/{beats[0].rank}", json.dumps(written))

    def passes(self, seconds: float, each: Callable[[], None] = lambda: None) -> None:
        """So much time, with something done at each interval."""
        until = self.clock.now + seconds
        while self.clock.now < until:
            self.clock.sleep(self.watchdog._interval)
            each()
            self.watchdog._turn()


def working(doing: str = "saving step 120", still: float = 0.0, rank: int = 1) -> Beat:
    return beat(rank, 1, doing=doing, still=still)


def test_a_rank_that_stops_right_away_has_been_heard_of() -> None:
    shared = dist.PrefixStore("watchdog", store := dist.HashStore())
    watchdog = Watchdog(Ranks(0, 0, 2, store), 60.0)
    watchdog._interval = 3600.0
    with watchdog:
        wait_for(lambda: shared.check(["beat/0"]))


def test_its_thread_ends_the_process_by_itself(ended: Ended, capfd) -> None:
    with Watchdog(Ranks(0, 0, 2, dist.HashStore()), 0.1, ended) as watchdog, watchdog.phase("training step 3"):
        assert ended.came.wait(300)
    assert ended.codes == [HUNG]
    assert "training step 3 has stood still for 0 s: rank 1 gives no sign of life" in capfd.readouterr().err


def test_it_ends_the_process_and_says_who_is_behind(clock: Clock, capfd) -> None:
    watched = Watched(clock)
    with watched.phase("training step 3"):
        watched.passes(58)
        with pytest.raises(EndedError, match=str(HUNG)):
            watched.passes(4)
    error = capfd.readouterr().err
    assert "training step 3 has stood still for 60 s: rank 1 gives no sign of life" in error
    assert "rank 0 has been training step 3 for" in error
    assert "isogloss/train/beats.py:" in error  # where the main thread is


def test_a_rank_that_is_at_work_is_waited_for_and_one_that_is_stuck_is_named(clock: Clock, capfd) -> None:
    watched = Watched(clock, 0, working(), AT_REST)
    with watched.phase("saving step 120"):
        watched.passes(600)  # it writes a large file
        watched.other(working(still=602.0), AT_REST)
        with pytest.raises(EndedError):
            watched.passes(130)
    assert "  rank 1 has been saving step 120 for 9 s, at a.py:1 (f)" in capfd.readouterr().err


def test_a_rank_whose_other_thread_is_at_work_is_waited_for(clock: Clock) -> None:
    writing = replace(AT_REST, doing="writing the checkpoint of step 110", still=0.0)
    watched = Watched(clock, 0, working(still=602.0), writing)
    with watched.phase("saving step 120"):
        watched.passes(600)


def test_it_writes_all_the_while_it_looks_at_others(clock: Clock, monkeypatch) -> None:
    """They may be looking at it in the same seconds, and take its silence for death."""
    watched = Watched(clock, 0, working(), AT_REST)
    write, times = watched.watchdog._write, list[float]()
    monkeypatch.setattr(watched.watchdog, "_write", lambda: (times.append(clock.now), write()))
    with watched.phase("saving step 120"):
        watched.passes(70)
    looked = [b - a for a, b in itertools.pairwise(times)]
    assert max(looked) <= watched.watchdog._interval


def test_control_without_the_look_at_others_work_it_ends_a_slow_save(clock: Clock, monkeypatch) -> None:
    monkeypatch.setattr(module_of_watchdog, "latest_headway", lambda before, now: None)
    watched = Watched(clock, 0, working(), AT_REST)
    with watched.phase("saving step 120"), pytest.raises(EndedError):
        watched.passes(70)


def test_headway_of_its_own_is_seen_and_that_of_other_threads_is_not(clock: Clock) -> None:
    def advance_elsewhere() -> None:
        other = threading.Thread(target=advance)
        other.start()
        other.join()

    watched = Watched(clock)
    with watched.phase("loading"):
        watched.passes(600, advance)
        with pytest.raises(EndedError):
            watched.passes(70, advance_elsewhere)


def test_a_checkpoint_in_the_background_is_watched_too(clock: Clock, capfd) -> None:
    watched, begun, over = Watched(clock), threading.Event(), threading.Event()

    def write() -> None:
        with watched.phase("writing the checkpoint of step 9"):
            begun.set()
            over.wait(300)

    def step() -> None:  # the training goes on meanwhile, and is no excuse
        with watched.phase("training step 10"):
            pass

    saver = threading.Thread(target=write)
    saver.start()
    try:
        assert begun.wait(300)
        with pytest.raises(EndedError, match=str(HUNG)):
            watched.passes(70, step)
    finally:
        over.set()
        saver.join()
    assert "writing the checkpoint of step 9 has stood still for 60 s" in capfd.readouterr().err


def test_one_rank_reports_and_is_not_ended_in_the_middle_of_it(ended: Ended, capfd) -> None:
    store, waits = dist.HashStore(), threading.Event()
    shared = dist.PrefixStore("watchdog", store)
    shared.set("reporter", "1")

    class Said(dist.PrefixStore):
        def wait(self, *arguments) -> None:
            waits.set()
            super().wait(*arguments)

    watchdog = Watchdog(Ranks(0, 0, 2, store), 0.1, ended)
    watchdog._store = Said("watchdog", store)
    with watchdog, watchdog.phase("training step 3"):
        assert waits.wait(300)
        assert ended.codes == []
        shared.set("reported", "1")
        assert ended.came.wait(300)
    assert ended.codes == [HUNG]
    assert capfd.readouterr().err == ""


def test_what_rank_0_does_alone_is_not_hurried_but_it_must_live(clock: Clock, capfd) -> None:
    first = replace(working("preparing the corpus", rank=0), seconds=9000.0)
    watched = Watched(clock, 1, first, replace(AT_REST, rank=0))
    with watched.alone("preparing the corpus"):
        watched.passes(600)
        watched.other()
        with pytest.raises(EndedError):
            watched.passes(70)
    assert "preparing the corpus has stood still for 60 s: rank 0 gives no sign of life" in capfd.readouterr().err


def test_rank_0_alone_does_not_hurry_itself_and_tells_the_others_that_it_gets_on(clock: Clock) -> None:
    watched = Watched(clock)
    with watched.alone("preparing the corpus"):
        watched.passes(600)
        main, _ = json.loads(dist.PrefixStore("watchdog", watched.store).get("beat/0"))
    assert (main["doing"], main["still"]) == ("preparing the corpus", 0.0)


def test_rank_0_that_comes_back_while_it_is_looked_for_is_waited_for(clock: Clock, monkeypatch) -> None:
    watched = Watched(clock, 1)
    read_twice, looked = watched.watchdog._read_twice, list[float]()

    def read_late():
        watched.write(replace(AT_REST, rank=0), replace(AT_REST, rank=0))
        looked.append(clock.now)
        return read_twice()

    monkeypatch.setattr(watched.watchdog, "_read_twice", read_late)
    with watched.alone("preparing the corpus"):
        watched.passes(600)
    assert len(looked) > 5


@pytest.mark.parametrize("rank", [0, 1])
def test_only_rank_0_is_taken_to_get_on_where_all_wait_for_it(clock: Clock, rank: int) -> None:
    """Another may have missed that rank 0 is done, and is then to be seen."""
    watched = Watched(clock, rank)
    with watched.alone("preparing the corpus"):
        clock.sleep(5)
        watched.watchdog._write()
    still = json.loads(dist.PrefixStore("watchdog", watched.store).get(f"beat/{rank}"))[0]["still"]
    assert still == (0.0 if rank == 0 else 5.0)


def test_what_may_compile_has_three_times_as_long(clock: Clock) -> None:
    watched = Watched(clock)
    for step in (1, 2):
        with watched.phase(f"training step {step}", "shape"):
            watched.passes(178)
    with watched.phase("training step 3", "shape"), pytest.raises(EndedError):
        watched.passes(64)


def test_quick_phases_and_what_is_between_them_are_left_alone(clock: Clock) -> None:
    watched = Watched(clock)
    for number in range(20):
        with watched.phase(f"training step {number}"):
            watched.passes(50)
    watched.passes(600)


def test_a_process_alone_has_no_watchdog() -> None:
    with Watchdog(Ranks(0, 0, 1), 0.01) as watchdog, watchdog.phase("training step 1"):
        assert watchdog._thread.ident is None, "it has not been started"


def wait_for(condition) -> None:
    deadline = time.monotonic() + 300
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.01)
    assert condition()


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


def test_a_launcher_has_the_time_to_say_how_the_other_died(monkeypatch) -> None:
    """Longer than ranks of a job that has failed have until it kills them."""
    slept = list[float]()
    monkeypatch.setattr(module.time, "sleep", slept.append)
    monkeypatch.setenv(OUTCOME, "/nowhere")
    with pytest.raises(RuntimeError, match="gloo"):
        fail(Ranks(0, 0, 2, dist.HashStore()), RuntimeError("gloo: Connection closed by peer"))
    assert slept[0] > local._GRACE + 1


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
