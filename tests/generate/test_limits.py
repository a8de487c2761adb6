"""Prompts at the limits of what is promised: of any length, of any characters, of any number at once."""

import resource

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from isogloss.config.base import UserError
from isogloss.data.tokenizers.bpe_training import train_bpe
from isogloss.data.tokenizers.bytes import BytesTokenizer
from isogloss.generate import engine
from isogloss.generate.engine import generate, generate_ids
from isogloss.generate.sampling import SamplingConfig

GREEDY = SamplingConfig(temperature=0, max_tokens=5, max_context=40)
LONGEST = GREEDY.max_context - GREEDY.max_tokens - 1  # one for the end of text that opens a document


@pytest.fixture(scope="module")
def model(make_decoder):
    return make_decoder(vocab_size=257)


def write(model, prompt: str, sampling: SamplingConfig = GREEDY) -> str:
    return "".join(generate(model, BytesTokenizer(), prompt, sampling))


@pytest.mark.campaign(22)
@pytest.mark.parametrize("length", [0, 1, LONGEST])
def test_a_prompt_up_to_the_limit_is_gone_on_with(model, length: int) -> None:
    assert len(list(generate_ids(model, torch.full((1, length + 1), 97), GREEDY, 257))) == GREEDY.max_tokens
    write(model, "a" * length)


@pytest.mark.campaign(22)
@pytest.mark.parametrize("length", [LONGEST + 1, 10**6])
def test_a_longer_one_is_refused_before_memory_is_taken_for_it(model, monkeypatch, length: int) -> None:
    made: list[int] = []
    monkeypatch.setattr(model, "new_state", lambda rows, longest: made.append(longest))
    monkeypatch.setattr(engine, "StreamDecoder", lambda tokenizer: made.append(0))  # which reads the prompt too
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(UserError, match=rf"a prompt of {length + 1:,} tokens.*max_context = 40"):
        write(model, "a" * length)
    with pytest.raises(UserError, match="max_context"):
        generate_ids(model, torch.full((1, length), 97), SamplingConfig(max_tokens=40, max_context=40), 257)
    with pytest.raises(
        UserError, match=r"max_tokens = 1,000,000,000 more are above max_context = 65,536.*lower max_tokens"
    ):
        write(model, "a", SamplingConfig(max_tokens=10**9))
    assert made == []
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200_000  # kB


@pytest.mark.control(22)
def test_without_the_limit_memory_would_be_taken_for_any_length(model, monkeypatch) -> None:
    made: list[int] = []

    def new_state(rows: int, longest: int) -> None:
        made.append(longest)
        raise MemoryError

    monkeypatch.setattr(model, "new_state", new_state)
    monkeypatch.setattr(engine, "check_length", lambda length, sampling: None)
    with pytest.raises(MemoryError):
        write(model, "a" * 10**4)
    assert made == [10**4 + GREEDY.max_tokens]


@pytest.mark.campaign(22)
@settings(deadline=None, max_examples=10)
@given(st.text(max_size=30) | st.text(st.characters(categories=["Cs", "Cc", "Co"]), max_size=9))
def test_any_characters_are_text(model, prompt: str) -> None:
    """Lone surrogates too, which no UTF-8 holds: they are read as U+FFFD."""
    write(model, prompt, SamplingConfig(max_tokens=1)).encode()


@pytest.mark.campaign(22)
@pytest.mark.control(22)
@pytest.mark.parametrize("kind", ["bytes", "bpe"])
def test_what_looks_like_a_special_token_is_text(kind: str) -> None:
    text = "a<|endoftext|>b"
    tokenizer = BytesTokenizer() if kind == "bytes" else train_bpe(["def a(): return b\n" * 30], 280)
    ids = tokenizer.encode(text).tolist()
    assert tokenizer.end_of_text not in ids
    assert tokenizer.decode(ids) == text
    if kind == "bpe":  # the control: the library's own way is to take it for one
        tokenizer._slow.encode_special_tokens = False
        assert tokenizer.end_of_text in tokenizer._slow.encode(text).ids


@pytest.mark.campaign(22)
def test_rows_of_a_batch_are_what_each_gives_alone(model) -> None:
    rows = torch.randint(256, (5, 9), generator=torch.Generator().manual_seed(0))
    together = torch.stack(list(generate_ids(model, rows, GREEDY, 257)), 1)
    for row, found in zip(rows, together, strict=True):
        assert torch.equal(torch.stack(list(generate_ids(model, row[None], GREEDY, 257)), 1)[0], found)
