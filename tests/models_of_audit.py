"""A small sound decoder, and the same with one thing done wrong in its initialisation."""

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

D, HEADS, HIDDEN, VOCABULARY = 64, 4, 96, 128


class Norm(nn.Module):
    def __init__(self, offset: float = 0.0, eps: float = 1e-6) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(D))
        self.offset, self.eps = offset, eps

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + self.eps) * (self.offset + self.weight)


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        for name in ("q", "k", "v", "o"):
            setattr(self, name, nn.Linear(D, D, bias=False))

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (w(x).unflatten(-1, (HEADS, -1)).transpose(1, 2) for w in (self.q, self.k, self.v))
        return self.o(F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).flatten(2))


class Recurrence(nn.Module):
    """Griffin's: ``a = exp(-8 gate softplus(decay))``, ``h = a h + sqrt(1 - a^2) x``."""

    def __init__(self) -> None:
        super().__init__()
        for name in ("x", "gate", "o"):
            setattr(self, name, nn.Linear(D, D, bias=False))
        self.decay = nn.Parameter(torch.empty(D))

    def forward(self, x: Tensor) -> Tensor:
        value = self.x(x)
        a = torch.exp(-8 * torch.sigmoid(self.gate(value)) * F.softplus(self.decay))
        state, states = torch.zeros_like(value[:, 0]), []
        for t in range(x.shape[1]):
            state = a[:, t] * state + torch.sqrt(1 - a[:, t] ** 2) * value[:, t]
            states.append(state)
        return self.o(torch.stack(states, 1))


class FeedForward(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.w1, self.w3 = nn.Linear(D, HIDDEN, bias=False), nn.Linear(D, HIDDEN, bias=False)
        self.w2 = nn.Linear(HIDDEN, D, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.w2(F.silu(self.w1(x)) * self.w3(x))


class Layer(nn.Module):
    def __init__(self, mixer: str, offset: float) -> None:
        super().__init__()
        self.mixer = Attention() if mixer == "attention" else Recurrence()
        self.ffn = FeedForward()
        self.norm1, self.norm2 = Norm(offset), Norm(offset)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.mixer(self.norm1(x))
        return x + self.ffn(self.norm2(x))


class StateSpace(nn.Module):
    """Mamba's: ``h = exp(-step exp(rate)) h + step x``; time is the last axis where ``time_last``."""

    time_last = False

    def __init__(self) -> None:
        super().__init__()
        for name in ("x", "o"):
            setattr(self, name, nn.Linear(D, D, bias=False))
        self.rate, self.step = nn.Parameter(torch.empty(D)), nn.Parameter(torch.empty(D))

    def forward(self, x: Tensor) -> Tensor:
        value = self.x(x)
        step = F.softplus(0.05 * value + self.step)
        if self.time_last:
            value, step, rate = value.mT, step.mT, -torch.exp(self.rate)[:, None]
            kept, axis = torch.exp(step * rate), 2
        else:
            kept, axis = torch.exp(step * -torch.exp(self.rate)), 1
        state, states = torch.zeros(D), []
        for a, b in zip(kept.unbind(axis), (step * value).unbind(axis), strict=True):
            state = a * state + b
            states.append(state)
        return self.o(torch.stack(states, 1))


class Decoder(nn.Module):
    def __init__(
        self,
        n_layers: int,
        mixer: str = "attention",
        tied: bool = False,
        offset: float = 0.0,
        layer: type[Layer] = Layer,
    ) -> None:
        super().__init__()
        self.embedding = nn.Embedding(VOCABULARY, D)
        self.layers = nn.ModuleList(layer(mixer, offset) for _ in range(n_layers))
        self.norm = Norm(offset)
        self.head = nn.Linear(D, VOCABULARY, bias=False)
        if tied:
            self.head.weight = self.embedding.weight
        self.register_buffer("frequencies", torch.arange(4.0), persistent=False)
        self.defect: Callable[[Decoder], None] = sound

    def init_weights(self) -> None:
        self.defect(self)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.embedding(tokens)
        for layer in self.layers:
            x = layer(x)
        return self.head(self.norm(x))


def normal(weight: Tensor, std: float) -> None:
    nn.init.trunc_normal_(weight, std=std, a=-3 * std, b=3 * std)


def inverse_softplus(x: Tensor) -> Tensor:
    return x + torch.log(-torch.expm1(-x))


def sound(
    model: Decoder, skip: tuple[str, ...] = (), readers: float = 1.0, up: float = 1.0, writers: bool = True
) -> None:
    """Fan-in scales, writers divided by sqrt(2 L); ``skip`` names what is left out."""
    factor = math.sqrt(2 * len(model.layers))
    tied = model.head.weight is model.embedding.weight
    for name, parameter in model.named_parameters():
        if name in skip:
            continue
        if name.endswith(".rate"):
            nn.init.zeros_(parameter)
        elif name.endswith(".step"):
            parameter.data.copy_(inverse_softplus(torch.exp(math.log(1e-3) + math.log(100) * torch.rand(D))))
        elif name.endswith("decay"):
            rate = -torch.log(torch.empty_like(parameter).uniform_(0.9, 0.999))
            parameter.data.copy_(inverse_softplus(rate))
        elif "norm" in name:
            nn.init.constant_(parameter, 1.0 - model.norm.offset)
        elif name == "embedding.weight":
            normal(parameter, D**-0.5 if tied else 1.0)
        elif "o.weight" in name or "w2" in name:
            normal(parameter, parameter.shape[1] ** -0.5 / (factor if writers else 1.0))
        elif "w3" in name:
            normal(parameter, parameter.shape[1] ** -0.5 / up / readers)
        elif name == "head.weight":
            normal(parameter, D**-0.5)
        elif parameter.ndim > 1:
            normal(parameter, parameter.shape[1] ** -0.5 / readers)
    if "frequencies" not in skip:
        model.frequencies.copy_(torch.arange(4.0))
