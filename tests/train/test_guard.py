"""What counts as a spike of the loss."""

import statistics

from isogloss.train.guard import SpikeConfig, SpikeGuard

LOSSES = [3.0, 3.1, 2.9, 3.05, 2.95]


def watched(losses: list[float], **config) -> SpikeGuard:
    guard = SpikeGuard(SpikeConfig(window=5, deviations=3.0, **config))
    assert not any(guard.spikes(loss) for loss in losses)
    return guard


def test_a_loss_so_many_deviations_above_the_mean_spikes() -> None:
    threshold = statistics.fmean(LOSSES) + 3 * statistics.stdev(LOSSES)
    assert watched(LOSSES).spikes(threshold + 1e-6)
    assert not watched(LOSSES).spikes(threshold - 1e-6)
    assert not watched(LOSSES).spikes(0.1)  # better is no spike


def test_nothing_spikes_before_the_window_is_full() -> None:
    assert not watched(LOSSES[:4]).spikes(100.0)


def test_a_spike_is_not_remembered_nor_a_skipped_step() -> None:
    guard = watched(LOSSES)
    before = guard.state()
    assert guard.spikes(100.0)
    assert not guard.spikes(float("nan"), skipped=True)
    assert not guard.spikes(100.0, skipped=True)
    assert guard.state() == before


def test_a_state_put_back_decides_the_same() -> None:
    guard, other = watched(LOSSES), SpikeGuard(SpikeConfig(window=5, deviations=3.0))
    other.load(guard.state())
    assert other.threshold() == guard.threshold()


def test_without_a_config_nothing_spikes() -> None:
    guard = SpikeGuard(None)
    assert not any(guard.spikes(loss) for loss in [*LOSSES * 3, 1e9])
