"""One step and the loop: what is not finite changes nothing, and is named; nothing draws from the global generator."""

import math

import pytest
import torch

import isogloss.train.step as step_module
from isogloss.init.plan import plan_init
from isogloss.init.schemes import LinguaConfig
from isogloss.models.decoder import Decoder
from isogloss.models.protocol import IGNORED, Batch
from isogloss.optim.groups import AdamWConfig, create_optimizer
from isogloss.optim.schedules import ConstantSchedule, LinearSchedule
from isogloss.train.hooks import Window, every
from isogloss.train.loop import DivergedError, Progress, StepInfo, TrainConfig, training_steps
from isogloss.train.step import train_step


class Rows:
    """Batches of random tokens, by step."""

    def batch(self, step: int) -> Batch:
        tokens = torch.randint(0, 50, (4, 9), generator=torch.Generator().manual_seed(step))
        return Batch(tokens[:, :-1], tokens[:, 1:].contiguous())


def snapshot(model: torch.nn.Module, optimizer: torch.optim.Optimizer) -> list[torch.Tensor]:
    state = [v for values in optimizer.state.values() for v in values.values()]
    return [t.detach().clone() for t in [*model.parameters(), *state]]


def one_step(model: Decoder, optimizer: torch.optim.Optimizer, step: int = 0):
    return train_step(model, optimizer, Rows().batch(step), micro_batch_size=4, clip=1.0, precision="fp32")


@pytest.mark.campaign(13)
@pytest.mark.parametrize("poison", [math.nan, math.inf])
def test_a_step_that_is_not_finite_changes_nothing_and_names_the_cause(make_decoder, poison: float) -> None:
    model = make_decoder()
    optimizer = create_optimizer(model, AdamWConfig(), plan_init(model, LinguaConfig(), model.config))
    assert one_step(model, optimizer).nonfinite == ""
    before = snapshot(model, optimizer)
    handle = model.layers[1].ffn.up_proj.weight.register_hook(lambda g: g * poison)
    assert one_step(model, optimizer).nonfinite == "the gradient of layers.1.ffn.up_proj.weight"
    handle.remove()
    original = model.loss_kernel
    model.loss_kernel = lambda *args: tuple(part * poison for part in original(*args))
    assert one_step(model, optimizer).nonfinite == "the loss"
    model.loss_kernel = original
    assert all(torch.equal(a, b) for a, b in zip(before, snapshot(model, optimizer), strict=True))
    assert one_step(model, optimizer).nonfinite == ""
    assert not all(torch.equal(a, b) for a, b in zip(before, snapshot(model, optimizer), strict=True))


@pytest.mark.control(13)
def test_without_the_look_at_loss_and_norm_it_would_be_applied(make_decoder, monkeypatch) -> None:
    model = make_decoder()
    optimizer = create_optimizer(model, AdamWConfig(), plan_init(model, LinguaConfig(), model.config))
    model.layers[1].ffn.up_proj.weight.register_hook(lambda g: g * math.nan)
    monkeypatch.setattr(step_module, "_nonfinite", lambda *rest: "")
    one_step(model, optimizer)
    assert not all(bool(t.isfinite().all()) for t in snapshot(model, optimizer))


def test_a_batch_without_targets_changes_nothing_and_is_said(make_decoder) -> None:
    model = make_decoder()
    optimizer = create_optimizer(model, AdamWConfig(), plan_init(model, LinguaConfig(), model.config))
    before = snapshot(model, optimizer)
    whole = Rows().batch(0)
    none = Batch(whole.tokens, torch.full_like(whole.targets, IGNORED))
    result = train_step(model, optimizer, none, micro_batch_size=2, clip=1.0, precision="fp32")
    assert (result.nonfinite, result.n_targets) == ("the loss of a batch without targets", 0)
    assert math.isnan(result.loss)
    assert all(torch.equal(a, b) for a, b in zip(before, snapshot(model, optimizer), strict=True))


def steps(model: Decoder, progress: Progress, n: int = 6, compiled: bool = False, **config) -> list[StepInfo]:
    optim = AdamWConfig(lr=0.01, schedule=LinearSchedule(warmup=2, final=0.5))
    settings = TrainConfig(steps=n, batch_size=4, **config)
    optimizer = create_optimizer(model, optim, plan_init(model, LinguaConfig(), model.config))
    return list(training_steps(model, optimizer, Rows(), settings, optim, progress, "fp32", compiled))


def test_the_loop_counts_and_follows_the_schedule(make_decoder) -> None:
    progress = Progress()
    infos = steps(make_decoder(), progress)
    assert [info.step for info in infos] == [1, 2, 3, 4, 5, 6]
    assert [info.last for info in infos] == [False] * 5 + [True]
    assert infos[0].lr == pytest.approx(0.005)
    assert infos[1].lr == pytest.approx(0.01)
    assert infos[-1].lr == pytest.approx(0.005)
    assert progress.step == 6
    assert progress.tokens == 6 * 32


def test_the_loop_begins_where_progress_says(make_decoder) -> None:
    assert [info.step for info in steps(make_decoder(), Progress(step=4))] == [5, 6]
    assert steps(make_decoder(), Progress(step=6)) == []


@pytest.mark.campaign(13)
def test_it_stops_after_so_many_steps_in_a_row(make_decoder) -> None:
    model = make_decoder()
    model.layers[0].ffn.up_proj.weight.register_hook(lambda g: g * math.nan)
    progress = Progress()
    with pytest.raises(DivergedError, match=r"layers\.0\.ffn\.up_proj\.weight.*3 steps in a row"):
        steps(model, progress, max_skipped=3)
    assert progress.skipped == 3


@pytest.mark.campaign(13)
def test_skipped_steps_that_are_not_in_a_row_do_not_stop_it(make_decoder) -> None:
    model = make_decoder()
    calls = iter(range(100))
    model.layers[0].ffn.up_proj.weight.register_hook(lambda g: g * (math.nan if next(calls) % 2 else 1.0))
    progress = Progress()
    infos = steps(model, progress, max_skipped=2)
    assert [bool(info.nonfinite) for info in infos] == [False, True] * 3
    assert progress.skipped == 3


def test_nothing_draws_from_the_global_generator(make_decoder) -> None:
    """So that a resumed run need not put its state back."""
    before = torch.get_rng_state()
    steps(make_decoder(), Progress())
    assert torch.equal(before, torch.get_rng_state())


def test_every() -> None:
    heard: list[int] = []
    hook = every(3, lambda info: heard.append(info.step))
    for step in range(1, 9):
        hook(StepInfo(step, 0.0, 0.0, 0.0, 1, 0.0, "", step == 8))
    assert heard == [3, 6, 8]


def test_a_window_weighs_by_targets_and_leaves_skipped_steps_out() -> None:
    window = Window()
    window.add(StepInfo(1, 2.0, 1.0, 0.1, 10, 1.0, "", False))
    window.add(StepInfo(2, 5.0, 3.0, 0.1, 30, 1.0, "", False))
    window.add(StepInfo(3, math.nan, math.nan, 0.1, 10, 1.0, "the loss", False))
    values = window.empty()
    assert values["loss"] == pytest.approx((2 * 10 + 5 * 30) / 40)
    assert values["grad_norm"] == 3.0
    assert values["seconds_per_step"] == pytest.approx(1.0)


def test_a_window_s_rate_leaves_warming_steps_out_where_it_can() -> None:
    window = Window()
    warming = StepInfo(1, 2.0, 1.0, 0.1, 10, 5.0, "", False, warming=True)
    window.add(warming)
    window.add(StepInfo(2, 2.0, 1.0, 0.1, 10, 1.0, "", False))
    assert window.empty()["seconds_per_step"] == 1
    window.add(warming)
    assert window.empty()["seconds_per_step"] == 5


@pytest.mark.parametrize(("compiled", "begun", "warming"), [(False, 0, 1), (True, 0, 2), (False, 2, 1), (True, 2, 1)])
def test_the_first_steps_of_a_session_are_warming(make_decoder, compiled: bool, begun: int, warming: int) -> None:
    infos = steps(make_decoder(), Progress(step=begun), compiled=compiled)
    assert [info.warming for info in infos] == [True] * warming + [False] * (len(infos) - warming)


def test_decay_reaches_matrices_only(make_decoder) -> None:
    """With no gradient to speak of, decay alone moves weights: matrices shrink, gains stay."""
    model = make_decoder()
    optim = AdamWConfig(lr=0.1, weight_decay=0.5, schedule=ConstantSchedule())
    optimizer = create_optimizer(model, optim, plan_init(model, LinguaConfig(), model.config))
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    for name, parameter in model.named_parameters():
        expected = before[name] * (1 - 0.1 * 0.5) if parameter.ndim == 2 else before[name]
        assert torch.allclose(parameter, expected), name


def test_stages_of_a_warm_up_may_end_at_a_share_of_the_steps() -> None:
    shared = {
        "batch_size_warmup": [{"until": 0.1, "batch_size": 2}, {"until": 0.3, "batch_size": 4}],
        "seq_len_warmup": [{"until": 0.55, "divisor": 2}],
    }
    counted = {
        "batch_size_warmup": [{"until": 2, "batch_size": 2}, {"until": 6, "batch_size": 4}],
        "seq_len_warmup": [{"until": 11, "divisor": 2}],
    }
    plans = [
        TrainConfig.model_validate({"steps": 20, "batch_size": 8, **stages}).plan() for stages in (shared, counted)
    ]
    assert plans[0] == plans[1]
    # Of few steps a stage may have none; it is passed over.
    short = TrainConfig.model_validate({"steps": 3, "batch_size": 8, **shared}).plan()
    assert [short.size(step) for step in range(3)] == [4, 8, 8]


@pytest.mark.parametrize("ends", [(0.5, 0.2), (5, 0.1), (0.5, 0.5), (7, 7)])
def test_stages_that_do_not_rise_are_refused_however_they_are_given(ends: tuple[float, float]) -> None:
    stages = [{"until": until, "batch_size": 2} for until in ends]
    with pytest.raises(ValueError, match="each stage must end after the one before it"):
        TrainConfig.model_validate({"steps": 20, "batch_size": 8, "batch_size_warmup": stages})
