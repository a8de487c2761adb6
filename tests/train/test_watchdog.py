"""Who is behind when ranks wait too long for each other."""

import itertools
import json
import threading
import time
from dataclasses import asdict, replace
from datetime import timedelta

import pytest
import torch.distributed as dist

from isogloss.config.base import UserError
from isogloss.headway import advance
from isogloss.parallel.env import OtherRankError, Ranks
from isogloss.train import first_error as module
from isogloss.train import watchdog as module_of_watchdog
from isogloss.train.beats import Beat, describe, latest_headway
from isogloss.train.first_error import first_error, of_another
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


class Ended:
    """Stands for the end of the process: its exit code, and a moment to read what was said."""

    def __init__(self) -> None:
        self.codes = list[int]()
        self.came, self.released = threading.Event(), threading.Event()

    def __call__(self, code: int) -> None:
        self.codes.append(code)
        self.came.set()
        self.released.wait(30)

    def soon(self, seconds: float = 20) -> bool:
        """Whether it has come within so long."""
        came = self.came.wait(seconds)
        self.released.set()
        return came


class Rank1:
    """Another rank, as far as its beats tell; it writes them while the context lasts."""

    def __init__(self, store: dist.Store, main: Beat, saver: Beat) -> None:
        self._store, self._beats, self._over = dist.PrefixStore("watchdog", store), [main, saver], threading.Event()
        self._thread = threading.Thread(target=self._write)

    def _write(self) -> None:
        for pulse in itertools.count(1):
            beats = [asdict(beat) | {"pulse": pulse} for beat in self._beats]
            self._store.set(f"beat/{beats[0]['rank']}", json.dumps(beats))
            if self._over.wait(0.02):
                return

    def __enter__(self) -> "Rank1":
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._over.set()
        self._thread.join()


AT_REST = beat(1, 0, doing="at no checkpoint", still=None)


def test_it_ends_the_process_and_says_who_is_behind(capfd) -> None:
    ended = Ended()
    with Watchdog(Ranks(0, 0, 2, dist.HashStore()), 0.3, ended) as watchdog, watchdog.phase("training step 3"):
        assert ended.soon()
    assert ended.codes == [HUNG]
    error = capfd.readouterr().err
    assert "training step 3 has stood still for 0 s: rank 1 gives no sign of life" in error
    assert "rank 0 has been training step 3 for" in error
    assert "threading.py" in error  # where the main thread waits


def test_a_rank_that_is_at_work_is_waited_for_and_one_that_is_stuck_is_named(capfd) -> None:
    store, ended = dist.HashStore(), Ended()
    with Watchdog(Ranks(0, 0, 2, store), 0.2, ended) as watchdog, watchdog.phase("saving step 120"):
        with Rank1(store, beat(1, 1, doing="saving step 120", still=0.0), AT_REST):
            assert not ended.came.wait(0.5), "it writes a large file"
        with Rank1(store, beat(1, 1, doing="saving step 120", still=602.0), AT_REST):
            assert ended.soon()
    assert "  rank 1 has been saving step 120 for 9 s, at a.py:1 (f)" in capfd.readouterr().err


def test_a_rank_whose_other_thread_is_at_work_is_waited_for() -> None:
    store, ended = dist.HashStore(), Ended()
    writing = replace(AT_REST, doing="writing the checkpoint of step 110", still=0.0)
    with (
        Rank1(store, beat(1, 1, doing="saving step 120", still=602.0), writing),
        Watchdog(Ranks(0, 0, 2, store), 0.4, ended) as watchdog,
        watchdog.phase("saving step 120"),
    ):
        assert not ended.came.wait(0.8)


def test_control_without_the_look_at_others_work_it_ends_a_slow_save(monkeypatch) -> None:
    store, ended = dist.HashStore(), Ended()
    monkeypatch.setattr(module_of_watchdog, "latest_headway", lambda before, now: None)
    with (
        Watchdog(Ranks(0, 0, 2, store), 0.2, ended) as watchdog,
        watchdog.phase("saving step 120"),
        Rank1(store, beat(1, 1, doing="saving step 120", still=0.0), AT_REST),
    ):
        assert ended.soon(5)


def test_headway_of_its_own_is_seen_and_that_of_other_threads_is_not() -> None:
    ended = Ended()
    with Watchdog(Ranks(0, 0, 2, dist.HashStore()), 0.15, ended) as watchdog, watchdog.phase("loading"):
        for _ in range(20):
            advance()
            time.sleep(0.02)
        assert ended.codes == []
        other = threading.Thread(target=lambda: [advance() or time.sleep(0.02) for _ in range(15)])
        other.start()
        assert ended.soon()
        other.join()


def test_a_checkpoint_in_the_background_is_watched_too(capfd) -> None:
    ended = Ended()
    with Watchdog(Ranks(0, 0, 2, dist.HashStore()), 0.2, ended) as watchdog:

        def write() -> None:
            with watchdog.phase("writing the checkpoint of step 9"):
                ended.soon()

        saver = threading.Thread(target=write)
        saver.start()
        for step in range(10, 1000):  # the training goes on meanwhile, and is no excuse
            with watchdog.phase(f"training step {step}"):
                time.sleep(0.01)
            if ended.came.is_set():
                break
        else:
            pytest.fail("it was excused")
        saver.join()
    assert ended.codes == [HUNG]
    assert "writing the checkpoint of step 9 has stood still" in capfd.readouterr().err


def test_one_rank_reports_and_is_not_ended_in_the_middle_of_it(capfd) -> None:
    store, ended = dist.HashStore(), Ended()
    shared = dist.PrefixStore("watchdog", store)
    shared.set("reporter", "1")
    with Watchdog(Ranks(0, 0, 2, store), 0.1, ended) as watchdog, watchdog.phase("training step 3"):
        assert not ended.came.wait(0.6)
        shared.set("reported", "1")
        assert ended.soon()
    assert ended.codes == [HUNG]
    assert capfd.readouterr().err == ""


def test_what_rank_0_does_alone_is_not_hurried_but_it_must_live(capfd) -> None:
    store, ended = dist.HashStore(), Ended()
    with Watchdog(Ranks(1, 1, 2, store), 0.2, ended) as watchdog, watchdog.alone("preparing the corpus"):
        first = replace(beat(0, 1, doing="preparing the corpus", still=0.0), seconds=9000.0)
        with Rank1(store, first, replace(AT_REST, rank=0)):
            assert not ended.came.wait(0.5)
        assert ended.soon()
    assert "preparing the corpus has stood still for 0 s: rank 0 gives no sign of life" in capfd.readouterr().err


def test_rank_0_alone_does_not_hurry_itself_and_tells_the_others_that_it_gets_on() -> None:
    store, ended = dist.HashStore(), Ended()
    with Watchdog(Ranks(0, 0, 2, store), 0.15, ended) as watchdog, watchdog.alone("preparing the corpus"):
        assert not ended.came.wait(0.6)
        main, _ = json.loads(dist.PrefixStore("watchdog", store).get("beat/0"))
    assert (main["doing"], main["still"]) == ("preparing the corpus", 0.0)


def test_rank_0_that_comes_back_while_it_is_looked_for_is_waited_for() -> None:
    store, ended, pulses = dist.HashStore(), Ended(), itertools.count(1)
    watchdog = Watchdog(Ranks(1, 1, 2, store), 0.1, ended)
    read_twice, looked = watchdog._read_twice, threading.Event()

    def read_late():
        beats = [asdict(replace(AT_REST, rank=0, pulse=next(pulses)))] * 2
        dist.PrefixStore("watchdog", store).set("beat/0", json.dumps(beats))
        looked.set()
        return read_twice()

    watchdog._read_twice = read_late
    with watchdog, watchdog.alone("preparing the corpus"):
        assert looked.wait(20)
        assert not ended.came.wait(0.2)


@pytest.mark.parametrize("rank", [0, 1])
def test_only_rank_0_is_taken_to_get_on_where_all_wait_for_it(rank: int) -> None:
    """Another may have missed that rank 0 is done, and is then to be seen."""
    store = dist.HashStore()
    watchdog = Watchdog(Ranks(rank, rank, 2, store), 10.0)
    with watchdog.alone("preparing the corpus"):
        time.sleep(0.1)
        watchdog._write()
    still = json.loads(dist.PrefixStore("watchdog", store).get(f"beat/{rank}"))[0]["still"]
    assert still == 0.0 if rank == 0 else still > 0.0


def test_what_may_compile_has_three_times_as_long() -> None:
    ended = Ended()
    with Watchdog(Ranks(0, 0, 2, dist.HashStore()), 0.15, ended) as watchdog:
        for step in (1, 2):
            with watchdog.phase(f"training step {step}", "shape"):
                time.sleep(0.3)
        assert ended.codes == []
        with watchdog.phase("training step 3", "shape"):
            assert ended.soon()


def test_quick_phases_and_what_is_between_them_are_left_alone() -> None:
    codes = list[int]()
    with Watchdog(Ranks(0, 0, 2, dist.HashStore()), 0.2, codes.append) as watchdog:
        for number in range(5):
            with watchdog.phase(f"training step {number}"):
                time.sleep(0.01)
        time.sleep(0.4)
    assert codes == []


def test_a_process_alone_has_no_watchdog() -> None:
    with Watchdog(Ranks(0, 0, 1), 0.01) as watchdog, watchdog.phase("training step 1"):
        time.sleep(0.1)
        assert not watchdog._thread.is_alive()


def wait_for(condition) -> None:
    deadline = time.monotonic() + 20
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
