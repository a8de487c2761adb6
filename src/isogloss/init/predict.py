"""What signals a plan will give, in closed form: forward and backward, layer by layer, token by token.

The state is the Gram matrix C of the residual stream, ``C_st = E x_s x_t`` per component, for the positions of a batch.
Weights are independent, so each sublayer maps C to C, and the gradient's Gram matrix G backward, without a sample.
With X the Gram matrix that a sublayer reads (``C / (n n^T)`` after a norm, ``n_t^2 = C_tt + eps``, gains 1), P the
uniform average over a query's keys, q_w = fan_in std_w^2, H heads of C channels, f hidden units:

embedding   C = e^2 s_E^2 [token_s = token_t]
attention   F = A (P X P^T + diag((p2 - 1/n) (1 - rho) x)),  A = H C s_o^2 q_v
swiglu      F = f s_down^2 q_up X o K(q_gate x, R),   K(q, r) = E silu(a) silu(b), R the correlations of X
plain       F = f s_down^2 K(q_up x, R)
residual    C <- a^2 C + b^2 F

with p2 and p3 the participations of the softmax (`isogloss.init.gaussian`) at logits of variance ``s_z^2 (1 - rho)``,
``s_z^2 = C scale^2 q_q q_k x^2`` (1 in the place of ``q x`` with QK-norm) and rho the mean correlation among
a query's keys: what the keys share moves all logits alike. Backward, each sublayer adds to G

swiglu      f s_down^2 (q_gate q_up X o K' + q_up K) o G
plain       f s_down^2 q_up K' o G
attention   A (P^T G P + diag(values + queries + keys)),  values_j = sum_s (p2_s - 1/n_s) g_s / n_s,
            queries_s = g_s (p2 - 2 p3 + p2^2) (1 - rho) s_z^2,  keys_j = sum_s queries_s / n_s

times what its norms multiply. Derivation and comparison with measurements: docs/initialization.md. Left out: terms of
order 1/d_model and what finite width adds from layer to layer (some per cent at width 128).
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from isogloss.init.gaussian import Activation, Kernel, Participation, W, Z, expected_maximum
from isogloss.init.plan import Entry
from isogloss.init.rules import Constant
from isogloss.init.signals import Signals
from isogloss.models.ignored import IGNORED
from isogloss.models.registry import ModelConfig
from isogloss.nn.multipliers import Multipliers
from isogloss.nn.roles import Role

ACTIVATIONS: dict[str, Activation] = {
    "swiglu": F.silu,
    "gelu": F.gelu,
    "relu2": lambda x: F.relu(x).square(),
}


@dataclass(frozen=True)
class Step:
    """One residual step: what a branch writes, and the gradient's way back.

    Args:
        written: the Gram matrix of what is added, multiplier included.
        stream: the Gram matrix of the stream after it.
        backward: from the gradient's Gram matrix after the step to the one before it.
    """

    written: Float[Tensor, "B T T"]
    stream: Float[Tensor, "B T T"]
    backward: Callable[[Tensor], Tensor]


class Branch(NamedTuple):
    """What a sublayer gives for the Gram matrix it reads, and the gradient's way back through it."""

    gram: Float[Tensor, "B T T"]
    backward: Callable[[Tensor], Tensor]


@torch.no_grad()
def predict_signals(
    config: ModelConfig,
    multipliers: Multipliers,
    plan: Mapping[str, Entry],
    tokens: Int[Tensor, "B T"],
    documents: Int[Tensor, "B T"] | None = None,
    targets: Int[Tensor, "B T"] | None = None,
) -> Signals:
    """The signals that a plan will give on a batch; no weight is made, and the cost does not depend on the width.

    Args:
        config: of the model, vocabulary resolved.
        multipliers: of the scheme that made the plan.
        plan: of the model.
        tokens: only which of them are equal matters.
        documents: each token's document within its row, where attention is kept within documents.
        targets: what each position must predict; positions of equal targets begin with the same gradient. All different
            if not given.
    """
    return _Prediction(config, multipliers, plan, tokens, documents, targets).signals()


class _Prediction:
    def __init__(
        self,
        config: ModelConfig,
        multipliers: Multipliers,
        plan: Mapping[str, Entry],
        tokens: Tensor,
        documents: Tensor | None,
        targets: Tensor | None,
    ) -> None:
        self.targets = targets
        self.config, self.multipliers, self.tokens = config, multipliers, tokens.cpu()
        self.entries: dict[tuple[int | None, Role], list[Entry]] = {}
        for entry in plan.values():
            self.entries.setdefault((entry.site.layer, entry.site.role), []).append(entry)
            if entry.site.role == Role.NORM_GAIN:
                assert entry.rule == Constant(1.0, "1"), f"{entry.site.name}: predictions are for gains of 1"
        visible = _visible(self.tokens, None if documents is None else documents.cpu(), config.mixer.window)
        self.n = visible.sum(-1).double()
        self.average = visible.double() / self.n[..., None]
        self.participations: dict[float, Participation] = {}
        self.kernels: dict[tuple[str, float], Kernel] = {}
        self.logit_stds: list[float] = []

    def signals(self) -> Signals:
        """Forward through all layers, then back."""
        equal = (self.tokens[:, :, None] == self.tokens[:, None, :]).double()
        power = self.power(None, Role.EMBEDDING)
        stream = self.multipliers.embedding**2 * power * equal
        streams, steps = [stream], []
        for layer in range(self.config.n_layers):
            mixed = self.step(streams[-1], lambda x, index=layer: self.attention(index, x))
            fed = self.step(mixed.stream, lambda x, index=layer: self.feed_forward(index, x))
            steps += [mixed, fed]
            streams.append(fed.stream)
        norm = self.norm_of(streams[-1])
        gradient = self.at_the_head() / _outer(norm)
        gradients = [_rms(gradient)]
        for step in reversed(steps):
            gradient = step.backward(gradient)
            gradients.append(_rms(gradient))
        last = gradients[0]
        logit_std, loss = self.output(streams[-1])
        return Signals(
            stream=tuple(_rms(gram) for gram in streams),
            mixer_write=tuple(_rms(step.written) for step in steps[0::2]),
            ffn_write=tuple(_rms(step.written) for step in steps[1::2]),
            gradient=tuple(g / last for g in gradients[::-2]),
            attention_logit_std=tuple(self.logit_stds),
            logit_std=logit_std,
            loss=loss,
        )

    def at_the_head(self) -> Float[Tensor, "B T T"]:
        """The Gram matrix of ``W (p - y)``, up to a factor: the target's row of W decides; 0 where none counts."""
        if self.targets is None:
            return torch.eye(self.tokens.shape[1], dtype=torch.float64).expand(len(self.tokens), -1, -1)
        targets = self.targets.cpu()
        counts = (targets != IGNORED).double()
        return (targets[:, :, None] == targets[:, None, :]).double() * _outer(counts)

    # --- what the plan says -------------------------------------------------------------------------------------------

    def power(self, layer: int | None, role: Role) -> float:
        """The mean square of a matrix's elements."""
        return self.entries[layer, role][0].rule.effective_std ** 2

    def gain(self, layer: int, role: Role) -> float:
        """fan_in times the mean square: the power of an output for inputs of power 1."""
        return self.entries[layer, role][0].site.fan_in * self.power(layer, role)

    def logit_variance(self, layer: int, query_power: Tensor, key_power: Tensor) -> Tensor:
        """Of attention logits, for queries and keys that read inputs of these powers."""
        head_dim = self.config.mixer.heads(self.config.d_model).head_dim
        scale = self.multipliers.attention * head_dim**-0.5
        q, k = self.gain(layer, Role.QUERY) * query_power, self.gain(layer, Role.KEY) * key_power
        if self.config.mixer.qk_norm:  # gains start at 1; the norm's epsilon matters where little is read
            q, k = q / (q + self.config.norm_eps), k / (k + self.config.norm_eps)
        return head_dim * scale**2 * q * k

    # --- residual steps -----------------------------------------------------------------------------------------------

    def norm_of(self, gram: Tensor) -> Float[Tensor, "B T"]:
        """What RMSNorm divides by."""
        return (_diagonal(gram) + self.config.norm_eps).sqrt()

    def step(self, stream: Tensor, branch: Callable[[Tensor], Branch]) -> Step:
        """One residual step by the block's placement of norms."""
        placement, a, b = self.config.norm, self.multipliers.residual**2, self.multipliers.branch**2

        def normed(gram: Tensor) -> Branch:
            outer = _outer(self.norm_of(gram))
            return Branch(gram / outer, lambda g: g / outer)

        before = normed(stream) if placement in ("pre", "sandwich") else Branch(stream, lambda g: g)
        inner = branch(before.gram)
        after = normed(inner.gram) if placement in ("output", "sandwich") else Branch(inner.gram, lambda g: g)
        written = b * after.gram
        total = a * stream + written
        last = normed(total) if placement == "post" else Branch(total, lambda g: g)

        def backward(gradient: Tensor) -> Tensor:
            gradient = last.backward(gradient)
            return a * gradient + before.backward(inner.backward(after.backward(b * gradient)))

        return Step(written, last.gram, backward)

    # --- sublayers ----------------------------------------------------------------------------------------------------

    def attention(self, layer: int, x: Float[Tensor, "B T T"]) -> Branch:
        """Softmax attention over the visible keys."""
        heads = self.config.mixer.heads(self.config.d_model)
        loudness = heads.n_heads * heads.head_dim * self.power(layer, Role.ATTENTION_OUT) * self.gain(layer, Role.VALUE)
        average, n, power = self.average, self.n, _diagonal(x)
        spread = average @ x @ average.mT
        # The mean correlation of distinct keys of a query.
        same = (average.square() * _correlations(x).diagonal(dim1=-2, dim2=-1)[:, None, :]).sum(-1)
        rho = ((_diagonal(average @ _correlations(x) @ average.mT) - same) / (1 - 1 / n).clamp_min(1e-12)).clamp(0, 1)
        key_power = (average * power[:, None, :]).sum(-1)
        self.logit_stds.append(math.sqrt(float(self.logit_variance(layer, power, power).mean())))
        variance = self.logit_variance(layer, power, key_power) * (1 - rho)
        p2, p3 = self.participation(float(variance.max()))(n, variance)
        alone = (p2 - 1 / n).clamp_min(0) * (1 - rho) * key_power
        gram = loudness * (spread + torch.diag_embed(alone))
        queries = (p2 - 2 * p3 + p2.square()).clamp_min(0) * variance

        def backward(gradient: Tensor) -> Tensor:
            own = _diagonal(gradient)
            values = (average.mT @ (own * (p2 - 1 / n).clamp_min(0))[..., None])[..., 0]
            keys = (average.mT @ (own * queries)[..., None])[..., 0]
            return loudness * (average.mT @ gradient @ average + torch.diag_embed(values + own * queries + keys))

        return Branch(gram, backward)

    def feed_forward(self, layer: int, x: Float[Tensor, "B T T"]) -> Branch:
        """The feed-forward network, gated or plain."""
        config = self.config.ffn
        d_ff = config.width(self.config.d_model)
        loudness = d_ff * self.power(layer, Role.FFN_DOWN)
        up, power, r = self.gain(layer, Role.FFN_UP), float(_diagonal(x).mean()), _correlations(x)
        if config.type == "swiglu":
            gate = self.gain(layer, Role.FFN_GATE)
            kernel = self.kernel(config.type, gate * power)
            value, slope = kernel(r), kernel.slope(r)
            return Branch(loudness * up * x * value, lambda g: loudness * (gate * up * x * slope + up * value) * g)
        kernel = self.kernel(config.type, up * power)
        slope = kernel.slope(r)
        return Branch(loudness * kernel(r), lambda g: loudness * up * slope * g)

    def kernel(self, activation: str, q: float) -> Kernel:
        """Made once for each variance."""
        key = (activation, float(f"{q:.6g}"))
        if key not in self.kernels:
            self.kernels[key] = Kernel(ACTIVATIONS[activation], max(q, 1e-30))
        return self.kernels[key]

    def participation(self, variance: float) -> Participation:
        """Made once for each range of variances: the next power of two above."""
        top = 2.0 ** math.ceil(math.log2(max(variance, 2**-20)))
        if top not in self.participations:
            self.participations[top] = Participation(int(self.n.max()), top)
        return self.participations[top]

    # --- output -------------------------------------------------------------------------------------------------------

    def output(self, stream: Tensor) -> tuple[float, float]:
        """The logits' standard deviation and the loss.

        ``ln V + ln E e^y`` for logits y of modest size; once s > sqrt(2 ln V), the largest of V decides: s E[max].
        With a tied head, the token that was read has a logit of its own: ``d s_E^2 e / r_L`` in the mean, spread by the
        rest of the stream and by the length of its row.
        """
        config = self.config
        n_vocab, cap = config.vocab_size, config.logit_softcap
        assert n_vocab is not None
        scale, norm = self.multipliers.logits, self.norm_of(stream)
        read = _diagonal(stream) / norm.square()
        weight = self.power(None, Role.EMBEDDING if config.tied_head else Role.HEAD)
        std = math.sqrt(config.d_model * weight * float(read.mean())) * scale

        def capped(z: Tensor) -> Tensor:
            return z if cap is None else cap * torch.tanh(z / cap)

        drawn = capped(std * Z)
        logit_std = math.sqrt(float((W * drawn.square()).sum()))
        if cap is None and std > math.sqrt(2 * math.log(n_vocab)):
            others = std * expected_maximum(n_vocab)
        else:
            others = math.log(n_vocab) + float((W.log() + drawn).logsumexp(0))
        if not config.tied_head:
            return logit_std, others
        mean = self.multipliers.embedding * config.d_model * weight * scale / norm
        rest = 1 - self.multipliers.embedding**2 * weight / norm.square()
        spread = (std**2 * rest + 2 / config.d_model * mean.square()).clamp_min(0).sqrt()
        own = capped(mean[..., None] + spread[..., None] * Z)
        logit_std = math.sqrt(logit_std**2 + float((W * own.square()).sum(-1).mean()) / n_vocab)
        return logit_std, float((W * torch.logaddexp(own, torch.tensor(others))).sum(-1).mean())


def _visible(tokens: Tensor, documents: Tensor | None, window: int | None) -> Bool[Tensor, "B T T"]:
    """Which keys each query sees."""
    position = torch.arange(tokens.shape[1])
    distance = position[:, None] - position[None, :]
    seen = (distance >= 0) & (distance < (window or len(position)))
    seen = seen.expand(len(tokens), -1, -1)
    return seen if documents is None else seen & (documents[:, :, None] == documents[:, None, :])


def _diagonal(gram: Tensor) -> Float[Tensor, "B T"]:
    return gram.diagonal(dim1=-2, dim2=-1)


def _outer(n: Tensor) -> Float[Tensor, "B T T"]:
    return n[:, :, None] * n[:, None, :]


def _correlations(x: Tensor) -> Float[Tensor, "B T T"]:
    return (x / _outer(_diagonal(x).clamp_min(1e-300).sqrt())).clamp(-1, 1)


def _rms(gram: Tensor) -> float:
    return math.sqrt(float(_diagonal(gram).mean()))
