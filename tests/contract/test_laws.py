"""Laws for every registered model and mixer: causal, documents apart, cached decoding the same, FLOPs as counted, a
loss as logits say."""

import pytest
import torch
import torch.nn.functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from isogloss.init.plan import plan_init
from isogloss.init.schemes import LinguaConfig
from isogloss.mixers.registry import MIXERS
from isogloss.models.decoder import Decoder, DecoderConfig
from isogloss.models.protocol import IGNORED, Batch, LanguageModel
from isogloss.models.registry import MODELS
from isogloss.optim.groups import AdamWConfig, create_optimizer, set_learning_rate
from isogloss.train.step import train_step

T, V = 16, 50
VARIANTS = {
    "plain backend": {"mixer": {"backend": "plain"}},
    "sdpa": {"mixer": {"backend": "sdpa"}},
    "grouped, window, norms": {"mixer": {"n_kv_heads": 2, "window": 6, "qk_norm": True}},
    "caps, tied": {"mixer": {"softcap": 2.0, "n_kv_heads": 1}, "logit_softcap": 3.0, "tied_head": True},
    "wide heads, gelu": {"mixer": {"head_dim": 24}, "ffn": {"type": "gelu", "d_ff": 40}, "z_loss": 1e-2},
    "post": {"norm": "post"},
    "output": {"norm": "output"},
    "sandwich": {"norm": "sandwich"},
    "yarn, relu2": {
        "mixer": {"rotary": {"scaling": {"type": "yarn", "factor": 2.0, "original_seq_len": 8}}},
        "ffn": {"type": "relu2", "d_ff": 40},
    },
}
variants = pytest.mark.parametrize("variant", VARIANTS.values(), ids=VARIANTS.keys())


def test_every_registered_model_and_mixer_is_held_to_the_laws(make_decoder):
    made = [make_decoder(**variant) for variant in VARIANTS.values()]
    assert {type(model.config) for model in made} == set(MODELS)
    assert {type(model.config.mixer) for model in made} == set(MIXERS)


def tokens_of(rows: int, length: int = T, seed: int = 0):
    return torch.randint(0, V, (rows, length), generator=torch.Generator().manual_seed(seed))


def logits_of(model: Decoder, tokens, documents=None):
    hidden = model.trunk(tokens, documents)
    logits = F.linear(hidden, model.head_weight())
    cap = model.config.logit_softcap
    return logits if cap is None else cap * torch.tanh(logits / cap)


@variants
@torch.no_grad()
def test_causal(make_decoder, variant):
    model = make_decoder(**variant)
    tokens = tokens_of(2)
    before = model(tokens)
    for t in (0, 7, T - 1):
        changed = tokens.clone()
        changed[:, t] = (changed[:, t] + 1) % V
        after = model(changed)
        assert torch.equal(after[:, :t], before[:, :t])
        assert not torch.allclose(after[:, t], before[:, t], atol=1e-4)


@torch.no_grad()
def test_window_ends(make_decoder):
    model = make_decoder(mixer={"window": 3}, n_layers=1)
    tokens = tokens_of(1)
    changed = tokens.clone()
    changed[:, 4] = (changed[:, 4] + 1) % V
    differs = (model(tokens) - model(changed)).abs().amax((0, 2)) > 1e-6
    assert differs.nonzero().flatten().tolist() == [4, 5, 6]


@variants
@torch.no_grad()
def test_documents_do_not_see_each_other(make_decoder, variant):
    model = make_decoder(**variant)
    tokens = tokens_of(2)
    documents = torch.tensor([[0] * 5 + [1] * 11, [0] * 9 + [1] * 4 + [2] * 3])
    packed = logits_of(model, tokens, documents)
    for row, start, end in [(0, 0, 5), (0, 5, 16), (1, 0, 9), (1, 9, 13), (1, 13, 16)]:
        # Positions go on through a row, but rotary attention knows only distances.
        alone = model(tokens[row : row + 1, start:end])
        torch.testing.assert_close(packed[row, start:end], alone[0], rtol=1e-4, atol=1e-4)


@variants
@pytest.mark.parametrize("parts", [[1] * T, [7, 1, 1, 4, 3], [15, 1]], ids=str)
@torch.no_grad()
def test_decoding_with_a_state_equals_the_whole(make_decoder, variant, parts):
    model = make_decoder(**variant)
    tokens = tokens_of(3)
    state = model.new_state(3, T)
    pieces = [model(part, state) for part in tokens.split(parts, 1)]
    torch.testing.assert_close(torch.cat(pieces, 1), model(tokens), rtol=1e-4, atol=1e-4)
    with pytest.raises(ValueError, match="holds 16"):
        model(tokens[:, :1], state)


@variants
def test_loss_is_what_the_logits_say(make_decoder, variant):
    model = make_decoder(**variant)
    tokens, targets = tokens_of(3), tokens_of(3, seed=1)
    targets[0, :9] = IGNORED
    documents = torch.arange(T).div(6, rounding_mode="floor").expand(3, T)
    for docs in (None, documents):
        output = model.loss(Batch(tokens, targets, docs))
        logits = logits_of(model, tokens, docs).double()
        expected = F.cross_entropy(logits.flatten(0, 1), targets.flatten(), ignore_index=IGNORED, reduction="sum")
        torch.testing.assert_close(output.nll.double(), expected.detach(), rtol=1e-5, atol=0)
        z = model.config.z_loss * logits.logsumexp(-1)[targets != IGNORED].square().sum()
        torch.testing.assert_close(output.total.double(), expected + z, rtol=1e-5, atol=0)
        assert isinstance(model, LanguageModel)


@pytest.mark.parametrize(
    "variant",
    [
        {},
        {"tied_head": True},
        {"mixer": {"n_kv_heads": 2, "head_dim": 10}, "ffn": {"type": "gelu", "d_ff": 40}},
        {"mixer": {"window": 6}},
    ],
)
def test_flops_are_those_that_torch_counts_over_the_whole_row_whatever_the_window(make_decoder, variant):
    mixer = {"backend": "plain", **variant.get("mixer", {})}
    model = make_decoder(**{**variant, "mixer": mixer})
    batch = Batch(tokens_of(2), tokens_of(2, seed=1))
    with FlopCounterMode(display=False) as counter:
        model.loss(batch).total.backward()
    assert counter.get_total_flops() == model.flops_per_token(T) * batch.tokens.numel()


def one_step(model: Decoder, batch: Batch, micro_batch_size: int):
    optimizer = create_optimizer(model, AdamWConfig(eps=1e-3), plan_init(model, LinguaConfig(), model.config))
    result = train_step(model, optimizer, batch, micro_batch_size=micro_batch_size, clip=0.5, precision="fp32")
    return result, dict(model.named_parameters())


@pytest.mark.parametrize("micro_batch_size", [1, 2, 4])
def test_accumulated_gradients_are_those_of_the_big_batch(make_decoder, micro_batch_size):
    tokens, targets = tokens_of(5), tokens_of(5, seed=1)
    targets[0] = IGNORED  # a micro-batch without any target
    targets[1, :13] = IGNORED
    targets[3, 2:] = IGNORED
    batch = Batch(tokens, targets, torch.arange(T).div(5, rounding_mode="floor").expand(5, T))
    whole, expected = one_step(make_decoder(z_loss=1e-3), batch, 5)
    parts, found = one_step(make_decoder(z_loss=1e-3), batch, micro_batch_size)
    assert parts.n_targets == whole.n_targets == batch.n_targets()
    assert parts.loss == pytest.approx(whole.loss, rel=1e-6)
    assert parts.grad_norm == pytest.approx(whole.grad_norm, rel=1e-5)
    start = dict(make_decoder(z_loss=1e-3).named_parameters())
    for name, parameter in found.items():
        torch.testing.assert_close(parameter, expected[name], rtol=1e-6, atol=1e-6)
        assert not torch.equal(parameter, start[name])


def test_a_step_that_is_not_finite_changes_nothing(make_decoder):
    model = make_decoder()
    with torch.no_grad():
        model.norm.weight[0] = torch.nan
    before = {name: p.clone() for name, p in model.named_parameters()}
    result, after = one_step(model, Batch(tokens_of(2), tokens_of(2, seed=1)), 2)
    assert result.nonfinite == "the loss"
    assert all(torch.equal(after[name], before[name]) for name in before if name != "norm.weight")


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_overfits_one_batch(make_decoder, precision):
    model = make_decoder()
    optimizer = create_optimizer(model, AdamWConfig(), plan_init(model, LinguaConfig(), model.config))
    set_learning_rate(optimizer, 1e-2)
    batch = Batch(tokens_of(4), tokens_of(4, seed=1))
    for _ in range(60):
        result = train_step(model, optimizer, batch, micro_batch_size=4, clip=1.0, precision=precision)
    assert result.loss < 0.1


@torch.no_grad()
def test_states_are_of_the_weights_type(make_decoder):
    model = make_decoder().double()
    tokens = tokens_of(1)
    state = model.new_state(1, T)
    assert torch.equal(model(tokens, state), model(tokens))


@pytest.mark.parametrize(
    ("mixer", "words"),
    [
        ({"n_heads": 3}, "even multiple"),
        ({"n_heads": 4, "n_kv_heads": 3}, "must divide"),
        ({"n_heads": 4, "head_dim": 7}, "even"),
        ({"n_heads": 4, "softcap": 1.0, "backend": "sdpa"}, "cannot cap"),
    ],
)
def test_impossible_shapes_are_refused(mixer, words):
    with pytest.raises(ValueError, match=words):
        DecoderConfig.model_validate(
            {"d_model": 32, "n_layers": 1, "mixer": mixer, "ffn": {"type": "swiglu", "d_ff": 8}}
        )


@torch.no_grad()
def test_sdpa_math_and_fused_agree(make_decoder):
    model = make_decoder(mixer={"backend": "sdpa", "n_kv_heads": 2})
    tokens = tokens_of(2)
    with sdpa_kernel(SDPBackend.MATH):
        expected = model(tokens)
    torch.testing.assert_close(model(tokens), expected, rtol=1e-4, atol=1e-4)
