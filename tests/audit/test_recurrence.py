"""Recurrences that forget at once, never, or all at one speed, in every layout; half of the channels decide."""

import math
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from isogloss.audit.audit import Audit, audit
from isogloss.audit.factory import Factory
from isogloss.audit.findings import Finding
from models_of_audit import D, Decoder, Layer, Recurrence, StateSpace, inverse_softplus, sound


def of(mixer: type[nn.Module], change: Callable[[nn.Module], object] = lambda mixer: None) -> Audit:
    class Recurrent(Layer):
        def __init__(self, kind: str, offset: float) -> None:
            super().__init__(kind, offset)
            self.mixer = mixer()

    def start(model: Decoder) -> None:
        sound(model)
        with torch.no_grad():
            for layer in model.layers:
                change(layer.mixer)

    def build(n_layers: int = 2) -> nn.Module:
        model = Decoder(n_layers, layer=Recurrent)
        model.defect = start
        return model

    return audit(Factory("model", build, {}))


class TimeLast(StateSpace):
    time_last = True


class RecurrenceTimeLast(Recurrence):
    def forward(self, x: Tensor) -> Tensor:
        value = self.x(x).mT
        a = torch.exp(-8 * torch.sigmoid(self.gate(value.mT)).mT * F.softplus(self.decay)[:, None])
        state, states = torch.zeros(D), []
        for t in range(x.shape[1]):
            state = a[..., t] * state + torch.sqrt(1 - a[..., t] ** 2) * value[..., t]
            states.append(state)
        return self.o(torch.stack(states, 1))


RECURRENCES = [Recurrence, RecurrenceTimeLast]
STATE_SPACES = [StateSpace, TimeLast]


def memory(found: Audit) -> Finding:
    (finding,) = (f for f in found.findings if f.code == "I11")
    assert (finding.parameter, finding.severity) == ("layers.*.mixer", "warning")
    return finding


@pytest.mark.parametrize("mixer", [*RECURRENCES, *STATE_SPACES])
def test_a_sound_recurrence_has_no_finding(mixer: type[nn.Module]) -> None:
    assert of(mixer).findings == []


@pytest.mark.parametrize("mixer", RECURRENCES)
def test_a_missing_inverse_of_softplus_is_found_wherever_time_is(mixer: type[nn.Module]) -> None:
    found = of(mixer, lambda m: m.decay.copy_(torch.empty(D).uniform_(0.9, 0.999).log()))
    assert "half of the channels forget half in 0." in memory(found).evidence


@pytest.mark.parametrize("mixer", STATE_SPACES)
def test_steps_near_one_are_found_wherever_time_is(mixer: type[nn.Module]) -> None:
    evidence = memory(of(mixer, lambda m: m.step.fill_(1.0))).evidence
    assert "forget half in 0.5" in evidence
    assert "its median step is 1.3" in evidence


@pytest.mark.parametrize("mixer", RECURRENCES)
@pytest.mark.parametrize(("value", "said"), [(-40.0, "keep more than half for 4"), (-200.0, "does not decay")])
def test_a_state_that_does_not_decay_is_found(mixer: type[nn.Module], value: float, said: str) -> None:
    evidence = memory(of(mixer, lambda m: m.decay.fill_(value))).evidence
    assert "the state does not decay" in evidence
    assert said in evidence


def one_channel(value: float, others: float | None = None) -> Callable[[nn.Module], object]:
    def change(mixer: nn.Module) -> None:
        if others is not None:
            mixer.step.copy_(others + 0.01 * torch.randn(D))
        mixer.step[0] = value

    return change


def test_one_channel_does_not_speak_for_its_layer() -> None:
    """Among channels that forget at once one that remembers hides nothing, and the other way round."""
    found = of(StateSpace, one_channel(-7.0, others=2.0))
    assert "forget half in 0.3" in memory(found).evidence
    assert [f.code for f in of(StateSpace, one_channel(5.0)).findings if f.code == "I11"] == []


@pytest.mark.parametrize("mixer", STATE_SPACES)
def test_uniform_steps_are_found(mixer: type[nn.Module]) -> None:
    def uniform(m: nn.Module) -> None:
        m.step.copy_(inverse_softplus(torch.empty(D).uniform_(1e-3, 0.1)))

    (finding,) = of(mixer, uniform).findings
    assert (finding.code, finding.severity) == ("I11", "warning")
    assert finding.parameter == "layers.*.mixer (steps)"
    assert "are uniform in 0.00" in finding.evidence
    assert "log-uniform" in finding.expected


class Diagonal(nn.Module):
    """S4D's: complex rates, steps that are an exponential of a parameter, a convolution by the Fourier transform."""

    def __init__(self) -> None:
        super().__init__()
        self.x, self.o = nn.Linear(D, D, bias=False), nn.Linear(D, D, bias=False)
        self.log_step = nn.Parameter(torch.empty(D))

    def forward(self, x: Tensor) -> Tensor:
        n = x.shape[1]
        rate = -0.5 + 3.14j * torch.arange(4)
        kernel = torch.exp(rate * self.log_step.exp()[:, None])[..., None] ** torch.arange(n)
        value = torch.fft.rfft(self.x(x).mT, 2 * n) * torch.fft.rfft(kernel.real.sum(1), 2 * n)
        return self.o(torch.fft.irfft(value, 2 * n)[..., :n].mT)


def test_the_writer_after_a_fourier_transform_is_known() -> None:
    found = of(Diagonal, lambda m: m.log_step.copy_(torch.empty(D).uniform_(math.log(1e-3), math.log(0.1))))
    assert found.findings == []
    assert found.complete
    assert {row.kind: row.role for row in found.rows}["layers.*.mixer.o.weight"] in ("recurrent_out", "ffn_down")
