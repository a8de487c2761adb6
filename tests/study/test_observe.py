"""What is observed is what happens: the stream, what matrices read, attention's logits."""

import pytest
import torch

import isogloss.mixers.attention as attention
from isogloss.init.measure import measure_signals
from isogloss.models.protocol import Batch
from isogloss.study.observe import observe, rms


def batch_of(documents: bool) -> Batch:
    tokens = torch.randint(0, 50, (2, 12), generator=torch.Generator().manual_seed(0))
    rows = torch.arange(12).div(5, rounding_mode="floor").expand(2, 12).contiguous()
    return Batch(tokens, tokens, rows if documents else None)


@pytest.mark.parametrize("documents", [False, True])
def test_stream_and_outputs_agree_with_the_model(make_decoder, documents: bool) -> None:
    model, batch = make_decoder(), batch_of(documents)
    found = observe(model, batch)
    assert [rms(x) for x in found.stream] == pytest.approx(measure_signals(model, batch).stream, rel=1e-6)
    torch.testing.assert_close(found.logits, model.logits(model.trunk(batch.tokens, batch.documents)).detach())
    for name, x in found.inputs.items():
        assert x.shape[-1] == model.get_parameter(name).shape[1], name
    assert set(found.inputs) == {n for n, p in model.named_parameters() if p.ndim == 2} - {"embedding.weight"}
    assert set(found.normed) == {n for n, p in model.named_parameters() if p.ndim == 1}


@pytest.mark.parametrize("mixer", [{}, {"n_kv_heads": 2, "qk_norm": True}, {"window": 4}])
def test_attention_logits_are_those_that_attention_forms(make_decoder, monkeypatch, mixer: dict) -> None:
    model, batch, formed = make_decoder(mixer=mixer), batch_of(True), []
    original = attention.attend

    def attend(q, k, v, mask, *, scale, **rest):
        formed.append(scale * q @ k.repeat_interleave(q.shape[1] // k.shape[1], 1).transpose(-1, -2))
        return original(q, k, v, mask, scale=scale, **rest)

    monkeypatch.setattr(attention, "attend", attend)
    found = observe(model, batch)
    window = mixer.get("window", 12)
    for scores, kept in zip(formed, found.attention_logits, strict=True):
        assert batch.documents is not None
        expected = [
            scores[b, h, s, t]
            for b in range(2)
            for h in range(4)
            for s in range(12)
            for t in range(12)
            if t <= s and s - t < window and batch.documents[b, s] == batch.documents[b, t]
        ]
        torch.testing.assert_close(kept.sort().values, torch.stack(expected).detach().sort().values)


def test_an_aligned_pair(make_decoder) -> None:
    """With QK-norm and gains of 1, a query along its key has the logit sqrt(C)."""
    model = make_decoder(mixer={"qk_norm": True})
    with torch.no_grad():
        for block in model.blocks():
            block.mixer.q_norm.weight.fill_(1.0)
            block.mixer.k_norm.weight.fill_(1.0)
    found = observe(model, batch_of(False))
    assert found.aligned_logits == pytest.approx([8**0.5] * 2, rel=1e-3)


def test_nothing_is_left_behind(make_decoder) -> None:
    model = make_decoder()
    observe(model, batch_of(False))
    assert all(not module._forward_hooks and not module._forward_pre_hooks for module in model.modules())
    assert all(p.grad is None for p in model.parameters())
