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
            queries_s = g_s (p2 - 2 p3 + p22) (1 - rho) s_z^2,  keys_j = sum_s queries_s / n_s,
            p22 = E (sum_j p_j^2)^2

times what its norms multiply. Derivation and comparison with measurements: docs/initialization.md. Left out: terms of
order 1/d_model and what finite width adds from layer to layer (some per cent at width 128).
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from isogloss.init.gaussian import (
    Activation,
    Kernel,
    Participation,
    W,
    Z,
)
from isogloss.init.head import Head
from isogloss.init.plan import Entry
from isogloss.init.rules import Constant
from isogloss.init.signals import SILENT, Signals, over_last
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
        kept: what the stream before it is multiplied by in it.
        backward: from the gradient's Gram matrix after the step to the one before it.
    """

    written: Float[Tensor, "B T T"]
    stream: Float[Tensor, "B T T"]
    kept: Float[Tensor, "B T"]
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
        self.logit_spreads: list[float] = []

    def signals(self) -> Signals:
        """Forward through all layers, then back."""
        tied = self.config.tied_head
        equal = (self.tokens[:, :, None] == self.tokens[:, None, :]).double()
        weight = self.power(None, Role.EMBEDDING if tied else Role.HEAD)
        own = torch.full_like(self.n, self.multipliers.embedding)
        stream = self.multipliers.embedding**2 * self.power(None, Role.EMBEDDING) * equal
        streams, owns, steps = [stream.requires_grad_(tied)], [own], []
        with torch.set_grad_enabled(tied):
            for layer in range(self.config.n_layers):
                for sublayer in (self.attention, self.feed_forward):
                    steps.append(self.step(streams[-1], partial(sublayer, layer)))
                    streams.append(steps[-1].stream)
                    owns.append(owns[-1] * steps[-1].kept)
            head = Head(self.config, self.multipliers, weight, _diagonal(streams[-1]), owns[-1])
        audible = float(math.sqrt(weight) * self.multipliers.logits > SILENT)  # a head of zeros passes no gradient
        coherent = self.own_logits(head, streams, owns) if tied and audible else None
        gradient = audible * self.at_the_head() / _outer(head.norm)
        gradients = [gradient if coherent is None else gradient + coherent[-1]]
        for index, step in reversed(list(enumerate(steps))):
            gradient = step.backward(gradients[-1])
            if coherent is not None:
                gradient = gradient + coherent[index] - _outer(step.kept) * coherent[index + 1]
            gradients.append(gradient)
        logit_std, loss = head.signals()
        return Signals(
            stream=tuple(_rms(gram) for gram in streams[::2]),
            mixer_write=tuple(_rms(step.written) for step in steps[0::2]),
            ffn_write=tuple(_rms(step.written) for step in steps[1::2]),
            gradient=over_last([_rms(gradient) for gradient in gradients[::-2]]),
            attention_logit_std=tuple(self.logit_stds),
            logit_std=logit_std,
            loss=loss,
            attention_logit_spread=tuple(self.logit_spreads),
        )

    def own_logits(self, head: Head, streams: list[Tensor], owns: list[Tensor]) -> list[Tensor]:
        """The Gram matrices of the mean gradient through tokens' own logits, in the units of `at_the_head`.

        ``d o_t / d x_s = ([s = t] E_t own_L / own_l + 2 sum_r D_sr x_r) / d``: the logit grows with the embedding in
        the stream, and falls with all that lengthens it, D its derivative by the stream's Gram matrix.
        """
        share = head.own_share().detach() * self.counts()
        with torch.enable_grad():
            total = (share * head.mean).sum()
        slopes = torch.autograd.grad(total, streams, allow_unused=True)
        weight = self.power(None, Role.EMBEDDING)
        equal = weight * (self.tokens[:, :, None] == self.tokens[:, None, :])
        unit = weight * (self.multipliers.logits * self.config.d_model) ** 2
        found = []
        for stream, own, slope in zip(streams, owns, slopes, strict=True):
            both = torch.zeros_like(stream) if slope is None else slope + slope.mT
            pull = share * head.unit * owns[-1] / own
            mixed = pull[:, :, None] * ((equal * own[:, None, :]) @ both)
            gram = _outer(pull) * equal + mixed + mixed.mT + both @ stream @ both
            found.append((gram / unit).detach())
        return found

    def counts(self) -> Float[Tensor, "B T"]:
        """1 where a target counts."""
        return torch.ones_like(self.n) if self.targets is None else (self.targets.cpu() != IGNORED).double()

    def at_the_head(self) -> Float[Tensor, "B T T"]:
        """The Gram matrix of ``W (p - y)``, up to a factor: the target's row of W decides; 0 where none counts."""
        if self.targets is None:
            return torch.eye(self.tokens.shape[1], dtype=torch.float64).expand(len(self.tokens), -1, -1)
        targets = self.targets.cpu()
        return (targets[:, :, None] == targets[:, None, :]).double() * _outer(self.counts())

    # --- what the plan says -------------------------------------------------------------------------------------------

    def power(self, layer: int | None, role: Role) -> float:
        """The mean square of a matrix's elements."""
        return self.entries[layer, role][0].rule.effective_std ** 2

    def gain(self, layer: int, role: Role) -> float:
        """fan_in times the mean square: the power of an output for inputs of power 1."""
        return self.entries[layer, role][0].site.fan_in * self.power(layer, role)

    def logit_factors(self, layer: int, power: Tensor) -> tuple[Tensor, Tensor]:
        """What queries and keys give the variance of attention logits per power of the input that each reads."""
        head_dim = self.config.mixer.heads(self.config.d_model).head_dim
        scale = self.multipliers.attention * head_dim**-0.5
        q, k = (self.gain(layer, role) * torch.ones_like(power) for role in (Role.QUERY, Role.KEY))
        if self.config.mixer.qk_norm:  # gains start at 1; the norm's epsilon matters where little is read
            q, k = q / (q * power + self.config.norm_eps), k / (k * power + self.config.norm_eps)
        return head_dim * scale**2 * q, k

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
        total, kept = a * stream + written, torch.full_like(self.n, self.multipliers.residual)
        last = normed(total) if placement == "post" else Branch(total, lambda g: g)

        def backward(gradient: Tensor) -> Tensor:
            gradient = last.backward(gradient)
            return a * gradient + before.backward(inner.backward(after.backward(b * gradient)))

        return Step(written, last.gram, kept / self.norm_of(total) if placement == "post" else kept, backward)

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
        q, k = self.logit_factors(layer, power)
        self.logit_stds.append(self.capped_std((q * power).mean(-1) * (k * power).mean(-1)))
        # The mean square over T^2 logits q_s k_t of covariance X_ss' X_tt', and over the heads.
        alike = float(_correlations(x).detach().square().mean((-2, -1)).mean())
        self.logit_spreads.append(alike / math.sqrt(2 * heads.n_heads))
        key_power, loudness_of_keys = ((average * values[:, None, :]).sum(-1) for values in (power, k * power))
        variance = q * power * loudness_of_keys
        found = self.participation(float(variance.detach().max()))(n, variance, rho)
        alone = (found.p2 - 1 / n).clamp_min(0) * (1 - rho)
        gram = loudness * (spread + torch.diag_embed(alone * key_power))
        # What the logits' gradient is to a query and to a key.
        turned = (1 - rho) * key_power
        queries = turned * q * loudness_of_keys * (found.own + found.common * rho)
        keys = turned * q * power * (found.own)

        def backward(gradient: Tensor) -> Tensor:
            own = _diagonal(gradient)
            to_values, to_keys = (
                (average.mT @ (own * share)[..., None])[..., 0] for share in ((found.p2 - 1 / n).clamp_min(0), keys)
            )
            to_each = to_values + own * queries + k * to_keys
            return loudness * (average.mT @ gradient @ average + torch.diag_embed(to_each))

        return Branch(gram, backward)

    def capped_std(self, variance: Tensor) -> float:
        """Of attention logits of these variances, after their soft cap."""
        drawn = _capped(variance.detach().sqrt()[..., None] * Z, self.config.mixer.softcap)
        return math.sqrt(float((W * drawn.square()).sum(-1).mean()))

    def feed_forward(self, layer: int, x: Float[Tensor, "B T T"]) -> Branch:
        """The feed-forward network, gated or plain."""
        config = self.config.ffn
        d_ff = config.width(self.config.d_model)
        loudness = d_ff * self.power(layer, Role.FFN_DOWN)
        up, power, r = self.gain(layer, Role.FFN_UP), _diagonal(x), _correlations(x)
        if config.type == "swiglu":
            gate = self.gain(layer, Role.FFN_GATE)
            kernel = self.kernel(config.type, gate * power)
            value, slope = kernel(r), kernel.slope(r)
            return Branch(loudness * up * x * value, lambda g: loudness * (gate * up * x * slope + up * value) * g)
        kernel = self.kernel(config.type, up * power)
        slope = kernel.slope(r)
        return Branch(loudness * kernel(r), lambda g: loudness * up * slope * g)

    def kernel(self, activation: str, q: Float[Tensor, "B T"]) -> Kernel:
        """One for each position, or, made once, for all of equal variance."""
        mean, span = float(q.detach().mean()), float(q.detach().max() - q.detach().min())
        if q.requires_grad or span > 1e-3 * mean:
            return Kernel(ACTIVATIONS[activation], q)
        key = (activation, float(f"{mean:.6g}"))
        if key not in self.kernels:
            self.kernels[key] = Kernel(ACTIVATIONS[activation], key[1])
        return self.kernels[key]

    def participation(self, variance: float) -> Participation:
        """Made once for each range of variances: the next power of two above."""
        top = 2.0 ** math.ceil(math.log2(max(variance, 2**-20)))
        if top not in self.participations:
            self.participations[top] = Participation(int(self.n.max()), top, self.config.mixer.softcap)
        return self.participations[top]


def _capped(y: Tensor, cap: float | None) -> Tensor:
    return y if cap is None else cap * torch.tanh(y / cap)


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
    return math.sqrt(float(_diagonal(gram.detach()).mean()))
