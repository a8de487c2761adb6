"""Evaluation equals a float64 reference, one target at a time; every target counts once."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from isogloss.config.base import UserError
from isogloss.data.synthetic.copy import CopyConfig
from isogloss.data.synthetic.corpus import SyntheticCorpus
from isogloss.data.tokenizers.bytes import BytesTokenizer
from isogloss.evaluate.loss import Evaluation, evaluate_batches, evaluate_corpus, evaluate_text
from isogloss.models.protocol import IGNORED, Batch

TOKENIZER = BytesTokenizer()


def reference(model, texts: list[str], seq_len: int, within_document: bool) -> tuple[float, int]:
    """Each target's nats from the logits of its own prefix within its row (and document), in float64."""
    model = model.double()
    stream = [token for text in texts for token in (256, *text.encode())]
    nll = 0.0
    for i in range(1, len(stream)):
        start = (i - 1) // seq_len * seq_len
        if within_document:
            start = max(start, max(j for j in range(i) if stream[j] == 256))
        prefix = torch.tensor([stream[start:i]])
        hidden = model.trunk(prefix)[0, -1]
        nll -= float((model.head_weight() @ hidden).log_softmax(-1)[stream[i]])
    return nll, len(stream) - 1


@pytest.mark.parametrize("within_document", [True, False])
@pytest.mark.parametrize("seq_len", [1, 5, 16, 100])
def test_equals_a_reference_target_by_target(make_decoder, within_document, seq_len):
    texts = ["héllo", "", "a longer second text", "x"]
    found = evaluate_text(
        make_decoder(vocab_size=260, z_loss=0.1),
        TOKENIZER,
        texts,
        seq_len,
        batch_size=3,
        within_document=within_document,
    )
    with torch.no_grad():
        nll, n_targets = reference(make_decoder(vocab_size=260), texts, seq_len, within_document)
    n_bytes = sum(len(text.encode()) for text in texts)
    assert found.n_targets == n_targets
    assert found.n_bytes == n_bytes
    assert found.nll == pytest.approx(nll, rel=1e-5)
    assert found.loss == pytest.approx(nll / n_targets, rel=1e-5)
    assert found.perplexity == pytest.approx(math.exp(nll / n_targets), rel=1e-4)
    assert found.bits_per_byte == pytest.approx(nll / math.log(2) / n_bytes, rel=1e-5)


@settings(deadline=None, max_examples=25)
@given(st.lists(st.text(max_size=20), min_size=1, max_size=4), st.integers(1, 30), st.integers(1, 5))
def test_every_target_counts_once(make_decoder, texts, seq_len, batch_size):
    if not any(texts):
        return
    found = evaluate_text(make_decoder(vocab_size=257), TOKENIZER, texts, seq_len, batch_size=batch_size)
    assert found.n_targets == sum(len(text.encode()) + 1 for text in texts) - 1


def test_batches_are_summed_and_bytes_follow_targets(make_decoder):
    tokens = torch.arange(24).reshape(4, 6)
    targets = tokens + 1
    targets[1, 2:] = IGNORED
    model = make_decoder()
    batch = Batch(tokens, targets)
    whole = evaluate_batches(model, [batch], precision="fp32", bytes_per_token=2.5)
    parts = evaluate_batches(model, iter(batch.split(1)), precision="fp32", bytes_per_token=2.5)
    assert whole.n_targets == parts.n_targets == 20
    assert whole.n_bytes == 50
    assert parts.nll == pytest.approx(whole.nll, rel=1e-6)


def test_bfloat16_is_near(make_decoder):
    model = make_decoder(vocab_size=257)
    exact, near = (evaluate_text(model, TOKENIZER, ["some text"], 16, precision=p).loss for p in ("fp32", "bf16"))
    assert near != exact
    assert near == pytest.approx(exact, rel=0.02)


def test_the_model_is_left_as_it_was(make_decoder):
    model = make_decoder(vocab_size=257).train()
    model.layers[1].eval()
    evaluate_text(model, TOKENIZER, ["text"], 16)
    assert model.training
    assert not model.layers[1].training
    assert torch.is_grad_enabled()
    assert all(p.grad is None for p in model.parameters())


@pytest.mark.parametrize("texts", [[], [""], ["", ""]])
def test_nothing_to_predict(make_decoder, texts):
    with pytest.raises(UserError, match="nothing to predict"):
        evaluate_text(make_decoder(vocab_size=257), TOKENIZER, texts, 16)


def test_a_smaller_vocabulary_than_the_tokenizers_is_refused(make_decoder):
    with pytest.raises(UserError, match="knows only 250"):
        evaluate_text(make_decoder(vocab_size=250), TOKENIZER, ["text"], 16)


def test_no_batches(make_decoder):
    with pytest.raises(UserError, match="nothing to predict"):
        evaluate_batches(make_decoder(), [], precision="fp32", bytes_per_token=1.0)


def test_perplexity_beyond_floats_is_infinite():
    assert Evaluation(nll=1e6, n_targets=10, n_bytes=10).perplexity == math.inf


@pytest.mark.parametrize("batch_size", [1, 2, 8])
def test_so_many_of_the_first_rows_are_read_whatever_a_batch_holds(make_decoder, batch_size: int) -> None:
    """A batch holds more rows on more ranks."""
    corpus = SyntheticCorpus(CopyConfig(type="copy", seq_len=16, max_length=8, validation_rows=7))
    model = make_decoder(vocab_size=corpus.tokenizer.n_tokens)

    def read(size: int, n_rows: int | None) -> Evaluation:
        return evaluate_corpus(model, corpus, corpus.config.cut(), size, precision="fp32", n_rows=n_rows)[0]

    for n_rows in (5, None):
        assert read(batch_size, n_rows).n_targets == read(7, n_rows).n_targets
        assert read(batch_size, n_rows).loss == pytest.approx(read(7, n_rows).loss, rel=1e-5)
    assert read(batch_size, 5).n_targets < read(batch_size, None).n_targets
